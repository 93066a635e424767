"""What goes when a document is pruned, and who begins with a snapshot of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.compaction.snapshot import body_digest, first_part
from lattica.crdt.document import Document
from lattica.crdt.document.check import check_document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Genesis, Mode
from lattica.crdt.entries.header import Entry
from lattica.crdt.log.errors import StoreFullError
from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, Writer
from tests.support.crdt.documents import Clock, replicas

OWNERS = [Identity(bytes([number + 1]) * 32) for number in range(5)]
NAMES = [each.public_key.data for each in OWNERS]


@pytest.fixture
def documents(tmp_path: Path, clock: Clock) -> Iterator[list[Document]]:
    with replicas(tmp_path, OWNERS, clock) as opened:
        yield opened


def sync(*documents: Document) -> None:
    for giver in documents:
        for taker in documents:
            for proof in giver.forks():
                taker.receive_fork(proof)
            for chain in giver.chains_since(taker.heads()):
                taker.receive(chain, "peer")
            heads = taker.heads()
            if any(heads.get(author, (0,)) < head for author, head in giver.heads().items()):
                taker.receive_snapshot(giver.snapshot(), NAMES)


def kept(document: Document) -> list[Entry]:
    return list(document._replica.database.all_entries())


def edit(document: Document, rng: random.Random) -> None:
    match rng.randrange(7):
        case 0 | 1 | 2:
            document.registers[rng.choice("abc")] = rng.choice([None, rng.random()])
        case 3:
            document.counter(rng.choice("ab")).add(rng.randint(-3, 3))
        case 4:
            elements = document.set("s")
            element = rng.choice("xyz")
            elements.discard(element) if element in elements else elements.add(element)
        case 5:
            document.claims("jobs").claim(rng.choice("pq"), rng.choice([0.002, 0.05, 10.0]))
        case _:
            text = document.text("t")
            text.replace(rng.randint(0, len(text)), len(text), "abc")


@pytest.mark.parametrize("seed", range(6))
def test_pruning_at_any_point_changes_nothing_that_is_shown(documents, clock, seed, tmp_path):
    """Some prune, some do not, all go on; who joins by a snapshot sees the same."""
    rng = random.Random(seed)
    writers = documents[:3]
    for _ in range(60):
        edit(rng.choice(writers), rng)
        if rng.random() < 0.2:
            sync(*rng.sample(writers, 2))
        if rng.random() < 0.1:
            document = rng.choice(writers[:2])
            before = document.root
            document.prune(rng.choice([0.0, 0.01]))
            assert document.root == before
    sync(*writers)
    sync(*writers)
    roots = {document.root for document in writers}
    assert len(roots) == 1
    pruned, whole = documents[0], documents[2]
    pruned.prune(0.0)
    assert pruned.prune(0.0) == 0
    assert pruned.heads() == whole.heads()
    joined = documents[3]
    joined.receive_snapshot(pruned.snapshot(), [NAMES[0]])
    assert joined.root == whole.root
    assert joined.heads() == whole.heads()
    edit(whole, rng)
    edit(joined, rng)
    sync(whole, joined, pruned)
    assert joined.root == whole.root == pruned.root
    joined.close()
    again = Document(tmp_path / "3", DOC, OWNERS[3], wall=clock)
    assert again.root == whole.root
    again.close()
    pruned.close()
    again = Document(tmp_path / "0", DOC, OWNERS[0], wall=clock)
    assert again.root == whole.root
    again.close()


def test_what_is_young_stays_and_the_rest_goes(documents, clock):
    one = documents[0]
    for number in range(50):
        one.registers["a"] = number
        one.counter("n").add()
    clock.ms += 10_000
    for number in range(10):
        one.registers["a"] = number
    clock.ms += 1_000
    count = len(kept(one))
    assert count == 111
    assert one.prune(5.0) == 50 + 49
    assert one.registers["a"] == 9
    assert one.prune(5.0) == 0
    assert one.prune(0.0) == 9
    assert len(kept(one)) == 3
    assert one.counter("n").value == 50


def test_a_replica_that_was_away_takes_a_snapshot_and_keeps_what_it_wrote(documents):
    one, two, three = documents[:3]
    one.registers["a"] = "old"
    two.registers["b"] = "mine"
    sync(one, two)
    two.registers["c"] = "written apart"
    for number in range(20):
        one.registers["a"] = number
    one.prune(0.0)
    # By log it gets nowhere: there are only IDs between.
    assert list(one.chains_since(two.heads())) == []
    assert two.registers["a"] == "old"
    two.receive_snapshot(one.snapshot(), [NAMES[0]])
    assert (two.registers["a"], two.registers["b"], two.registers["c"]) == (
        19,
        "mine",
        "written apart",
    )
    sync(one, two)
    assert one.root == two.root
    three.receive_snapshot(two.snapshot(), [NAMES[1]])
    assert three.root == one.root
    # A replica that has all of it loses nothing to an older snapshot.
    older = one.snapshot()
    two.registers["d"] = 1
    two.receive_snapshot(older, [NAMES[0]])
    assert two.registers["d"] == 1


def test_it_is_signed_by_those_who_are_believed_and_by_enough(documents):
    one, two, three = documents[:3]
    one.registers["a"] = 1
    sync(one, two)
    parts = one.snapshot()
    with pytest.raises(RemoteProtocolError, match="0 of those who are believed"):
        three.receive_snapshot(parts, NAMES[1:])
    with pytest.raises(RemoteProtocolError, match="1 of those who are believed"):
        three.receive_snapshot(parts, NAMES, 2)
    # An open document has no owners whom one could believe.
    with pytest.raises(LocalProtocolError, match="no owners, so name the peers"):
        three.receive_snapshot(parts)
    both = one.snapshot([two.countersign(parts)])
    three.receive_snapshot(both, NAMES, 2)
    assert three.registers["a"] == 1
    two.registers["a"] = 2
    with pytest.raises(LocalProtocolError, match="something else"):
        two.countersign(parts)
    # Of what nobody would take, whoever makes it is told.
    for others in ([two.statement()], [one.countersign(parts), two.countersign(two.snapshot())]):
        with pytest.raises(LocalProtocolError, match="has signed is not this snapshot"):
            one.snapshot(others)
        forced = first_part([one.countersign(parts), *others]), *parts[1:]
        with pytest.raises(RemoteProtocolError):
            documents[3].receive_snapshot(forced, NAMES, 2)
    with pytest.raises(LocalProtocolError, match="up to 63 sign a snapshot"):
        one.snapshot([one.countersign(parts)] * 64)


def test_what_is_wrong_with_one_is_said(documents, tmp_path):
    one, two = documents[:2]
    one.registers["a"] = "x" * 1024
    one.registers["a"] = "y"
    first, *rest = one.snapshot()
    for bad, what in (
        ([], "an empty snapshot"),
        ([first], "incomplete or changed"),
        (rest, "it does not begin with"),
        ([first, *(each.replace(b"y", b"z") for each in rest)], "incomplete or changed"),
        ([first, *(each[:-1] for each in rest)], "incomplete or changed"),
    ):
        with pytest.raises(RemoteProtocolError, match=what):
            two.receive_snapshot(bad, NAMES)
    other = Genesis("another")
    with (
        Document(tmp_path / "other", other, OWNERS[0], wall=Clock()) as document,
        pytest.raises(RemoteProtocolError, match="a snapshot of another document"),
    ):
        document.receive_snapshot([first, *rest], NAMES)


def test_no_bit_of_it_can_be_another_one_and_nothing_is_left_of_a_bad_one(documents):
    one, two = documents[:2]
    one.registers["a"] = "x"
    one.text("t").append("text")
    one.registers["a"] = "y"
    one.prune(0.0)
    parts = one.snapshot()
    empty = two.root
    for number, part in enumerate(parts):
        for place in range(number % 3, len(part), 3):
            spoiled = bytearray(part)
            spoiled[place] ^= 1 << place % 7
            with pytest.raises(RemoteProtocolError):
                two.receive_snapshot([*parts[:number], bytes(spoiled), *parts[number + 1 :]], NAMES)
        with pytest.raises(RemoteProtocolError):
            two.receive_snapshot([*parts[:number], *parts[number + 1 :]], NAMES)
    for bad in ([], [b""], parts[1:], [*parts, encode([9])], [*parts, parts[-1]]):
        with pytest.raises(RemoteProtocolError):
            two.receive_snapshot(bad, NAMES)
    assert two.root == empty
    assert not two.heads()


def test_a_signer_who_lies_about_the_state_is_found_out(documents, monkeypatch):
    one, two = documents[:2]
    one.registers["a"] = "x"
    with monkeypatch.context() as patch:
        patch.setattr(one._statements, "root_of", lambda point: bytes(32))
        parts = one.snapshot()
    with pytest.raises(RemoteProtocolError, match="another state"):
        two.receive_snapshot(parts, NAMES)
    assert decode(parts[0], 10_000)


def test_what_is_pruned_is_not_served_and_a_fork_in_it_is_no_proof_here(documents):
    one, two = documents[:2]
    liar = Writer(b"liar")
    chain, other = liar.chain(5, "value"), liar.chain(5, "other")
    one.receive(encode_chain(chain, with_prev=True), "peer")
    assert one.prune(0.0) == 3
    with pytest.raises(RemoteProtocolError):
        one.receive(encode_chain(other[:3], with_prev=True), "peer")
    assert [len(list(one.chains_of(liar.author, since))) for since in range(6)] == [
        1,
        0,
        0,
        0,
        1,
        0,
    ]
    two.receive(encode_chain(chain, with_prev=True), "peer")
    two.receive(encode_chain(other, with_prev=True), "peer")
    (proof,) = two.forks()
    assert one.receive_fork(proof).is_news
    assert one.heads()[liar.author] == (1, chain[0].id)
    three = documents[2]
    with pytest.raises(RemoteProtocolError, match="fork"):
        two.receive_snapshot(_without_fork(chain, documents[4]), NAMES)
    three.receive_snapshot(one.snapshot(), NAMES)
    assert list(three.forks()) == [proof]


def _without_fork(chain: tuple[Entry, ...], document: Document) -> tuple[bytes, ...]:
    document.receive(encode_chain(chain, with_prev=True), "peer")
    return document.snapshot()


def test_a_full_disk_prunes_nothing_and_takes_no_snapshot(documents, monkeypatch):
    one, two = documents[:2]
    for number in range(10):
        one.registers["a"] = number
    parts = one.snapshot()
    count = len(kept(one))

    def full(*args: object, **kwargs: object) -> None:
        raise StoreFullError("full")

    for document in (one, two):
        monkeypatch.setattr(document._replica.database, "keep_remnants", full)
        monkeypatch.setattr(document._replica.database, "insert", full)
    with pytest.raises(StoreFullError):
        one.prune(0.0)
    with pytest.raises(StoreFullError):
        two.receive_snapshot(parts, NAMES)
    assert (len(kept(one)), len(kept(two))) == (count, 0)
    monkeypatch.undo()
    assert one.prune(0.0) == 9
    two.receive_snapshot(one.snapshot(), NAMES)
    assert two.root == one.root


def test_the_snapshots_of_a_document_with_owners_are_signed_by_owners(tmp_path, clock):
    genesis = Genesis("owned", owners=(NAMES[0],), mode=Mode.ALLOW_LIST)
    one, two = (
        Document(tmp_path / name, genesis, OWNERS[number], wall=clock)
        for number, name in enumerate("ab")
    )
    with one, two:
        for number in range(5):
            one.registers["a"] = number
        two.receive_snapshot(one.snapshot())
        with pytest.raises(RemoteProtocolError, match="0 of those who are believed"):
            one.receive_snapshot(two.snapshot())
        assert two.registers["a"] == 4
        assert two.root == one.root


def test_the_last_entry_before_a_fork_that_only_the_fork_vouches_for_is_in_a_snapshot(documents):
    one, other = documents[:2]
    liar = Writer(b"liar")
    chain, branch = liar.chain(3), [*liar.chain(2)]
    branch.append(liar.next(branch[-1], branch[-1].header.hlc + 5, "other"))
    for last in (chain[2], branch[2]):
        spoiled = Entry(chain[1].header, bytes(64), chain[1].payload)
        one.receive(encode_chain([chain[0], spoiled, last], with_prev=True), "peer")
    assert one.heads()[liar.author] == (2, chain[1].id)
    other.receive_snapshot(one.snapshot(), NAMES)
    assert (other.root, other.heads()) == (one.root, one.heads())
    one.close()
    assert not check_document(one._replica.database.path).problem_count


def test_a_snapshot_without_a_payload_is_refused(documents):
    one, other = documents[:2]
    one.registers["a"] = 1
    _, part = one.snapshot()
    match decode(part, len(part)):
        case [1, author, seq, [first_item, [hlc, kind, bytes(payload), signature]]]:
            body: list[Plain] = [hashlib.sha256(payload).digest(), len(payload)]
            left_out: list[Plain] = [hlc, kind, body, signature]
            part = encode([1, author, seq, [first_item, left_out]])
    first = first_part([one.statement(body_digest([part]))])
    with pytest.raises(RemoteProtocolError, match="without its payload"):
        other.receive_snapshot([first, part], NAMES)
