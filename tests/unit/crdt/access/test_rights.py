"""Who may write where: given, passed on, ended and taken back, in whatever order it is heard of."""

from __future__ import annotations

import itertools
import math
import random
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

import pytest

from lattica.crdt.access.capability import (
    Capability,
    Level,
    Link,
    decode_capability,
    issue,
)
from lattica.crdt.access.revocation import Revocation, decode_revocation
from lattica.crdt.access.rights import Rights
from lattica.crdt.base.canonical import Plain, encode
from lattica.crdt.document import Document
from lattica.crdt.document.governance.rights import DocumentRights
from lattica.crdt.entries.chain import decode_chain, encode_chain
from lattica.crdt.entries.genesis import Genesis, Limits, Mode
from lattica.crdt.entries.header import Header, Kind
from lattica.crdt.keys.identities import identity_key, peer_of
from lattica.crdt.log.clock import HybridClock
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.sync import exchange, exchange_all

OWNER, ANNA, BERT, CARL = (Identity(bytes([number]) * 32) for number in range(1, 5))
LISTED = Genesis("list", (OWNER.public_key.data,), Mode.ALLOW_LIST)
CAPABLE = Genesis("capabilities", (OWNER.public_key.data,), Mode.CAPABILITY)


@pytest.fixture
def default() -> Genesis:
    return LISTED


def sync(*documents: Document) -> None:
    exchange_all(*documents)
    for document in documents[1:]:
        assert document.root == documents[0].root
        assert document.head_index.heads(b"", None) == documents[0].head_index.heads(b"", None)


def test_who_has_no_right_writes_nothing_and_who_gets_one_does(make):
    owner, anna = make(OWNER), make(ANNA)
    with pytest.raises(AccessDeniedError, match="no right to write"):
        anna.registers["a"] = 1
    with pytest.raises(AccessDeniedError):
        anna.grant(BERT.peer_id)
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    anna.registers["a"] = 1
    sync(owner, anna)
    assert owner.registers["a"] == 1
    assert [(each.peer, each.level) for each in owner.rights()] == [(ANNA.peer_id, Level.WRITE)]
    with pytest.raises(LocalProtocolError, match=r"Level\.WRITE.* not 'write'"):
        owner.grant(ANNA.peer_id, "write")


def test_rights_are_listed_anew_when_they_change_and_not_before(make):
    owner, anna = make(OWNER), make(ANNA)
    assert owner.rights() == ()
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    (right,) = listed = anna.rights()
    assert right.peer == ANNA.peer_id
    owner.registers["a"] = anna.registers["b"] = 1
    sync(owner, anna)
    assert anna.rights() is listed
    # By an entry, by one that takes a right back, and by a snapshot, with which a log begins anew.
    owner.grant(BERT.peer_id)
    sync(owner, anna)
    assert {each.peer for each in anna.rights()} == {ANNA.peer_id, BERT.peer_id}
    owner.revoke(ANNA.peer_id)
    sync(owner, anna)
    assert {each.peer: each.is_revoked for each in anna.rights()} == {
        ANNA.peer_id: True,
        BERT.peer_id: False,
    }
    owner.grant(CARL.peer_id)
    anna.receive_snapshot(owner.snapshot())
    assert {each.peer for each in anna.rights()} == {ANNA.peer_id, BERT.peer_id, CARL.peer_id}
    assert anna.rights() == owner.rights()


def test_an_entry_waits_for_the_right_that_it_is_written_by(make):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    anna.registers["a"] = 1
    (chain,) = anna.chains_of(anna.author, 0)
    assert bert.receive(chain, "peer").waiting == 2
    assert "a" not in bert.registers
    (grant,) = owner.chains_of(owner.author, 0)
    bert.receive(grant, "peer")
    assert bert.registers["a"] == 1
    assert bert.root == anna.root


def test_what_was_taken_back_counts_up_to_the_last_that_is_named(make, tmp_path):
    owner, anna, bert = make(OWNER), make(ANNA, path=tmp_path / "anna.sqlite3"), make(BERT)
    owner.grant(ANNA.peer_id)
    sync(owner, anna, bert)
    anna.registers["before"] = 1
    sync(owner, anna, bert)
    # What Anna writes now comes to Bert, who has not heard that her right was taken back.
    anna.registers["after"] = 2
    exchange(anna, bert)
    assert bert.registers["after"] == 2
    assert owner.revoke(ANNA.peer_id) == 1
    sync(owner, bert, anna)
    for document in (owner, bert, anna):
        assert dict(document.registers.items()) == {"before": 1}
    with pytest.raises(AccessDeniedError):
        anna.registers["again"] = 3
    # And so it is after a restart.
    anna.close()
    again = make(ANNA, path=tmp_path / "anna.sqlite3")
    assert dict(again.registers.items()) == {"before": 1}
    with pytest.raises(AccessDeniedError):
        again.registers["again"] = 3
    # With a right again she goes on, as another session: the numbers of what is out are taken.
    owner.grant(ANNA.peer_id)
    sync(owner, again)
    again.registers["again"] = 3
    sync(owner, again, bert)
    assert bert.registers["again"] == 3
    assert not list(bert.forks())


def test_an_entry_that_claims_to_be_older_than_the_revocation_counts_no_more(make, clock):
    owner, anna = make(OWNER), make(ANNA)
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    owner.revoke(ANNA.peer_id)
    clock.ms -= 500
    anna.registers["old"] = 1  # she has not heard of it
    sync(owner, anna)
    assert "old" not in owner.registers
    assert "old" not in anna.registers


def test_what_a_relay_has_left_without_a_signature_comes_back_with_it(make):
    """The revocation leaves an entry for which, at one replica, only what it takes away vouches."""
    owner, anna, bert, carl = make(OWNER), make(ANNA), make(BERT), make(CARL)
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    anna.registers["a"] = 1
    exchange(anna, owner)
    exchange(owner, carl)
    anna.registers["a"] = 2
    for chain in owner.chains_of(owner.author, 0):
        bert.receive(chain, "peer")
    (chain,) = anna.chains_of(anna.author, 0)
    entries = decode_chain(chain, LISTED.doc_id, anna.id_at)
    spoiled = [*(replace(each, signature=bytes(64)) for each in entries[:-1]), entries[-1]]
    bert.receive(encode_chain(spoiled, with_prev=True), "peer")
    assert bert.registers["a"] == 2
    owner.revoke(ANNA.peer_id)
    exchange(owner, bert)
    assert anna.author not in bert.heads()
    sync(owner, bert, carl, make(ANNA))
    assert bert.registers["a"] == 1


def test_a_right_ends_with_its_time_and_at_its_prefix(make, clock):
    owner, anna = make(OWNER), make(ANNA)
    owner.grant(ANNA.peer_id, prefix="anna/", lasts=60)
    sync(owner, anna)
    anna.registers["anna/a"] = 1
    with pytest.raises(AccessDeniedError, match="no right to write at 'other'"):
        anna.registers["other"] = 1
    clock.ms += 61_000
    with pytest.raises(AccessDeniedError):
        anna.registers["anna/b"] = 1
    sync(owner, anna)
    assert owner.registers["anna/a"] == 1
    assert owner.may_read(ANNA.peer_id) is False


@pytest.mark.parametrize(("entry_bytes", "sessions"), [(700, 30), (64 * 1024, 520)])
def test_a_right_is_taken_back_whatever_number_of_sessions_has_written_by_it(
    make, entry_bytes, sessions
):
    """A revocation that named more than 512 was none, and its owner was told that it was."""
    genesis = replace(LISTED, limits=Limits(entry_bytes, LISTED.limits.author_bytes))
    owner, anna = make(OWNER, genesis), make(ANNA, genesis)
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    for number in range(sessions):
        anna._replica._begin_session()
        anna.registers[f"r{number}"] = number
    exchange(owner, anna)
    anna.registers["late"] = 1
    assert owner.revoke(ANNA.peer_id) == 1
    assert all(each.is_revoked for each in owner.rights())
    sync(owner, anna)
    assert dict(owner.registers.items()) == {f"r{number}": number for number in range(sessions)}
    with pytest.raises(AccessDeniedError):
        anna.registers["later"] = 1


@pytest.mark.parametrize("lasts", [0, -1, math.nan, math.inf, 1e15])
def test_a_right_lasts_for_a_time_that_can_be_written(make, lasts):
    owner = make(OWNER)
    with pytest.raises(LocalProtocolError, match="lasts: a positive number of seconds up to"):
        owner.grant(ANNA.peer_id, lasts=lasts)
    owner.grant(ANNA.peer_id, lasts=100 * 365 * 24 * 3600)


def test_a_write_beyond_its_prefix_has_no_effect_anywhere(make, monkeypatch):
    owner, anna = make(OWNER), make(ANNA)
    owner.grant(ANNA.peer_id, prefix="anna/")
    sync(owner, anna)
    monkeypatch.setattr(DocumentRights, "check_names", lambda self, writes: None)
    anna.registers["other"] = 1
    anna.registers["anna/a"] = 1
    sync(owner, anna)
    assert dict(owner.registers.items()) == dict(anna.registers.items()) == {"anna/a": 1}
    # A wider right makes it count.
    owner.grant(ANNA.peer_id)
    sync(owner, anna)
    assert owner.registers["other"] == anna.registers["other"] == 1


def test_a_manager_passes_on_what_he_has_and_falls_with_all_of_it(make):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id, Level.MANAGE, prefix="team/", depth=1)
    sync(owner, anna, bert)
    with pytest.raises(LocalProtocolError, match="more than its issuer has"):
        anna.grant(BERT.peer_id)
    anna.grant(BERT.peer_id, prefix="team/bert/")
    sync(owner, anna, bert)
    bert.registers["team/bert/a"] = 1
    with pytest.raises(AccessDeniedError):
        bert.revoke(ANNA.peer_id)
    sync(owner, anna, bert)
    assert owner.registers["team/bert/a"] == 1
    owner.revoke(ANNA.peer_id)
    sync(owner, anna, bert)
    assert owner.registers["team/bert/a"] == 1
    with pytest.raises(AccessDeniedError):
        bert.registers["team/bert/b"] = 1
    assert all(each.is_revoked for each in owner.rights())


def test_a_capability_that_was_handed_over_is_enough(make):
    owner, anna, bert = make(OWNER, CAPABLE), make(ANNA, CAPABLE), make(BERT, CAPABLE)
    capability = owner.grant(ANNA.peer_id)
    with pytest.raises(LocalProtocolError, match="another peer"):
        bert.present(capability)
    anna.present(capability)
    anna.registers["a"] = 1  # neither has heard of the other
    exchange(anna, bert)
    assert bert.registers["a"] == 1
    assert bert.may_read(ANNA.peer_id, capability)
    assert not bert.may_read(CARL.peer_id, capability)
    sync(owner, anna, bert)
    owner.revoke(ANNA.peer_id)
    sync(owner, anna, bert)
    assert not bert.may_read(ANNA.peer_id, capability)
    assert bert.registers["a"] == 1


def test_open_documents_have_no_rights(make):
    document = make(ANNA, Genesis("open"))
    for call in (document.rights, lambda: document.grant(BERT.peer_id)):
        with pytest.raises(LocalProtocolError, match="everybody may write"):
            call()
    assert document.may_read(BERT.peer_id)


@pytest.mark.parametrize("seed", range(6))
def test_replicas_that_hear_it_in_any_order_agree(make, seed):
    rng = random.Random(seed)
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    everybody = [owner, anna, bert]
    subjects = {ANNA.peer_id: anna, BERT.peer_id: bert}
    for number in range(30):
        match rng.randrange(6):
            case 0:
                owner.grant(
                    rng.choice([*subjects]), rng.choice([Level.WRITE, Level.MANAGE]), depth=1
                )
            case 1:
                for peer in subjects:
                    if rng.random() < 0.5 and any(
                        each.peer == peer and not each.is_revoked for each in owner.rights()
                    ):
                        owner.revoke(peer)
            case 2:
                one, other = rng.sample(everybody, 2)
                exchange(one, other)
            case 3:
                with suppress(AccessDeniedError, LocalProtocolError):
                    anna.grant(BERT.peer_id)
            case _:
                document = rng.choice(everybody)
                with suppress(AccessDeniedError):
                    document.registers[f"{number % 3}"] = number
    for _ in range(4):
        for one, other in itertools.permutations(everybody, 2):
            exchange(one, other)
    late = make(CARL)
    chains = [chain for author in owner.heads() for chain in owner.chains_of(author, 0)]
    for _ in range(3):
        rng.shuffle(chains)
        for chain in chains:
            late.receive(chain, "peer")
    everybody.append(late)
    assert len({document.root for document in everybody}) == 1
    heads = [document.head_index.heads(b"", None) for document in everybody]
    assert all(each == heads[0] for each in heads)


# The bytes.


def _chain() -> Capability:
    first = issue(OWNER, LISTED.doc_id, ANNA.peer_id, Level.MANAGE, prefix="a", depth=2)
    second = issue(
        ANNA, LISTED.doc_id, BERT.peer_id, Level.MANAGE, parent=first, prefix="ab", depth=1
    )
    return issue(BERT, LISTED.doc_id, CARL.peer_id, Level.WRITE, parent=second, prefix="abc")


def _read(data: bytes) -> Capability:
    return decode_capability(data, LISTED.doc_id, LISTED.owners)


def test_capabilities_come_back_and_no_bit_of_them_can_be_another_one():
    capability = _chain()
    data = capability.encode()
    assert _read(data) == capability
    rng = random.Random(1)
    for _ in range(300):
        bit = rng.randrange(len(data) * 8)
        flipped = (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")
        with pytest.raises(RemoteProtocolError):
            _read(flipped)
    with pytest.raises(RemoteProtocolError, match="no owner"):
        decode_capability(data, LISTED.doc_id, ())
    with pytest.raises(RemoteProtocolError):
        decode_capability(data, CAPABLE.doc_id, LISTED.owners)


@pytest.mark.parametrize(
    "change",
    [
        {"level": Level.MANAGE},
        {"prefix": "b"},
        {"prefix": ""},
        {"depth": 1},
        {"issuer": OWNER.public_key.data},
        {"parent": None},
        {"expires": 2**60},
    ],
)
def test_no_link_gives_more_than_the_one_before(change):
    signers = {each.public_key.data: each for each in (OWNER, ANNA, BERT)}
    parent = issue(OWNER, LISTED.doc_id, ANNA.peer_id, Level.WRITE, prefix="a", depth=1)
    manage = issue(OWNER, LISTED.doc_id, ANNA.peer_id, Level.MANAGE, prefix="a", depth=1)
    for before in (parent, manage):
        link = Link(
            LISTED.doc_id,
            before.right.id,
            ANNA.public_key.data,
            BERT.public_key.data,
            Level.WRITE,
            "a",
        )
        changed = link if before is parent else replace(link, **change)
        if before is manage and change == {"level": Level.MANAGE}:
            continue  # that he may
        signature = signers[changed.issuer].sign(b"lattica/crdt/capability/v1\0" + changed.encoded)
        forged = Capability((*before.links, changed), (*before.signatures, signature))
        with pytest.raises(RemoteProtocolError):
            _read(forged.encode())


def test_revocations_come_back_and_are_checked():
    last = ((b"a" * 32, 5, bytes(32)), (b"b" * 32, 0, bytes(32)))
    revocation = Revocation(bytes(32), last)
    assert decode_revocation(revocation.encode()) == revocation
    wrongs: tuple[Plain, ...] = (
        [bytes(31), []],
        [bytes(32), [[b"a" * 32, True, bytes(32)]]],
        [bytes(32), [[*last[1]], [*last[0]]]],
        [bytes(32), [[*last[0]], [*last[0]]]],
    )
    for wrong in wrongs:
        with pytest.raises(RemoteProtocolError):
            decode_revocation(encode(wrong))


def test_identities_are_peers():
    assert identity_key(ANNA.peer_id) == identity_key(str(ANNA.peer_id)) == ANNA.public_key.data
    assert peer_of(ANNA.public_key.data) == ANNA.peer_id
    with pytest.raises(LocalProtocolError):
        identity_key(bytes(32))


@pytest.mark.parametrize("mode", [LISTED, CAPABLE])
@pytest.mark.parametrize(
    "write",
    [
        lambda document: document.registers.__setitem__("other", 1),
        lambda document: document.counter("other").add(),
        lambda document: document.set("other").add(1),
        lambda document: document.claims("other").claim(1, 10),
        lambda document: document.text("other").append("a"),
        lambda document: document.list("other").append(1),
        lambda document: document.write(RegisterWrite("anna/a", 1), RegisterWrite("other", 1)),
    ],
)
def test_what_would_take_no_effect_by_a_capability_is_refused_where_it_is_written(
    make, mode, write
):
    owner, anna = make(OWNER, mode), make(ANNA, mode)
    capability = owner.grant(ANNA.peer_id, prefix="anna/")
    if mode is LISTED:
        sync(owner, anna)
    anna.present(capability)
    for _ in range(2):  # by a session that begins, and by one that has begun
        with pytest.raises(AccessDeniedError, match="'other'"):
            write(anna)
        assert list(anna.registers) == []
        anna.counter("anna/n").add()
    sync(owner, anna)
    assert owner.counter("anna/n").value == 2


def test_a_second_capability_counts_beside_the_first(make):
    owner, anna = make(OWNER, CAPABLE), make(ANNA, CAPABLE)
    one, two = (owner.grant(ANNA.peer_id, prefix=prefix) for prefix in ("a/", "b/"))
    anna.present(one)
    anna.registers["a/1"] = 1
    with pytest.raises(AccessDeniedError):
        anna.registers["b/1"] = 1
    anna.present(two)
    anna.registers["b/1"] = anna.registers["a/2"] = 1
    author = anna.author
    anna.present(one)  # which is in the log: no session begins for it
    anna.registers["a/3"] = 1
    assert anna.author == author
    sync(owner, anna)
    assert list(owner.registers) == ["a/1", "a/2", "a/3", "b/1"]


def test_a_capability_alone_does_not_count_where_there_is_a_list(make):
    owner, anna = make(OWNER), make(ANNA)
    anna.present(owner.grant(ANNA.peer_id))
    with pytest.raises(AccessDeniedError):
        anna.registers["a"] = 1


def test_a_right_that_ends_before_the_time_of_what_is_written_is_refused(make, clock):
    """The time of an entry is after all that was seen, be the clock here behind."""
    owner, anna = make(OWNER, CAPABLE), make(ANNA, CAPABLE)
    anna.present(owner.grant(ANNA.peer_id, lasts=30))
    clock.ms += 50_000
    owner.registers["a"] = 1
    sync(owner, anna)
    clock.ms -= 50_000
    with pytest.raises(AccessDeniedError):
        anna.registers["b"] = 1


def test_what_was_withdrawn_counts_again_by_another_right_wherever_it_is_kept(make, tmp_path):
    """Nobody has it as something that it sends: it is read from where it is kept."""
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT, path=tmp_path / "bert.sqlite3")
    owner.grant(ANNA.peer_id)
    sync(owner, anna, bert)
    anna.registers["before"] = 1
    sync(owner, anna, bert)
    anna.registers["after"] = 2
    anna.counter("steps").add(3)
    exchange(anna, bert)
    owner.revoke(ANNA.peer_id)
    sync(owner, bert, anna)
    assert dict(bert.registers.items()) == {"before": 1}
    bert.close()
    bert = make(BERT, path=tmp_path / "bert.sqlite3")
    owner.grant(ANNA.peer_id)
    exchange(owner, bert)
    assert dict(bert.registers.items()) == {"after": 2, "before": 1}
    # She has not heard of it, nor has the owner what she wrote: they have it from here.
    exchange(bert, owner)
    assert owner.counter("steps").value == 3
    sync(owner, anna, bert)
    bert.close()
    again = make(BERT, path=tmp_path / "bert.sqlite3")
    assert again.root == owner.root


def test_a_right_that_covers_a_part_of_what_was_withdrawn(make, clock):
    owner, anna, bert = make(OWNER), make(ANNA), make(BERT)
    owner.grant(ANNA.peer_id)
    sync(owner, anna, bert)
    owner.revoke(ANNA.peer_id)
    anna.registers["a"] = 1
    clock.ms += 100_000
    anna.registers["b"] = 2
    exchange(anna, bert)
    exchange(owner, bert)
    assert not list(bert.registers)
    clock.ms -= 99_000
    owner.grant(ANNA.peer_id, lasts=60)
    clock.ms += 99_000
    sync(owner, anna, bert)
    assert dict(bert.registers.items()) == {"a": 1}
    owner.grant(ANNA.peer_id)
    sync(owner, anna, bert)
    assert dict(bert.registers.items()) == {"a": 1, "b": 2}


def test_a_right_holds_as_long_as_one_entry_has_it():
    capability = issue(OWNER, CAPABLE.doc_id, ANNA.peer_id, Level.WRITE)
    rights, anna = Rights(CAPABLE), ANNA.public_key.data
    one, other = (
        Header(CAPABLE.doc_id, key, 0, CAPABLE.doc_id, (), 1, int(Kind.SESSION), bytes(32), 0)
        for key in (bytes(32), b"\1" * 32)
    )
    for header in (one, other, one):
        rights.learn_certificate(header, anna, capability.encode())
    assert rights.knows(capability.right.id)
    assert not rights.forget(one.id)
    assert not rights.forget(one.id)
    assert rights.may_read(anna, 0)
    assert rights.held() == ((capability, True),)
    assert rights.forget(other.id)
    assert not rights.may_read(anna, 0)
    assert rights.held() == ()
    assert not rights.knows(capability.right.id)


class _Unwalked(dict[bytes, Capability]):
    def values(self) -> NoReturn:
        raise AssertionError("all rights are gone through for each")


def test_who_writes_down_his_right_again_and_again_costs_no_more_for_each(make):
    """All rights were gone through for each, of which one message has thousands."""
    owner, anna, reader = (make(each, CAPABLE) for each in (OWNER, ANNA, BERT))
    capability = owner.grant(ANNA.peer_id)
    owner.grant(BERT.peer_id, Level.READ)
    exchange_all(owner, anna, reader)
    for document in (owner, anna, reader):
        rights = document._replica.log.rights
        assert rights is not None
        rights._granted = _Unwalked(rights._granted)
    anna._resolve(anna._replica.write([(Kind.GRANT, capability)] * 300, anna.now_ms))
    exchange_all(owner, anna, reader)
    assert reader.heads() == anna.heads()
    assert len(reader.rights()) == 2
    for document in (owner, anna, reader):
        rights = document._replica.log.rights
        rights._granted = dict(rights._granted)  # once for each that is taken back they are
    owner.revoke(ANNA.peer_id)
    exchange_all(owner, anna, reader)
    with pytest.raises(AccessDeniedError):
        anna.registers["a"] = 1


@pytest.mark.parametrize("genesis", [LISTED, CAPABLE])
def test_who_lost_his_right_has_none_by_another_session_or_by_one_he_gave_it_to(make, genesis):
    """Rights in a circle fall with the first of them, whatever time a new session claims."""
    owner, anna, bert = (make(each, genesis) for each in (OWNER, ANNA, BERT))
    owner.grant(ANNA.peer_id, Level.MANAGE, depth=3)
    exchange_all(owner, anna)
    anna.grant(BERT.peer_id, Level.MANAGE, depth=2)
    exchange_all(owner, anna, bert)
    capability = bert.grant(ANNA.peer_id, Level.MANAGE, depth=1)
    anna.registers["a"] = 1
    exchange_all(owner, anna, bert)
    anna.present(capability)
    owner.revoke(ANNA.peer_id)
    # Neither has heard of it, and one goes on as somebody else whose clock is behind.
    anna._replica._begin_session()
    anna._replica.log.clock, anna._wall = HybridClock(), lambda: 1
    anna.registers["a"] = 2
    bert.registers["b"] = 3
    for writer in (anna, bert):
        (refusal,) = [
            each
            for chain in writer.chains_since(owner.heads())
            for each in owner.receive(chain, "peer").refusals
        ]
        assert refusal.is_final
    assert dict(owner.registers.items()) == {"a": 1}
