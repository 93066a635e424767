"""Who begins, or was away, where history was pruned: snapshots over streams, and who confirms."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import trio

from lattica.crdt.access.capability import Level
from lattica.crdt.config import StoreConfig
from lattica.crdt.document.statements import Statements
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.genesis import Mode
from lattica.crdt.entries.header import Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.proofs.statement import Statement, sign_statement
from lattica.crdt.store.changes import Rebuilt
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.types.cell import Sibling
from lattica.crdt.types.payloads import RegisterWrite
from tests.unit.crdt.store.test_store import host_of, stores

SLOW = StoreConfig(sync_interval=3600)


def write_much(document: SharedDocument) -> None:
    document.set("workers").add("w1")
    for number in range(20):
        document.registers["a"] = number
        document.counter("steps").add(1)
    document.registers["b"] = "stays"
    document.claims("jobs").claim("job", 60)


async def part(one: SharedDocument, two: SharedDocument) -> None:
    host, other = two._replicator._host, one._replicator._host.peer_id
    while one.peers or two.peers:
        if host.path(other) is not None:  # an exchange that has just begun connects again
            host.drop(other)  # type: ignore[attr-defined]
        await trio.sleep(0.1)


def drop(document: SharedDocument, write: Sibling) -> None:
    """Have a store leave out an entry that matters."""
    log = document._replica.log
    seq = log.feeds[write.author].ids.index(write.entry_id)
    document._replica.prune({write.author: [seq]})
    document._resolved.forget()


async def test_a_fresh_replica_gets_all_of_authors_whose_first_entries_are_gone(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        one, two, three = net.store(), net.store(), net.store(config=SLOW)
        first, second = await one.open("cluster"), await two.open("cluster")
        await host_of(one).connect(host_of(two).peer_id)
        write_much(first)
        await first.synced()
        second.registers["a"] = "of another"
        await first.synced()
        assert first.prune(0.0) > 20
        await part(first, second)
        third = await three.open("cluster")
        third.registers["mine"] = 1
        with third.changes() as changes:
            await host_of(three).connect(host_of(one).peer_id)
            await third.synced(timeout=60)
            assert Rebuilt() in [await anext(changes) for _ in range(1)]
        assert third.root == first.root
        assert third.heads() == first.heads()
        assert third.registers["a"] == "of another"
        assert third.counter("steps").value == 20
        # It serves it in turn, goes on with news, and opens again.
        first.registers["c"] = "news"
        four = net.store()
        fourth = await four.open("cluster")
        await host_of(four).connect(host_of(three).peer_id)
        await fourth.synced(timeout=60)
        await third.synced(timeout=60)
        await fourth.synced(timeout=60)
        assert fourth.root == first.root
        assert fourth.registers["c"] == "news"


async def test_who_was_away_while_it_was_pruned_gets_the_rest(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        first, second = await one.open("cluster"), await two.open("cluster")
        await host_of(one).connect(host_of(two).peer_id)
        first.registers["a"] = "before"
        await first.synced()
        await part(first, second)
        write_much(first)
        second.registers["apart"] = True
        first.prune(0.0)
        await host_of(two).connect(host_of(one).peer_id)
        await second.synced(timeout=60)
        assert (second.registers["a"], second.registers["apart"]) == (19, True)
        assert first.root == second.root
        # What was here before stays: the whole of it can be had from here.
        assert second.registers.conflicts("a")[0].value == 19
        kept = {each.name for each in second.entries()}
        assert {"a", "apart", "b", "steps", "workers", "jobs"} <= kept


@pytest.mark.parametrize("mode", [Mode.ALLOW_LIST, Mode.CAPABILITY])
async def test_who_joins_a_document_with_owners_begins_with_a_readers_snapshot(
    tmp_path, autojump_clock, mode
):
    """No owner need be there, though what says that the reader is one is behind the gap, too."""
    async with stores(tmp_path) as net:
        one, two, three = net.store(), net.store(), net.store()
        first = await one.create("models", mode=mode)
        write_much(first)
        for store in (two, three):
            first.grant(host_of(store).peer_id)
        await host_of(one).connect(host_of(two).peer_id)
        second = await two.open(first.id)
        await second.synced(timeout=60)
        assert first.prune(0) > 20
        await second.synced(timeout=60)
        assert second.prune(0) > 20
        await part(first, second)
        await host_of(three).connect(host_of(two).peer_id)
        third = await three.open(first.id)
        await third.synced(timeout=60)
        assert third.root == first.root
        third.registers["a"] = "of the third"
        await third.synced(timeout=60)
        assert second.registers["a"] == "of the third"


async def test_what_one_leaves_out_another_one_brings_back(tmp_path, autojump_clock, caplog):
    async with stores(tmp_path) as net:
        one, two, three = net.store(), net.store(), net.store()
        honest, liar = await one.open("cluster"), await two.open("cluster")
        await host_of(one).connect(host_of(two).peer_id)
        write_much(honest)
        await honest.synced()
        await part(honest, liar)
        liar.prune(0.0)
        drop(liar, liar.registers.conflicts("b")[0])
        assert liar.registers.get("b") is None
        third = await three.open("cluster")
        await host_of(three).connect(host_of(two).peer_id)
        await third.synced(timeout=60)
        assert third.registers.get("b") is None
        with caplog.at_level(logging.WARNING):
            await host_of(three).connect(host_of(one).peer_id)
            while third.registers.get("b") is None:
                await trio.sleep(1)
        assert "different states" in caplog.text
        assert third.root == honest.root
        assert third.given_by is None


def branch_of(document: SharedDocument) -> bytes:
    """A chain with another entry for the next place of a document's session."""
    log, session = document._replica.log, document._replica._current_session()
    length, newest = document.heads()[session.author]
    branch = sign_entry(
        session,
        document.genesis.doc_id,
        length,
        newest,
        log.feeds[session.author].hlc + 1,
        Kind.REGISTER,
        RegisterWrite("a", "other branch").encode(),
    )
    return encode_chain([branch], with_prev=True)


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(600):
        while not is_so():
            await trio.sleep(1)


async def test_what_was_replaced_by_what_does_not_count_any_more_comes_back(
    tmp_path, autojump_clock
):
    """Of who has not pruned it; they differed for good."""
    async with stores(tmp_path) as net:
        one, two, three = net.store(), net.store(), net.store()
        documents = [await each.open("cluster") for each in (one, two, three)]
        first, second, liar = documents
        for store in (two, three):
            await host_of(one).connect(host_of(store).peer_id)
        first.registers["a"] = "good"
        first.registers["b"] = 1
        for document in documents:
            await document.synced(timeout=60)
        liar.registers["other"] = 1
        branch = branch_of(liar)
        liar.registers["a"] = "bad"
        liar.registers["c"] = 1
        for document in documents:
            await document.synced(timeout=60)
        assert first.prune(0) == 1
        first.receive(branch, "peer")
        assert [*first.forks()]
        await until(lambda: second.registers["a"] == "good" == first.registers.get("a"))
        assert first.root == second.root


async def test_what_comes_back_goes_on_to_those_who_have_agreed_that_it_is_gone(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        one, two, three, four = (net.store() for _ in range(4))
        first, second, liar = [await each.open("cluster") for each in (one, two, three)]
        for store in (one, three):
            await host_of(two).connect(host_of(store).peer_id)
        first.registers["a"] = "good"
        first.registers["b"] = 1
        await until(lambda: liar.registers.get("b") == 1)
        liar.registers["other"] = 1
        branch = branch_of(liar)
        liar.registers["a"] = "bad"
        liar.registers["c"] = 1
        await until(lambda: first.registers.get("c") == 1 == second.registers.get("c"))
        fourth = await four.open("cluster")
        await host_of(four).connect(host_of(two).peer_id)
        await until(lambda: fourth.heads() == second.heads())
        fourth.close()
        liar.close()
        assert (first.prune(0), second.prune(0)) == (1, 1)
        first.receive(branch, "peer")
        await until(lambda: second.heads() == first.heads())
        assert first.registers.get("a") is second.registers.get("a") is None
        await first.synced(timeout=60)
        await second.synced(timeout=60)
        fourth = await four.open("cluster")
        await until(lambda: first.registers.get("a") == "good" == second.registers.get("a"))
        assert first.root == second.root == fourth.root


async def test_who_goes_on_having_other_entries_is_asked_for_a_snapshot_after_a_restart_too(
    tmp_path, autojump_clock
):
    """By what the first one has left out the other's entries might not count here."""
    async with stores(tmp_path) as net:
        one, two, three = net.store(), net.store(), net.store()
        honest, giver = await one.open("cluster"), await two.open("cluster")
        await host_of(one).connect(host_of(two).peer_id)
        write_much(honest)
        await honest.synced()
        giver.prune(0.0)
        third = await three.open("cluster")
        await host_of(three).connect(host_of(two).peer_id)
        await until(lambda: third.registers.get("b") == "stays")
        assert third.given_by == host_of(two).peer_id
        giver.close()
        third.close()
        honest.registers["news"] = 1
        honest._feeds.chains_of = lambda author, since: iter(())  # type: ignore[method-assign]
        third = await three.open("cluster")
        assert third.given_by == host_of(two).peer_id
        await host_of(three).connect(host_of(one).peer_id)
        await until(lambda: third.registers.get("news") == 1)
        assert third.given_by is None


async def test_who_cannot_read_a_sealed_document_passes_on_what_was_pruned_of_it(
    tmp_path, autojump_clock
):
    async with stores(tmp_path) as net:
        one, two, three = net.store(), net.store(), net.store()
        first = await one.create("secret", is_sealed=True)
        for number in range(20):
            first.registers["a"] = number
        first.grant(host_of(two).peer_id, Level.PULL)
        first.grant(host_of(three).peer_id, Level.READ)
        assert first.prune(0) > 10
        await host_of(two).connect(host_of(one).peer_id)
        keeper = await two.open(first.id)
        await until(lambda: keeper.heads() == first.heads())
        assert not keeper.can_read
        first.close()
        await host_of(three).connect(host_of(two).peer_id)
        third = await three.open(first.id)
        await until(lambda: bool(third.heads()))
        assert third.registers["a"] == 19
        assert third.given_by == host_of(two).peer_id
        first = await one.open("secret")
        await host_of(three).connect(host_of(one).peer_id)
        await until(lambda: third.given_by is None)
        assert third.root == first.root


@pytest.mark.parametrize("is_signed", [True, False])
async def test_a_bad_snapshot_is_refused_and_its_sender_not_asked_at_once_again(
    tmp_path, autojump_clock, caplog, is_signed
):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store()
        liar = await one.open("cluster")
        write_much(liar)
        liar.prune(0.0)
        asked = 0

        def say(heads, root: bytes, of: bytes = b""):
            nonlocal asked
            asked += bool(of)
            true = Statements.say(liar._statements, heads, root).statement
            said = Statement(true.doc_id, true.heads, bytes(32), true.entries, 1)
            session, certificate = liar._replica.signing_session()
            signed_of = of if is_signed or not of else bytes(32)
            return sign_statement(said, session, certificate, signed_of)

        liar._statements.say = say  # type: ignore[method-assign]
        second = await two.open("cluster")
        await host_of(two).connect(host_of(one).peer_id)
        with pytest.raises(TimeoutError), caplog.at_level(logging.WARNING):
            await second.synced(timeout=100)
        assert "broke the store's protocol" in caplog.text
        assert second.registers.get("a") is None
        assert 2 <= asked <= 10


async def test_a_snapshot_beyond_the_budget_is_refused(tmp_path, autojump_clock):
    async with stores(tmp_path) as net:
        one, two = net.store(), net.store(config=StoreConfig(max_snapshot=500))
        first = await one.open("cluster")
        write_much(first)
        first.prune(0.0)
        second = await two.open("cluster")
        await host_of(two).connect(host_of(one).peer_id)
        with pytest.raises(TimeoutError):
            await second.synced(timeout=60)
        assert second.registers.get("a") is None
