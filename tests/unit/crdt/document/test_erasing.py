"""Payloads that are erased go everywhere, and the state stays what it is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lattica.crdt.access.capability import Level
from lattica.crdt.base.canonical import Plain, encode
from lattica.crdt.document import Document, LogEntry
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.erasure import (
    MAX_SHOWN,
    MAX_TARGETS,
    Erasure,
    Shown,
    target_of,
)
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry, Header, Kind
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.log.erasure.erasures import Erasures
from lattica.crdt.log.feed import Feed
from lattica.crdt.types.payloads import RegisterWrite
from lattica.errors import AccessDeniedError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START, Eraser, Writer
from tests.support.crdt.documents import Make
from tests.support.crdt.sync import exchange, exchange_all, take

ANNA, BERT, CARL = (Identity(bytes([number + 1]) * 32) for number in range(3))
SECRET = "an unlikely sequence of letters " * 200


def written(document: Document, name: str, by: Identity | None = None) -> list[LogEntry]:
    """What was written at a name, the earliest first."""
    peer = by.peer_id if by is not None else None
    return [each for each in document.entries() if each.name == name and peer in (None, each.peer)]


def files_with(folder: Path, text: str) -> list[str]:
    """The files of documents, journals too, in which something is found."""
    return [each.name for each in folder.iterdir() if text.encode()[:64] in each.read_bytes()]


def checked(*documents: Document) -> None:
    for each in documents:
        each.close()
        assert check_document(each._replica.database.path).problems == []


def test_what_is_erased_goes_from_all_files_and_the_state_stays(make: Make, tmp_path: Path):
    anna, bert = make(ANNA), make(BERT)
    anna.registers["a"] = SECRET
    # The pages of the file are parted and merged while it is there.
    write_all(anna, [f"n/{number:03}" for number in range(300)])
    exchange(anna, bert)
    anna.registers["a"] = "public"
    exchange(anna, bert)
    root = bert.root
    first = written(anna, "a")[0]
    assert files_with(tmp_path, SECRET)
    assert anna.erase(first) == 1
    assert anna.erase(first) == 0
    exchange(anna, bert)
    assert anna.root == bert.root == root
    assert not files_with(tmp_path, SECRET)
    assert [each.is_erased for each in bert.entries() if each.id == first.id] == [True]
    by_log, by_snapshot = make(CARL), make(CARL)
    exchange(by_log, bert)
    by_snapshot.receive_snapshot(anna.snapshot(), [ANNA.public_key.data])
    assert by_log.heads() == by_snapshot.heads() == anna.heads()
    assert by_log.root == by_snapshot.root == root
    for each in (anna, bert):
        assert each.prune(0)
        assert each.root == root
    checked(anna, bert, by_log, by_snapshot)


def test_what_was_replaced_by_what_is_erased_does_not_come_back(make: Make):
    anna, bert, carl = make(ANNA), make(BERT), make(CARL)
    for each in (anna, bert, carl, bert):
        each.registers["a"] = f"{each.now_ms}"
        each.set("s").add("x") if "x" not in each.set("s") else each.set("s").discard("x")
        exchange_all(anna, bert, carl)
    roots = {each.root for each in (anna, bert, carl)}
    for document, identity in ((carl, CARL), (bert, BERT)):
        for name in ("a", "s"):
            document.erase(written(document, name, identity)[0])
    exchange_all(anna, bert, carl)
    fresh = make(ANNA)
    exchange(fresh, carl)
    assert {each.root for each in (anna, bert, carl, fresh)} == roots
    path = bert._replica.database.path
    checked(anna, bert, carl, fresh)
    assert make(BERT, path=path).root in roots


def test_other_writes_of_the_same_name_are_other_places(make: Make):
    """One session's own writes that none of its later ones names as replaced."""
    anna, bert = make(ANNA), make(BERT)
    anna.write(RegisterWrite("a", 1))
    anna.counter("a").add(1)
    anna.write(RegisterWrite("a", 2))
    exchange(bert, anna)
    bert.registers["a"] = 3
    exchange(bert, anna)
    root, last = anna.root, written(anna, "a", ANNA)[-1]
    assert anna.erase(last) == 1
    fresh = make(CARL)
    exchange_all(anna, bert, fresh)
    assert {each.root for each in (anna, bert, fresh)} == {root}
    assert len(fresh.registers.conflicts("a")) == 1


def test_nothing_is_left_in_the_journal_while_entries_are_gone_through(make: Make, tmp_path: Path):
    anna = make(ANNA)
    for value in (SECRET, "public"):
        anna.registers["a"] = value
    entries = anna.entries()
    next(entries)
    anna.erase(written(anna, "a")[0])
    assert files_with(tmp_path, SECRET)
    entries.close()  # type: ignore[attr-defined]
    anna.advance()
    assert not files_with(tmp_path, SECRET)


def test_what_is_replaced_by_an_erasure_alone_leaves_no_place(make: Make):
    """The state is the same, whether what is not there was erased or replaced."""
    eraser = Eraser(b"a")
    chain = eraser.chain(2)
    (first, last), nowhere = chain, (eraser.author, 7, bytes(32))
    replacing = eraser.erasing(last, nowhere, replaced=(last.id,))
    erasing = eraser.erasing(replacing, target_of(last.header))
    one, other = make(ANNA), make(BERT)
    take(one, first, last, replacing)
    take(other, first, last, replacing, erasing)
    assert "key" not in one.registers
    assert one.root == other.root
    take(one, erasing)
    assert one.root == other.root


def test_counters_and_claims_lose_what_was_topped(make: Make):
    anna, bert = make(ANNA), make(BERT)
    for _ in range(3):
        anna.counter("c").add(2)
        anna.counter("c").add(-1)
    for _ in range(3):
        anna.claims("q").claim("job", 0.001)
    root = anna.root
    for name in ("c", "q"):
        *earlier, last = written(anna, name)
        with pytest.raises(LocalProtocolError, match="the same session"):
            anna.erase(last)
        # The last increase and the last decrease count.
        assert anna.erase(*earlier[:-1]) == len(earlier[:-1])
    exchange(bert, anna)
    assert bert.root == anna.root == root
    assert bert.counter("c").value == 3


def test_what_is_needed_or_cannot_be_erased_is_named(make: Make):
    anna, bert = make(ANNA), make(BERT)
    anna.registers["a"] = 1
    anna.set("s").add("x")
    anna.set("s").discard("x")
    anna.text("t").append("text")
    exchange(anna, bert)
    before = anna.heads()
    *_, last = written(anna, "s")
    for entry, reason in (
        (written(anna, "a")[0], "the value of the register 'a': write over it first"),
        (last, "whether 'x' is in the set 's'"),
        (written(anna, "t")[0], "an edit of a text or list"),
        (next(anna.entries()), "says who may do what"),
        ("00" * 32, "no entry here has"),
        ("0123456", "the first 8 of its 64"),
        ("x" * 64, "the first 8 of its 64"),
    ):
        with pytest.raises(LocalProtocolError, match=reason):
            anna.erase(written(anna, "s")[0], entry)
    assert (anna.heads(), anna.root) == (before, bert.root)
    with pytest.raises(AccessDeniedError, match="another peer's"):
        bert.erase(written(bert, "s")[0])
    del anna.registers["a"]
    assert anna.erase(written(anna, "a")[0].id.hex()[:10].upper()) == 1
    assert "a" not in anna.registers


def test_what_was_pruned_is_erased_where_it_was_not(make: Make):
    """What it had replaced, and has to stay so, is not known where it was."""
    anna, bert = make(ANNA), make(BERT)
    for value in ("first", SECRET, "public"):
        anna.registers["a"] = value
    exchange(anna, bert)
    secret = written(anna, "a")[1]
    assert anna.prune(0) == 2
    before = anna.heads()
    for each in (secret, secret.id.hex()[:12].upper()):
        with pytest.raises(LocalProtocolError, match="was pruned here"):
            anna.erase(each)
    assert anna.heads() == before
    other = make(ANNA)  # another store of the same peer
    exchange(other, bert)
    assert other.erase(secret) == 1
    exchange_all(anna, bert, other)
    for document in (bert, other):
        assert [each.id for each in document.entries() if each.is_erased] == [secret.id]
    assert anna.root == bert.root == other.root
    assert anna.erase(secret) == 0  # it is erased, and was not here
    checked(anna, bert, other)


def test_an_owner_erases_what_others_wrote_and_nobody_else_does(make: Make):
    owned = Genesis("owned", owners=(ANNA.public_key.data,), mode=Mode.CAPABILITY)
    anna, bert, carl = (make(each, owned) for each in (ANNA, BERT, CARL))
    anna.grant(BERT.peer_id, prefix="b/")
    anna.grant(CARL.peer_id)
    exchange_all(anna, bert, carl)
    for value in (SECRET, "public"):
        bert.registers["b/1"] = value
    exchange_all(anna, bert, carl)
    first = written(bert, "b/1")[0]
    with pytest.raises(AccessDeniedError, match="or an owner"):
        carl.erase(first)
    # An entry that says so all the same has no effect.
    target = (first.author, first.seq, first.id)
    carl._writer.write([(Kind.ERASE, Erasure((target,)).encode())])
    exchange_all(anna, bert, carl)
    assert not any(written(each, "b/1")[0].is_erased for each in (anna, bert, carl))
    root = anna.root
    assert anna.erase(first) == 1
    exchange_all(anna, bert, carl)
    late = make(CARL, owned)
    exchange(late, bert)
    exchange(late, bert)
    by_snapshot = make(BERT, owned)
    by_snapshot.receive_snapshot(anna.snapshot())
    everybody = (anna, bert, carl, late, by_snapshot)
    assert {each.root for each in everybody} == {root}
    assert all(
        [each.id for each in late.entries() if each.is_erased] == [first.id]
        for each in (bert, carl, late, by_snapshot)
    )
    checked(*everybody)


def test_of_a_sealed_document_those_erase_who_read_it_and_keepers_follow(make: Make):
    sealed = Genesis("sealed", owners=(ANNA.public_key.data,), mode=Mode.CAPABILITY, is_sealed=True)
    anna, bert, keeper = (make(each, sealed) for each in (ANNA, BERT, CARL))
    anna.grant(BERT.peer_id)
    anna.grant(CARL.peer_id, Level.PULL)
    exchange_all(anna, bert, keeper)
    bert.registers["a"] = 1
    bert.registers["a"] = 2
    exchange_all(anna, bert, keeper)
    root, first = anna.root, written(bert, "a")[0]
    assert bert.erase(first) == 1
    exchange_all(anna, bert, keeper)
    assert anna.root == bert.root == root
    assert [each.id for each in keeper.entries() if each.is_erased] == [first.id]
    checked(anna, bert, keeper)


def test_an_erasure_waits_for_what_was_written_over(make: Make):
    """A replica that has the old value alone keeps it until it has the new one."""
    anna, bert, carl = make(ANNA), make(BERT), make(CARL)
    anna.registers["a"] = "old"
    exchange_all(anna, bert, carl)
    bert.registers["a"] = "new"
    exchange(anna, bert)
    anna.erase(written(anna, "a", ANNA)[0])
    for chain in anna.chains_of(anna.author, 0):
        carl.receive(chain, "peer")
    assert carl.registers["a"] == "old"
    for chain in bert.chains_of(bert.author, 0):
        carl.receive(chain, "peer")
    assert carl.registers["a"] == "new"
    assert [each.is_erased for each in written(carl, "a", BERT)] == [False]
    assert sum(each.is_erased for each in carl.entries()) == 1


def test_a_standing_write_is_erased_as_if_it_was_deleted(make: Make):
    """Whoever does not keep to what honest replicas refuse can do what he could do anyway; all
    replicas come to the same, in whatever order they hear of it.
    """
    eraser = Eraser(b"a")
    chain = eraser.chain(2)
    erasing = eraser.erasing(chain[-1], target_of(chain[-1].header))
    first, second = make(ANNA), make(BERT)
    take(first, *chain)
    assert first.registers["key"] == "value"
    take(first, erasing)
    take(second, *chain, erasing)
    assert first.root == second.root
    assert "key" not in first.registers


def test_who_began_with_a_snapshot_erases_what_comes_as_others_do(make: Make, tmp_path: Path):
    """It goes on with the state that the snapshot came to."""
    anna, path = make(ANNA), tmp_path / "late"
    anna.registers["a"] = 1
    late = make(BERT, path=path)
    late.receive_snapshot(anna.snapshot(), [ANNA.public_key.data])
    eraser = Eraser(b"a")
    chain = eraser.chain(3)
    replaced = (chain[1].id,)
    erasing = eraser.erasing(chain[-1], target_of(chain[-1].header), replaced=replaced)
    for document in (late, anna):
        take(document, *chain, erasing)
        assert dict(document.registers.items()) == {"a": 1}
    assert late.root == anna.root
    late.close()
    assert make(BERT, path=path).root == anna.root


def test_where_the_eraser_contradicts_himself_payloads_come_back(make: Make):
    """What has dropped a payload for an erasure that does not count has it again from others."""
    eraser = Eraser(b"a")
    chain = eraser.chain(2)
    erasing = eraser.erasing(chain[-1], target_of(chain[-1].header))
    other = eraser.next(chain[-1], erasing.header.hlc, "other")
    early, late = make(ANNA), make(BERT)
    take(early, *chain, erasing)
    take(late, *chain, other)
    take(early, other)
    assert "key" not in early.registers
    head = early.head_index.get(eraser.author)
    assert head is not None
    assert head.lacking == (1,)
    fresh = make(CARL)
    exchange(fresh, early)
    assert fresh.heads() == early.heads()
    assert fresh.root == early.root
    path = fresh._replica.database.path
    fresh.close()
    report = check_document(path)
    assert (report.problem_count, report.missing) == (0, 1)
    fresh = make(CARL, path=path)
    exchange(early, fresh)  # which cannot help
    exchange(late, early)
    exchange(fresh, late)
    assert late.registers["key"] == "value"
    assert {each.root for each in (early, fresh)} == {late.root}
    assert not any(each.is_erased for each in early.entries())
    checked(early, late, fresh)


def test_what_a_fork_has_withdrawn_is_erased_from_the_file_too(make: Make, tmp_path: Path):
    eraser, again = Eraser(b"a"), Eraser(b"a")
    again.session = SessionKey(bytes(32))
    chain = eraser.chain(2, SECRET)
    other = eraser.next(chain[0], chain[1].header.hlc + 1, "other")
    document = make(ANNA)
    take(document, *chain)
    take(document, other)
    assert "key" not in document.registers
    assert files_with(tmp_path, SECRET)
    first = again.next(None, (START + 9) << 16)
    take(document, first, again.erasing(first, target_of(chain[1].header)))
    assert not files_with(tmp_path, SECRET)
    path = document._replica.database.path
    document.close()
    report = check_document(path)
    assert (report.problems, report.withdrawn, report.erased) == ([], 1, 1)
    document, fresh = make(ANNA, path=path), make(BERT)
    fresh.receive_snapshot(document.snapshot(), [ANNA.public_key.data])
    assert fresh.root == document.root
    checked(document, fresh)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        encode([[], []]),
        encode([[[bytes(32), 1, bytes(31)]], []]),
        encode([[[bytes(32), -1, bytes(32)]], []]),
        encode([[[bytes(32), True, bytes(32)]], []]),
        encode([[[bytes(32), 1, bytes(32)]] * 2, []]),
        encode([[[bytes(32), 1, bytes(32)]], [bytes(31)]]),
        encode([[[bytes(32), number, bytes(32)] for number in range(MAX_TARGETS + 1)], []]),
    ],
)
def test_an_erasure_that_is_none_is_refused_and_its_author_named(make: Make, payload: bytes):
    eraser, document = Eraser(b"a"), make(ANNA)
    chain = eraser.chain(2)
    take(document, *chain)
    refused = document.receive(
        encode_chain([eraser.saying(chain[-1], payload)], with_prev=True), "peer"
    )
    (refusal,) = refused.refusals
    assert (refusal.author, refusal.seq, refusal.is_final) == (eraser.author, 2, True)
    assert document.registers["key"] == "value"


def test_erasures_of_what_is_not_there_or_comes_later_erase_nothing(make: Make):
    eraser, honest, document = Eraser(b"a"), Writer(b"b"), make(ANNA)
    chain, theirs = eraser.chain(2), honest.chain(3)
    take(document, *theirs)
    nowhere = [(eraser.author, number, bytes(32)) for number in range(MAX_TARGETS - 1)]
    erasing = eraser.erasing(chain[-1], *nowhere, target_of(theirs[-1].header))
    after = eraser.next(erasing, (START + 9) << 16)
    early = eraser.erasing(after, target_of(erasing.header))
    # It names what is written only after it.
    last = eraser.next(early, (START + 11) << 16, "last")
    backdated = eraser.erasing(chain[-1], target_of(last.header))
    assert backdated.id != erasing.id
    take(document, *chain, erasing, after, early, last)
    assert not any(each.is_erased for each in document.entries())
    assert document.registers["key"] == "last"
    checked(document)


def test_payloads_that_nobody_has_erased_are_not_left_out(make: Make):
    eraser, honest, document = Eraser(b"a"), Writer(b"b"), make(ANNA)
    theirs = honest.chain(3)
    bare = Entry(theirs[1].header, theirs[1].signature, None)
    left_out = encode_chain([theirs[0], bare, theirs[2]], with_prev=True)
    received = document.receive(left_out, "peer")
    assert [each.reason for each in received.refusals] == ["an entry without its payload"]
    assert document.heads()[honest.author][0] == 1
    # Nor does somebody else's erasure go for one.
    mine = eraser.chain(2)
    erasing = eraser.erasing(mine[-1], target_of(theirs[1].header))
    take(document, *mine, erasing)
    assert document.receive(left_out, "peer").refusals
    assert document.heads()[honest.author][0] == 1
    take(document, *theirs)
    assert document.heads()[honest.author][0] == 3


def test_a_chain_has_no_more_erasures_than_can_be_verified_at_once(make: Make):
    eraser, document, other = Eraser(b"a"), make(ANNA), make(BERT)
    chain = [*eraser.chain(2)]
    for _ in range(MAX_SHOWN + 1):
        chain.append(eraser.erasing(chain[-1], target_of(chain[1].header)))
    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_SHOWN} erasures"):
        take(document, *chain)
    take(document, *chain[:-1])
    take(document, chain[-1])
    exchange(other, document)
    assert other.heads() == document.heads()
    assert other.root == document.root


def test_a_relay_that_spoils_an_erasure_is_refused(make: Make):
    eraser, document = Eraser(b"a"), make(ANNA)
    chain = eraser.chain(2)
    erasing = eraser.erasing(chain[-1], target_of(chain[-1].header))
    last = eraser.next(erasing, (START + 9) << 16)
    spoiled = Entry(erasing.header, bytes(64), erasing.payload)
    with pytest.raises(RemoteProtocolError, match="has not signed"):
        take(document, *chain, spoiled, last)
    take(document, *chain, erasing, last)
    data: list[Plain] = [eraser.author, 0, None, []]
    with pytest.raises(RemoteProtocolError):
        document.receive(encode([*data, [[b"", []]]]), "peer")


def test_many_are_erased_at_once_and_go_in_pieces(make: Make):
    anna, bert, carl = make(ANNA), make(BERT), make(CARL)
    for _ in range(2):
        for start in range(0, 600, 300):
            write_all(anna, [f"n/{number}" for number in range(start, start + 300)])
    exchange(anna, bert)
    root = anna.root
    first = [
        next(each)
        for _, each in itertools.groupby(
            sorted(
                (each for each in anna.entries() if each.name), key=lambda each: each.name or ""
            ),
            key=lambda each: each.name,
        )
    ]
    assert anna.erase(*first) == 600
    assert sum(each.kind == "erase" for each in anna.entries()) == 2
    exchange(bert, anna)
    exchange(carl, bert)
    assert anna.root == bert.root == carl.root == root
    assert sum(each.is_erased for each in carl.entries()) == 600


def test_what_is_erased_goes_in_pieces_as_large_as_there_is_room_for(make: Make):
    eraser, document = Eraser(b"a"), make(ANNA)
    chain = [*eraser.chain(65)]
    targets = [target_of(each.header) for each in chain[1:]]
    many = tuple(number.to_bytes(32) for number in range(1024))
    for _ in range(30):
        chain.append(eraser.erasing(chain[-1], *targets, replaced=many))
    for entry in chain:
        take(document, entry)
    assert len([*document.chains_of(eraser.author, 0)]) < 8


def test_erasures_of_those_who_may_not_erase_it_are_not_gone_through(
    monkeypatch: pytest.MonkeyPatch,
):
    author, entry = Writer(b"author"), Writer(b"author").chain(2)[1]
    sessions = {author.author: Feed(author.author, author.identity.public_key.data)}
    erasures = Erasures(DOC, sessions, None)
    looked_at: list[Shown] = []

    def may_erase(_: Erasures, shown: Shown, header: Header) -> bool:
        looked_at.append(shown)
        return True

    monkeypatch.setattr(Erasures, "may_erase", may_erase)
    for number in range(20):
        stranger = Eraser(b"%d" % number)
        erasing = stranger.erasing(stranger.chain(2)[-1], target_of(entry.header))
        erasures.learn(erasing, stranger.identity.public_key.data)
    assert not erasures.erases(entry.header)
    assert not looked_at
    assert erasures.reason(entry.header, author.identity.public_key.data) is None
    own = Eraser(b"author").erasing(entry, target_of(entry.header))
    erasures.learn(own, author.identity.public_key.data)
    assert erasures.erases(entry.header)
    assert [each.entry for each in looked_at] == [own]


def write_all(document: Document, names: list[str]) -> None:
    state = document.state
    document.write(*(RegisterWrite(each, 1, state.replaced_at(each)) for each in names))


def test_a_damaged_file_is_saved_with_what_is_erased(make: Make, tmp_path: Path):
    anna, path = make(ANNA), tmp_path / "damaged"
    bert = make(BERT, path=path)
    anna.registers["a"] = 1
    anna.registers["a"] = 2
    anna.erase(written(anna, "a")[0])
    exchange(bert, anna)
    bert.registers["b"] = 1
    root, heads = bert.root, bert.heads()
    bert._replica.database._db.execute("UPDATE document SET genesis = x'00'")
    bert.close()
    saved = make(BERT, path=path)
    assert (saved.root, saved.heads()) == (root, heads)
    assert sum(each.is_erased for each in saved.entries()) == 1
    fresh = make(CARL)
    exchange(fresh, saved)
    assert fresh.root == root
    checked(saved)


def test_a_file_of_the_version_before_is_used(make: Make, tmp_path: Path):
    path = tmp_path / "older"
    anna = make(ANNA, path=path)
    anna.registers["a"] = 1
    for statement in (
        "DROP TABLE erasure",
        "DROP TABLE joined",
        "DROP TABLE withdrawn",
        "ALTER TABLE entry DROP COLUMN came",
        "PRAGMA user_version=2",
    ):
        anna._replica.database._db.execute(statement)
    anna.close()
    anna = make(ANNA, path=path)
    anna.registers["a"] = 2
    assert anna.erase(written(anna, "a")[0]) == 1


def test_what_should_have_gone_goes_with_the_next_opening(make: Make, tmp_path: Path):
    """As if a process had been killed between the two."""
    path = tmp_path / "killed"
    anna = make(ANNA, path=path)
    anna.registers["a"] = SECRET
    anna.registers["a"] = 1
    first = written(anna, "a")[0]
    (payload,) = anna._replica.database._db.execute(
        "SELECT payload FROM entry WHERE id = ?", (first.id,)
    ).fetchone()
    anna.erase(first)
    anna._replica.database._db.execute(
        "UPDATE entry SET payload = ? WHERE id = ?", (payload, first.id)
    )
    anna.close()
    assert "its payload is here" in check_document(path).problems[0]
    anna = make(ANNA, path=path)
    assert written(anna, "a")[0].name == "a"
    assert not files_with(tmp_path, SECRET)
    checked(anna)
