"""What an owner calls final: which entries that are, and what it is worth when rights are taken
back, owners contradict themselves and others are appointed.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from lattica.crdt.access.capability import Level, issue
from lattica.crdt.access.finality import Finality, encode_finality
from lattica.crdt.access.revocation import Revocation
from lattica.crdt.document import Document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Genesis, Mode, Recovery
from lattica.crdt.entries.header import NOT_SIGNED, Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import AccessDeniedError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.documents import Clock, Make
from tests.support.crdt.sync import exchange, exchange_all

OWNER, ANNA, BERT, CARL = (Identity(bytes([number]) * 32) for number in range(1, 5))
SECOND, THIRD, KEY = (Identity(bytes([number]) * 32) for number in range(9, 12))
OWNERS = tuple(sorted((OWNER.public_key.data, SECOND.public_key.data)))
LISTED = Genesis("list", OWNERS, Mode.ALLOW_LIST)
RECOVERED = Genesis(
    "recovered", OWNERS, Mode.ALLOW_LIST, recovery=Recovery(1, (KEY.public_key.data,))
)


@pytest.fixture
def default() -> Genesis:
    return LISTED


def call_final(owner: Document, *last: tuple[bytes, int, bytes]) -> None:
    """Past the checks of an honest store."""
    payload = encode_finality(tuple(sorted(last)))
    owner._resolve(owner._replica.write([(Kind.FINAL, payload)], owner.now_ms))


def newest(document: Document, of: Document) -> tuple[bytes, int, bytes]:
    length, entry_id = document.heads()[of.author]
    return of.author, length - 1, entry_id


def same(*documents: Document) -> None:
    """They have the same, and see the same."""
    for document in documents[1:]:
        assert document.heads() == documents[0].heads()
        assert document.root == documents[0].root


# Which entries are final.


def test_an_entry_that_is_not_there_makes_nothing_final(make):
    """The right of that session could not be taken back by anybody."""
    owner, second, anna, bert = (make(each) for each in (OWNER, SECOND, ANNA, BERT))
    owner.grant(ANNA.peer_id)
    exchange_all(owner, second, anna, bert)
    anna.registers["a"] = 1
    exchange_all(owner, second, anna, bert)
    call_final(second, (anna.author, 2**32 - 1, bytes(32)))
    call_final(second, (anna.author, 2, bytes(32)))
    exchange_all(owner, second, bert)
    owner.revoke(ANNA.peer_id)
    for number in range(3):
        anna.registers["a"] = f"after the revocation {number}"
    exchange_all(owner, second, anna, bert)
    same(owner, second, anna, bert)
    assert bert.registers["a"] == 1
    with pytest.raises(AccessDeniedError):
        anna.registers["a"] = "more"


def all_entries(document: Document, author: bytes) -> list[Entry]:
    """Those that were withdrawn, too."""
    database = document._replica.database
    admitted = itertools.chain(*database.batches_by_time({author: 2**20}))
    return [*admitted, *database.withdrawn_entries()]


def test_the_order_in_which_it_is_heard_makes_no_difference(make):
    owner, second, anna = (make(each) for each in (OWNER, SECOND, ANNA))
    owner.grant(ANNA.peer_id)
    exchange_all(owner, second, anna)
    second.revoke(ANNA.peer_id)  # nothing of hers has come there
    for number in range(5):
        anna.registers["a"] = number
    exchange(owner, anna)
    call_final(owner, newest(owner, anna))
    author = anna.author
    for number in range(5):
        anna.registers["b"] = number  # nobody calls these final
    exchange_all(owner, second, anna)
    same(owner, second, anna)
    assert dict(owner.registers.items()) == {"a": 4}
    entries = all_entries(anna, author)
    assert len(entries) == 11
    pieces = [encode_chain(entries[at : at + 4], with_prev=True) for at in (0, 4, 8)]
    said = [b"".join(document.chains_of(document.author, 0)) for document in (owner, second)]
    for number, order in enumerate(itertools.permutations([*pieces, *said])):
        if number % 5:
            continue  # it takes long enough
        late = make(BERT)
        for chain in order:
            late.receive(chain, "peer")
        exchange(late, owner)
        exchange(late, owner)
        same(owner, late)
        late.close()


def test_a_long_chain_that_is_final_comes_in_many_messages(make, tmp_path):
    owner, second, anna = (make(each) for each in (OWNER, SECOND, ANNA))
    owner.grant(ANNA.peer_id)
    exchange_all(owner, second, anna)
    second.revoke(ANNA.peer_id)
    for start in range(0, 1200, 400):
        anna.write(*[RegisterWrite(f"{at}", at) for at in range(start, start + 400)])
    exchange(owner, anna)
    call_final(owner, newest(owner, anna))
    chains = [*owner.chains_of(anna.author, 0)]
    assert len(chains) == 2
    exchange_all(owner, second)
    path = tmp_path / "late.sqlite3"
    late = make(BERT, path=path)
    for document in (owner, second):
        for chain in document.chains_of(document.author, 0):
            late.receive(chain, "peer")
    # Each time one more is known to lead to what is called final.
    for _ in chains:
        assert late.registers.get("7") is None
        exchange(late, owner)
    same(owner, late)
    late.close()
    late = make(BERT, path=path)
    same(owner, late)
    # Or in a snapshot, where there is nothing and where it is known what was taken back.
    one, other = make(CARL), make(CARL)
    for document in (owner, second):
        for chain in document.chains_of(document.author, 0):
            other.receive(chain, "peer")
    for document in (one, other):
        document.receive_snapshot(owner.snapshot(), [OWNER.peer_id])
        same(owner, document)


def chain_of(
    identity: Identity,
    clock: Clock,
    *items: tuple[Kind, bytes],
    session: SessionKey | None = None,
) -> list[Entry]:
    """A session's, behind its certificate."""
    session, doc_id, now = session or SessionKey.generate(), LISTED.doc_id, clock() << 16
    certificate = session.certificate(identity, doc_id).encode()
    entries = [sign_entry(session, doc_id, 0, doc_id, now, Kind.SESSION, certificate)]
    for seq, (kind, payload) in enumerate(items, 1):
        before = entries[-1].id
        entries.append(sign_entry(session, doc_id, seq, before, now + seq, kind, payload))
    return entries


WRITE, OTHER = ((Kind.REGISTER, RegisterWrite("x", number).encode()) for number in range(2))


@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_called_final_goes_with_what_vouches_for_it(make, clock, is_first):
    """And with it what comes before it, which counts as it does."""
    owner, bert = make(OWNER), make(BERT)
    owner.grant(ANNA.peer_id)
    exchange_all(owner, bert)
    entries = chain_of(ANNA, clock, *[WRITE] * 5)
    author = entries[0].header.author
    entries[3] = Entry(entries[3].header, NOT_SIGNED, entries[3].payload)
    chain = encode_chain(entries, with_prev=True)
    if is_first:
        bert.receive(chain, "peer")
        assert bert.heads()[author][0] == 6
    call_final(owner, (author, 3, entries[3].id))
    owner.revoke(ANNA.peer_id)
    exchange_all(owner, bert)
    bert.receive(chain, "peer")
    assert author not in bert.heads()
    call_final(owner, (author, 4, entries[4].id))
    exchange_all(owner, bert)
    bert.receive(chain, "peer")
    assert bert.heads()[author] == (5, entries[4].id)


def test_what_is_called_final_ends_with_a_fork_before_it(make, clock):
    """Who hears of the fork first does not know what was to come behind it."""
    owner, second, bert = make(OWNER), make(SECOND), make(BERT)
    owner.grant(ANNA.peer_id)
    exchange_all(owner, second, bert)
    second.revoke(ANNA.peer_id)
    session = SessionKey.generate()
    entries = chain_of(ANNA, clock, *[WRITE] * 6, session=session)
    author = session.author
    clock.ms -= 1  # so that it begins with the same
    side = chain_of(ANNA, clock, *[WRITE] * 3, OTHER, session=session)
    assert [each.id for each in side[:4]] == [each.id for each in entries[:4]]
    owner.receive(encode_chain(entries, with_prev=True), "peer")
    for seq in (2, 5):
        call_final(owner, (author, seq, entries[seq].id))
    exchange_all(owner, second)
    assert owner.heads()[author][0] == second.heads()[author][0] == 6
    owner.receive(encode_chain(side, with_prev=True), "peer")
    [fork] = owner.forks()
    bert.receive_fork(fork)
    exchange_all(owner, second, bert)
    same(owner, second, bert)
    assert bert.heads()[author] == (3, entries[2].id)


def test_lengths():
    ids: dict[bytes, Sequence[bytes]] = {b"a": [b"%d" % number for number in range(5)]}
    finality = Finality(lambda author: ids.get(author, ()))
    assert finality.learn(b"one", ((b"a", 1, b"1"), (b"b", 0, b"x")))
    assert finality.learn(b"two", ((b"a", 3, b"other"),))
    assert finality.learn(b"three", ((b"a", 7, b"7"),))
    assert finality.learn(b"four", ((b"a", 1, b"1"),)) == ()
    assert (finality.length(b"a"), finality.length(b"b")) == (2, 0)
    ids[b"a"] = [*ids[b"a"], b"5", b"6"]
    assert finality.length(b"a") == 2
    assert finality.covers(b"a", 7, b"7")  # the next one
    assert not finality.covers(b"a", 6, b"6")
    ids[b"a"] = [*ids[b"a"], b"7"]
    assert finality.length(b"a") == 8
    assert finality.covers(b"a", 6, b"6")
    assert not finality.covers(b"a", 6, b"another")
    ids[b"a"] = ids[b"a"][:3]
    assert finality.length(b"a") == 2
    assert not finality.forget(b"one") or finality.length(b"b") == 0
    assert finality.length(b"a") == 2
    assert finality.forget(b"four")
    assert finality.length(b"a") == 0
    assert finality.named_since(b"a", 4) == [(7, b"7")]


# Whoever owns the document.


def second_owner(
    make: Make, folder: Path, owner: Document, *others: Document, other_with: Sequence[Document]
) -> Document:
    """In another store, when a session of his has gone on twice: the owner has heard one part, and
    some the other one.
    """
    path = folder / "forks.sqlite3"
    document = make(SECOND, RECOVERED, path=path)
    exchange_all(owner, document, *others)
    document.registers["second"] = 0
    exchange_all(owner, document, *others)
    session = document._replica._session
    document.close()
    aside = path.with_name(f"{path.name}-aside")
    shutil.copyfile(path, aside)
    one = make(SECOND, RECOVERED, path=path)
    one.registers["one"] = 1
    exchange_all(one, owner)
    other = make(SECOND, RECOVERED, path=aside)
    other._replica._session = session
    other.registers["other"] = 1
    for each in other_with:
        exchange_all(other, each)
    return make(SECOND, RECOVERED, path=folder / "second.sqlite3")


def test_what_is_final_of_an_owner_counts_whoever_is_appointed_in_his_place(make, tmp_path):
    """By somebody who has not seen it. It was without effect, and what it had replaced was gone
    where it was pruned.
    """
    owner, anna, carl = (make(each, RECOVERED) for each in (OWNER, ANNA, CARL))
    for each in (ANNA, CARL):
        owner.grant(each.peer_id)
    second = second_owner(make, tmp_path, owner, anna, carl, other_with=[owner, carl])
    exchange_all(owner, second, anna)
    anna.registers["a"] = "of anna"
    anna.registers["last"] = 1
    exchange_all(owner, second, anna)
    second.registers["a"] = "of the second owner"
    second.registers["a"] = "again"
    second.registers["last"] = 2
    exchange_all(owner, second, anna)
    assert owner.prune(grace=0)
    exchange_all(owner, anna)
    appointed = carl.appoint(THIRD.peer_id, by=KEY)  # he has not seen any of this
    third = make(THIRD, RECOVERED)
    exchange_all(carl, third)
    third.present(appointed)
    third.registers["t"] = 1
    exchange_all(owner, anna, carl, third)
    assert [each.peer for each in anna.owners()] == [each.peer for each in third.owners()]
    same(owner, anna)
    assert owner.registers["a"] == anna.registers["a"] == "again"
    anna.receive_snapshot(owner.snapshot(), [OWNER.peer_id])
    same(owner, anna)


def test_what_is_final_counts_though_he_who_gave_the_right_has_contradicted_himself(make, tmp_path):
    owner, anna, bert = (make(each, RECOVERED) for each in (OWNER, ANNA, BERT))
    owner.grant(BERT.peer_id)
    aside = make(CARL, RECOVERED)  # who has heard of the other part, and tells nobody
    second = second_owner(make, tmp_path, owner, anna, bert, other_with=[aside])
    exchange_all(owner, second, bert)
    bert.registers["a"] = "of bert"
    bert.registers["last"] = 1
    second.grant(ANNA.peer_id)
    exchange_all(owner, second, anna, bert)
    anna.registers["a"] = "of anna"
    anna.registers["a"] = "again"
    anna.registers["last"] = 2
    exchange_all(owner, anna, bert)
    assert owner.prune(grace=0) == 2
    exchange_all(owner, anna, bert)
    assert bert.prune(grace=0) == 2
    exchange_all(owner, anna, bert, aside)
    assert [each.is_frozen for each in owner.owners()].count(True) == 1
    same(owner, anna, bert)
    assert bert.registers["a"] == "again"
    with pytest.raises(AccessDeniedError):
        anna.registers["a"] = "what nobody has called final"


def test_a_right_that_an_owner_has_given_in_vain_is_not_called_final(make, tmp_path):
    """It would have what was written by it take effect."""
    owner, anna, bert = (make(each, RECOVERED) for each in (OWNER, ANNA, BERT))
    owner.grant(ANNA.peer_id, prefix="mine/")
    # With the key of somebody who may give nothing any more, past the checks of an honest store.
    second = second_owner(make, tmp_path, owner, anna, bert, other_with=[owner, bert])
    exchange_all(owner, second, anna)
    second.registers["s"] = 1
    before = newest(second, second)
    given = issue(SECOND, RECOVERED.doc_id, ANNA.peer_id, Level.WRITE).encode()
    second._resolve(second._replica.write([(Kind.GRANT, given)], second.now_ms))
    second.registers["s"] = 2
    anna.registers["mine/a"] = 1
    write = RegisterWrite("other", 1).encode()
    anna._resolve(anna._replica.write([(Kind.REGISTER, write)], anna.now_ms))
    exchange_all(owner, second, anna)
    assert "other" not in owner.registers
    owner.prune(grace=0)
    rights = owner._replica.log.rights
    assert rights.finality.length(anna.author) == owner.heads()[anna.author][0]
    assert rights.finality.length(second.author) == before[1] + 1
    assert "other" not in owner.registers


def test_what_is_final_by_an_unsigned_entry_takes_a_right_that_does_not_come_of_it(make):
    """Who vouched for it wrote by a right that was final because of it, where that was there before
    another one was taken back.
    """
    genesis = Genesis("capabilities", OWNERS, Mode.CAPABILITY)
    owner, before, after = (make(each, genesis) for each in (OWNER, BERT, CARL))
    session, hers = SessionKey(bytes(32)), issue(SECOND, genesis.doc_id, ANNA.peer_id, Level.WRITE)
    entries: list[Entry] = []
    for kind, payload in (
        (Kind.SESSION, session.certificate(ANNA, genesis.doc_id).encode()),
        (Kind.GRANT, hers.encode()),
        (Kind.REGISTER, RegisterWrite("a", 1).encode()),
        (Kind.REGISTER, RegisterWrite("a", 2).encode()),
    ):
        prev = entries[-1].id if entries else genesis.doc_id
        hlc = (owner.now_ms + len(entries)) << 16
        entries.append(sign_entry(session, genesis.doc_id, len(entries), prev, hlc, kind, payload))
    named = entries[2]
    unsigned = Entry(named.header, NOT_SIGNED, named.payload)
    chain = encode_chain([*entries[:2], unsigned, entries[3]], with_prev=True)
    owner.grant(ANNA.peer_id)
    exchange(owner, before)
    before.receive(chain, "anna")
    assert before.registers["a"] == 2
    call_final(owner, (session.author, 2, named.id))
    owner.revoke(ANNA.peer_id)
    exchange(owner, before)
    exchange(owner, after)
    after.receive(chain, "anna")
    exchange_all(before, after)
    same(before, after)
    assert "a" not in before.registers
    after.receive(encode_chain(entries[:3], with_prev=True), "anna")
    exchange_all(before, after)
    same(before, after)
    assert before.registers["a"] == 2


# What it costs.


FINAL = Kind.FINAL, encode_finality(((bytes(32), 0, bytes(32)),))
REVOKE = Kind.REVOKE, Revocation(bytes(32)).encode()


@pytest.mark.parametrize("said", [FINAL, REVOKE])
def test_what_an_owner_says_again_and_again_is_forgotten_at_once(make, clock, monkeypatch, said):
    """A fork takes away thousands of such entries in one turn: for each all others were gone
    through.
    """
    second = make(SECOND)
    second.registers["a"] = 1
    session = SessionKey.generate()
    entries = chain_of(OWNER, clock, *[said] * 40, session=session)
    second.receive(encode_chain(entries, with_prev=True), "peer")
    rights = second._replica.log.rights
    assert len(rights._revoked) + len(rights.finality._said) == 40
    monkeypatch.setattr(rights, "_revoked", _Unwalked(rights._revoked))
    monkeypatch.setattr(rights.finality, "_said", _Unwalked(rights.finality._said))
    clock.ms -= 1  # so that they begin with the same
    other = chain_of(OWNER, clock, WRITE, session=session)
    second.receive(encode_chain(other, with_prev=True), "peer")
    assert len([*second.forks()]) == 1
    assert not rights._revoked
    assert not rights.finality._said


class _Unwalked(dict[bytes, object]):
    def values(self):
        raise AssertionError("all that was said is gone through for each")


def test_no_signature_is_verified_for_what_says_nothing(make, clock, monkeypatch):
    owner = make(OWNER)
    owner.grant(ANNA.peer_id)
    kinds = [Kind.GRANT, Kind.REVOKE, Kind.FINAL] * 10
    entries = chain_of(ANNA, clock, *[(kind, b"\xc0") for kind in kinds])
    verified: list[int] = []
    is_signed = Entry.is_signed

    def counted(entry: Entry) -> bool:
        verified.append(entry.header.seq)
        return is_signed(entry)

    monkeypatch.setattr(Entry, "is_signed", counted)
    owner.receive(encode_chain(entries, with_prev=True), "peer")
    assert owner.heads()[entries[0].header.author][0] == 31
    assert {*verified} <= {0, 30}


def test_what_says_nothing_new_leaves_the_state_as_it_is(make):
    owner, second, anna, bert = (make(each) for each in (OWNER, SECOND, ANNA, BERT))
    for each in (ANNA, BERT):
        owner.grant(each.peer_id)
    exchange_all(owner, second, anna, bert)
    anna.registers["a"] = 1
    bert.registers["b"] = 1
    exchange_all(owner, second, anna, bert)
    of_anna, of_bert = newest(owner, anna), newest(owner, bert)
    owner.revoke(ANNA.peer_id)
    exchange_all(owner, second)

    def is_resolved_anew() -> bool:
        assert second.root
        exchange(owner, second)
        return second._resolved.is_stale

    for last in (of_bert, of_anna, newest(owner, owner), (anna.author, 2**32 - 1, bytes(32))):
        call_final(owner, last)
        assert not is_resolved_anew()
    anna.registers["a"] = "nobody but one has heard of it"
    exchange(anna, bert)
    bert.registers["b"] = 2
    exchange_all(owner, second, bert)
    assert second.registers["b"] == 2
