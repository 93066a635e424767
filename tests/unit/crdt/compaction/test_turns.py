"""Pruning, making and taking snapshots in turns: what happens between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from lattica.crdt.base.turns import Turns, finish
from lattica.crdt.document import Document
from lattica.crdt.document.resolved import Resolved
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.fork import find_fork
from lattica.crdt.entries.header import Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.log.errors import ContradictionError
from lattica.crdt.log.feed import Feed
from lattica.crdt.proofs.proof import verify_proof
from lattica.crdt.store.turns import in_turns
from lattica.crdt.types.payloads import RegisterWrite
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, Writer
from tests.support.crdt.documents import Clock, replicas

T = TypeVar("T")
PEOPLE = [Identity(bytes([number + 1]) * 32) for number in range(4)]
NAMES = [each.public_key.data for each in PEOPLE]


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[list[Document]]:
    with replicas(tmp_path, PEOPLE, Clock()) as opened:
        yield opened


def write_much(document: Document, count: int = 400) -> None:
    for value in range(3):
        names = [f"{number}" for number in range(count)]
        document.write(
            *(RegisterWrite(name, value, document.state.replaced_at(name)) for name in names)
        )


def write_some(document: Document, rng: random.Random) -> None:
    match rng.randrange(3):
        case 0:
            document.registers[f"{rng.randrange(400)}"] = rng.random()
        case 1:
            document.counter("n").add()
        case _:
            document.text("t").append("x")


def copy(giver: Document, taker: Document) -> None:
    for proof in giver.forks():
        taker.receive_fork(proof)
    for chain in giver.chains_since(taker.heads()):
        taker.receive(chain, "peer")


def through(turns: Turns[T], between: Callable[[int], object]) -> T:
    number = 0
    while True:
        try:
            next(turns)
        except StopIteration as end:
            return end.value
        between(number)
        number += 1


def count_kept(document: Document) -> int:
    return sum(1 for _ in document._replica.database.all_entries())


def test_what_is_written_while_it_is_pruned_stays_and_what_it_replaces_may(documents):
    one, whole = documents[:2]
    write_much(one)
    copy(one, whole)
    rng = random.Random(1)

    def between(number: int) -> None:
        if number % 5 == 0:
            write_some(one, rng)
            assert one.state.standing()
        if number % 7 == 0:
            write_some(whole, rng)
            copy(whole, one)

    assert through(one.pruning(0.0), between) == 800
    copy(one, whole)
    assert one.root == whole.root
    one._resolved.forget()
    assert one.root == whole.root


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_pruning_that_ends_early_leaves_the_state_as_it_was(documents, batches):
    one = documents[0]
    write_much(one)
    root = one.root
    pruning = one.pruning(0.0)
    next(pruning)
    while count_kept(one) > 1201 - 128 * batches:
        next(pruning)
    pruning.close()
    path, kept = one._replica.database.path, count_kept(one)
    assert kept == 1201 - 128 * batches
    one.close()
    with Document(path, DOC, PEOPLE[0], wall=lambda: Clock.ms + 10**6) as again:
        assert again.root == root
        assert again.prune(0) == kept - 401
        assert again.root == root


def test_a_fork_that_is_proved_while_it_is_pruned_brings_back_what_it_had_replaced(documents):
    """What the liar has replaced is not dropped by a look at the document that is of before."""
    one, whole = documents[:2]
    write_much(one, 50)
    liar = Writer(b"liar")
    chain = list(liar.chain(2))
    standing = one.state.replaced_at("7")

    before = chain[-1]
    for value in ("lie", "other lie"):
        payload = RegisterWrite("7", value, standing).encode()
        entry = sign_entry(
            liar.session,
            DOC.doc_id,
            2,
            before.id,
            (one.now_ms + 5) << 16,
            Kind.REGISTER,
            payload,
        )
        chain.append(entry)
    first, other = [*chain[:2], chain[2]], [*chain[:2], chain[3]]
    one.receive(encode_chain(first, with_prev=True), "peer")
    assert one.registers["7"] == "lie"
    copy(one, whole)
    for document in (one, whole):
        document._wall.ms += 1000

    def between(number: int) -> None:
        if number == 2:
            one.receive(encode_chain(other, with_prev=True), "peer")

    assert through(one.pruning(0.0), between) == 100
    whole.receive(encode_chain(other, with_prev=True), "peer")
    assert whole.registers["7"] == 2
    assert one.root == whole.root
    one._resolved.forget()
    assert one.registers["7"] == 2


@pytest.mark.parametrize("is_pruned", [True, False])
def test_a_snapshot_that_is_made_while_others_write_is_of_its_beginning(documents, is_pruned):
    one, fresh = documents[0], documents[3]
    write_much(one)
    if is_pruned:
        one.prune(0.0)
    heads, root = one.heads(), one.root
    one._resolved._tree = None
    rng = random.Random(2)
    parts = through(one.making_snapshot(), lambda number: write_some(one, rng))
    assert one.heads() != heads
    fresh.receive_snapshot(parts, NAMES)
    assert (fresh.heads(), fresh.root) == (heads, root)
    copy(one, fresh)
    assert fresh.root == one.root


def test_a_snapshot_that_is_made_while_the_document_is_pruned_or_forks_is_whole(documents):
    one, two, fresh = documents[0], documents[1], documents[3]
    write_much(one)
    liar = Writer(b"liar")
    chain = liar.chain(4)
    one.receive(encode_chain(chain, with_prev=True), "peer")
    proof = find_fork(chain[1], liar.chain(2, "other")[1])
    assert proof is not None

    def between(number: int) -> None:
        if number == 3:
            one.prune(0.0)
        if number == 40:
            one.receive_fork(proof.encode())

    parts = through(one.making_snapshot(), between)
    fresh.receive_snapshot(parts, NAMES)
    assert fresh.root == one.root
    assert fresh.heads() == one.heads()
    assert list(fresh.forks()) == list(one.forks())
    assert not two.heads()


def test_a_snapshot_is_taken_beside_what_is_written_meanwhile_and_not_at_all_if_it_ends(documents):
    one, two, three = documents[:3]
    write_much(one)
    one.prune(0.0)
    parts = one.snapshot()
    rng = random.Random(3)
    write_some(two, rng)
    ending = two.receiving_snapshot(parts, NAMES)
    heads = two.heads()
    for _ in range(5):
        next(ending)
    ending.close()
    assert two.heads() == heads
    written = [0]

    def between(number: int) -> None:
        write_some(two, rng)
        written[0] += 1

    through(two.receiving_snapshot(parts, NAMES), between)
    assert written[0] > 20
    assert len(two.heads()) == 2
    copy(two, one)
    assert one.root == two.root
    through(three.receiving_snapshot(two.snapshot(), [NAMES[1]]), lambda number: None)
    assert three.root == one.root
    three._resolved.forget()
    assert three.root == one.root


async def test_others_have_the_thread_between_turns_and_a_cancelled_one_does_no_more(documents):
    one = documents[0]
    write_much(one)
    root, turns = one.root, 0
    one._resolved._tree = None

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        parts = await in_turns(one.making_snapshot())
        assert turns > 5
        turns = 0
        assert await in_turns(one.pruning(0.0)) == 800
        assert turns > 20
        with trio.CancelScope() as scope:
            scope.cancel()
            await in_turns(documents[1].receiving_snapshot(parts, NAMES))
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
    assert one.root == root
    assert not documents[1].heads()


def rows(document: Document) -> int:
    database = document._replica.database._db
    return sum(
        database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("entry", "pruned", "author")
    )


def test_a_snapshot_is_written_in_turns_and_counts_in_none_but_the_last(documents, tmp_path):
    """What of it is in the file of a process that was killed is gone when that is opened."""
    one, two = documents[:2]
    write_much(one, 600)
    one.prune(0.0)
    written: list[int] = []
    path = two._replica.database.path

    def between(number: int) -> None:
        if rows(two) > sum(written[-1:]) and not two.heads():
            written.append(rows(two))
            assert not count_kept(two)
            assert not list(two._replica.database.withdrawn_entries())
            for suffix in ("", "-wal"):
                content = path.with_name(path.name + suffix).read_bytes()
                (tmp_path / f"killed{suffix}").write_bytes(content)

    through(two.receiving_snapshot(one.snapshot(), NAMES), between)
    assert len(written) > 2
    assert two.root == one.root
    two.close()
    with Document(path, DOC, PEOPLE[1], wall=two._wall) as again:
        assert again.heads() == one.heads()
        assert again.root == one.root
    with Document(tmp_path / "killed", DOC, PEOPLE[1], wall=two._wall) as killed:
        assert not killed.heads()
        assert not rows(killed)
        killed.receive_snapshot(one.snapshot(), NAMES)
        assert killed.root == one.root


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_snapshot_that_ends_early_leaves_nothing_in_the_file(documents, is_cancelled):
    """Be it cancelled, or that its author comes by another way and contradicts it."""
    one, two = documents[:2]
    write_much(one, 600)
    one.prune(0.0)
    two.registers["7"] = "mine"
    before = rows(two)
    written: list[int] = []
    ending = two.receiving_snapshot(one.snapshot(), NAMES)
    while len(written) < 3:
        next(ending)
        if rows(two) > max(written, default=before):
            written.append(rows(two))
            two.registers["8"] = "meanwhile"
    if is_cancelled:
        ending.close()
    else:
        two._replica.log.feeds[one.author] = Feed(one.author, ids=[bytes(32)])
        with pytest.raises(ContradictionError):
            finish(ending)
        del two._replica.log.feeds[one.author]
    assert rows(two) == before + 3
    assert [name for name, _ in two.state.registers()] == ["7", "8"]
    two.receive_snapshot(one.snapshot(), NAMES)
    assert two.registers["7"] == "mine"
    assert two.registers["9"] == 2


def test_an_author_who_comes_by_log_while_a_snapshot_is_written_is_put_together(documents):
    one, two = documents[:2]
    write_much(one, 600)
    parts = one.snapshot()
    chains = list(one.chains_since({}))
    before = rows(two)

    def between(number: int) -> None:
        if rows(two) > before and not two.heads():
            two.receive(chains[0], "peer")
            assert len(two.heads()) == 1

    through(two.receiving_snapshot(parts, NAMES), between)
    assert two.heads() == one.heads()
    assert two.root == one.root
    assert rows(two) == rows(one)


@pytest.mark.parametrize("is_written_to", [False, True])
def test_a_root_and_a_proof_are_made_in_turns_whatever_is_written_meanwhile(
    documents, monkeypatch, is_written_to
):
    one, rng, numbers = documents[0], random.Random(3), []
    write_much(one, 2000)

    def whole(resolved: Resolved) -> None:
        raise AssertionError("the tree is made in one turn")

    monkeypatch.setattr(Resolved, "tree", whole)

    def between(number: int) -> None:
        numbers.append(number)
        if is_written_to:
            write_some(one, rng)

    root = through(one.naming(), between)
    assert len(numbers) > 3
    one.registers["none"] = "now"
    proof = through(one.proving("none"), between)
    proved = verify_proof(proof, DOC.doc_id, signers=NAMES[:1])
    assert (proved.value, len(proved.authors)) == ("now", 1)
    assert proved.root != root


def test_what_is_proved_in_turns_is_what_was_there_at_once(documents):
    """Also where what won is withdrawn between two turns."""
    one = documents[0]
    write_much(one, 50)
    liar = Writer(b"liar")
    chain, other = liar.chain(3), [*liar.chain(2)]
    other.append(liar.next(other[-1], other[-1].header.hlc + 5, "other"))
    one.receive(encode_chain(chain, with_prev=True), "peer")
    one._resolved.forget()

    def between(number: int) -> None:
        if number == 1:
            one.receive(encode_chain(other, with_prev=True), "peer")

    proof = through(one.proving("key", is_signed=False), between)
    assert list(one.forks())
    assert proof == one.proof("key", is_signed=False)
