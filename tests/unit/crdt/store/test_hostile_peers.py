"""Peers that have a document and want to keep others from it: what they hold, they share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lattica.crdt.config import StoreConfig
from lattica.crdt.store.replication.wire import open_about, receive_hello, welcome
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.store.store import Store
from lattica.crdt.sync.messages import PROTOCOL, TURN, Purpose, encode_ranges
from lattica.crdt.sync.ranges import Range
from lattica.errors import LatticaError, StreamResetError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
from tests.support.doubles.memory_host import MemoryHost, MemoryNet, memory_net


@asynccontextmanager
async def _document(
    net: MemoryNet, folder: Path, **config: object
) -> AsyncIterator[tuple[MemoryHost, SharedDocument]]:
    host = net.host()
    store = Store(
        host,
        net.nursery,
        host.identity,
        folder / str(host.peer_id),
        StoreConfig(**config),  # type: ignore[arg-type]
    )
    yield host, await store.open("cluster")
    await store.aclose()


def _enemy(net: MemoryNet, number: int) -> MemoryHost:
    """One of many keys on one hostile host."""
    enemy = net.host()
    enemy.seen_at = Multiaddr(f"/ip4/203.0.113.7/tcp/{2000 + number}")
    return enemy


async def _trickle(stream: Stream) -> None:
    """Say something that is of no use, and never that it is the other's turn."""
    low = 0
    while True:
        one = Range(low.to_bytes(4, "big"), (low + 1).to_bytes(4, "big"), ())
        await stream.send_message(next(encode_ranges([one])))
        low += 1
        await trio.sleep(1.0)


async def _open(enemy: MemoryHost, victim: MemoryHost, doc: bytes, purpose: Purpose) -> Stream:
    await enemy.connect(victim.peer_id)
    opened = await open_about(enemy, victim.peer_id, doc, purpose)
    assert opened is not None
    return opened[0]


async def _again_and_again(act: Callable[[], Awaitable[object]]) -> None:
    while True:
        with suppress(LatticaError, TimeoutError):
            await act()
        await trio.sleep(0.1)


async def test_exchanges_that_do_not_end_leave_places_to_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with (
        memory_net() as net,
        _document(net, tmp_path) as (victim, document),
        trio.open_nursery() as nursery,
    ):
        doc = document.genesis.doc_id

        async def attack(enemy: MemoryHost) -> None:
            await _trickle(await _open(enemy, victim, doc, Purpose.SYNC))

        for number in range(12):
            nursery.start_soon(_again_and_again, partial(attack, _enemy(net, number)))
        await trio.sleep(10.0)
        honest = net.host()
        honest.seen_at = Multiaddr("/ip4/198.51.100.1/tcp/4001")
        async with await _open(honest, victim, doc, Purpose.SYNC) as stream:
            await stream.send_message(TURN)
            with trio.fail_after(15.0):
                assert await stream.receive_some() == b""  # it is over, and was not reset
        nursery.cancel_scope.cancel()


async def _answer(enemy: MemoryHost, doc: bytes, then: Callable[[Stream], object]) -> None:
    async def serve(stream: Stream) -> None:
        found = await receive_hello(enemy, stream, [doc])
        assert found is not None
        await welcome(enemy, stream, found[0], doc, b"")
        await then(stream)  # type: ignore[misc]

    enemy.handle(PROTOCOL, serve, owner="test")


async def test_a_peer_that_answers_nothing_or_trickles_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    for then in (lambda stream: trio.sleep_forever(), _trickle):
        async with (
            memory_net() as net,
            _document(net, tmp_path) as (victim, document),
            _document(net, tmp_path) as (honest, other),
        ):
            enemy = _enemy(net, 1)
            await _answer(enemy, document.genesis.doc_id, then)
            await victim.connect(enemy.peer_id)
            await victim.connect(honest.peer_id)
            while len(document.peers) < 2:
                await trio.sleep(0.1)
            document.registers["key"] = "value"
            began = trio.current_time()
            assert await document.synced(timeout=60.0) == (honest.peer_id,)
            assert trio.current_time() - began < 15
            assert other.registers["key"] == "value"


async def test_an_exchange_that_brings_nothing_ends(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_net() as net, _document(net, tmp_path) as (victim, document):
        enemy = _enemy(net, 1)
        stream = await _open(enemy, victim, document.genesis.doc_id, Purpose.SYNC)
        began = trio.current_time()
        with pytest.raises(LatticaError):
            await _trickle(stream)
        assert 60 < trio.current_time() - began < 180


async def test_one_host_does_not_fill_the_peers_of_a_document(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with (
        memory_net() as net,
        _document(net, tmp_path, max_peers=4) as (victim, document),
        _document(net, tmp_path) as (honest, other),
    ):
        doc = document.genesis.doc_id
        for number in range(8):
            enemy = _enemy(net, number)
            await _answer(enemy, doc, lambda stream: trio.sleep_forever())
            await _open(enemy, victim, doc, Purpose.PUSH)
        assert len(document.peers) == 4
        await honest.connect(victim.peer_id)
        while honest.peer_id not in document.peers:
            await trio.sleep(0.1)
        assert len(document.peers) == 4
        document.registers["key"] = "value"
        assert await other.synced(timeout=60) == (victim.peer_id,)
        assert other.registers["key"] == "value"


async def test_a_peer_has_one_stream_of_a_kind_for_a_document(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_net() as net, _document(net, tmp_path) as (victim, document):
        enemy, doc = _enemy(net, 1), document.genesis.doc_id
        for purpose in (Purpose.PUSH, Purpose.SYNC):
            former = await _open(enemy, victim, doc, purpose)
            now = await _open(enemy, victim, doc, purpose)
            with pytest.raises(StreamResetError):
                await former.receive_exactly(1 << 20)
            assert not now.is_gone


async def test_a_peer_that_goes_silent_is_named_in_a_line(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It was a traceback, as of a fault of this program."""
    async with memory_net() as net, _document(net, tmp_path) as (victim, document):
        with caplog.at_level(logging.INFO):
            stream = await _open(net.host(), victim, document.genesis.doc_id, Purpose.SYNC)
            with pytest.raises(StreamResetError):
                await stream.receive_message(1024)
        (line,) = [each for each in caplog.records if "stream reset" in each.message]
        assert "a peer said nothing about a document for 30 s" in line.message
        assert (line.levelname, line.exc_info) == ("INFO", None)
