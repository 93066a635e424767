"""Budgets: connections, handshakes and memory, and who has to go when they are used up."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import StreamResetError
from lattica.nat.config import KIB, Limits, Timeouts
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.tcp import TcpTransport
from tests.support.nets.nets import ECHO, advance, ask_echo, running, settled

pytestmark = pytest.mark.usefixtures("swarm_transport")

HOARD = "/test/hoard/1"


@asynccontextmanager
async def crowd(count: int) -> AsyncIterator[list[Swarm]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running(listen=())) for _ in range(count)]


async def empty(swarm: Swarm) -> None:
    await settled(lambda: not swarm.registry.total)


def peers_of(swarm: Swarm) -> set:
    return set(swarm.registry.by_peer)


# --- connections ---


async def test_when_full_the_least_valuable_makes_room(caplog):
    caplog.set_level(logging.DEBUG, "lattica")
    limits = Limits(max_connections=3, low_watermark=1, trim_grace=0)
    async with running(limits=limits) as server, crowd(5) as clients:
        ids = [client.identity.peer_id for client in clients]
        busy, friend, idle, fourth, fifth = clients
        for client in (busy, friend, idle):
            await client.dial(None, server.addrs)
            await server.wait_connected(client.identity.peer_id)
        stream = await busy.open_stream(server.identity.peer_id, [ECHO])
        server.registry.tags.protect(ids[1], "friend")

        await fourth.dial(None, server.addrs)
        await server.wait_connected(ids[3])
        assert peers_of(server) == {ids[0], ids[1], ids[3]}
        await settled(lambda: not idle.registry.total)
        assert "trimmed: this node has too many connections" in caplog.text

        await fifth.dial(None, server.addrs)
        await server.wait_connected(ids[4])
        assert peers_of(server) == {ids[0], ids[1], ids[4]}
        await stream.send_all(b"spared")
        assert await stream.receive_exactly(6) == b"spared"


async def test_when_nobody_can_go_the_newcomer_is_refused(caplog):
    limits = Limits(max_connections=2, trim_grace=0)
    async with running(limits=limits) as server, crowd(4) as clients:
        for client in clients[:2]:
            server.registry.tags.protect(client.identity.peer_id, "friend")
            await client.dial(None, server.addrs)
            await server.wait_connected(client.identity.peer_id)
        for client in clients[2:]:
            await client.dial(None, server.addrs)
            await empty(client)
        assert peers_of(server) == {client.identity.peer_id for client in clients[:2]}
        assert caplog.text.count("connection refused: limit of 2 reached") == 2
        for client in clients[:2]:
            assert await ask_echo(client, server.identity.peer_id) == b"hello"


async def test_many_newcomers_at_once_never_exceed_the_limit():
    limits = Limits(max_connections=4, low_watermark=0.5, trim_grace=0)
    most = 0
    async with running(limits=limits) as server, crowd(16) as clients:

        async def watch(connection):
            nonlocal most
            most = max(most, server.registry.total)

        server.on_connected.append(watch)
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.dial, None, server.addrs)
        await settled(lambda: sum(c.registry.total for c in clients) == server.registry.total)
        assert 2 <= server.registry.total <= 4
        assert most <= 4


@pytest.mark.only_over("tcp", "QUIC needs a clock that goes on")
async def test_own_dials_are_made_and_others_trimmed_for_them(mock_clock):
    limits = Limits(max_connections=2, low_watermark=1, trim_grace=5)
    async with running(limits=limits) as swarm, crowd(3) as others, AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running()) for _ in range(2)]
        for other in others[:2]:
            await other.dial(None, swarm.addrs)
            await swarm.wait_connected(other.identity.peer_id)
        for server in servers:
            swarm.registry.tags.tag(server.identity.peer_id, "mine", 1)
            await swarm.dial(server.identity.peer_id, server.addrs)
        assert swarm.registry.total == 4
        await advance(mock_clock, 3)
        assert swarm.registry.total == 4  # all are in their time of grace
        await advance(mock_clock, 4)
        assert peers_of(swarm) == {server.identity.peer_id for server in servers}


async def test_connections_of_one_peer_are_limited(caplog):
    caplog.set_level(logging.INFO, "lattica")
    limits = Limits(max_connections_per_peer=2)
    async with running(limits=limits) as server, crowd(2) as (client, other):
        kept = [await client.dial(None, server.addrs) for _ in range(2)]
        await settled(lambda: server.registry.total == 2)
        refused = await client.dial(None, server.addrs)
        await settled(lambda: refused.closed_reason is not None)
        assert server.registry.total == 2
        assert caplog.text.count("connection refused: too many to one peer") == 1
        assert not any(connection.closed_reason for connection in kept)
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        await other.dial(None, server.addrs)
        assert await ask_echo(other, server.identity.peer_id) == b"hello"


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_half_open_handshakes_are_limited_and_the_oldest_go(caplog):
    caplog.set_level(logging.INFO, "lattica")
    limits = Limits(max_pending_inbound=3)
    async with running(limits=limits) as server, running(listen=()) as client:
        tcp = TcpTransport()
        conns = []
        for _ in range(3):
            conns.append(await tcp.dial(server.addrs[0]))
            await wait_all_tasks_blocked()
        caplog.clear()
        conns.append(await tcp.dial(server.addrs[0]))
        assert not await conns[0].receive()
        (record,) = caplog.records
        assert "too many" in record.getMessage()
        assert str(conns[0].local_addr) in record.getMessage()
        await client.dial(None, server.addrs)
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        assert not await conns[1].receive()
        for conn in conns:
            conn.abort()
        await settled(lambda: not server.listeners.pending)


# --- memory ---


class Hoarder:
    """Handles streams by not reading them until it is told to go; not even a lost one."""

    def __init__(self) -> None:
        self.go = trio.Event()

    async def __call__(self, stream):
        await self.go.wait()


def held(swarm: Swarm) -> int:
    """Bytes that were received and not read, as they are; not as the budget counts them."""
    return sum(
        len(chunk)
        for connection in swarm.registry
        for yamux in connection.session.streams.values()
        for chunk in yamux.receive_queue
    )


@pytest.mark.parametrize("attackers", [1, 3])
async def test_readers_that_never_read_cannot_exhaust_the_memory(attackers):
    total = 1024 * KIB
    limits = Limits(receive_memory_total=total)
    async with running(limits=limits) as server, running(listen=()) as honest:
        hoard = Hoarder()
        server.protocols.handle(HOARD, hoard)
        peer_id = server.identity.peer_id
        await honest.dial(peer_id, server.addrs)
        lasting = await honest.open_stream(peer_id, [ECHO])
        async with crowd(attackers) as crowd_, trio.open_nursery() as nursery:
            resets = []

            async def flood(swarm):
                for _ in range(12 // attackers):
                    stream = await swarm.open_stream(peer_id, [HOARD])
                    nursery.start_soon(fill, stream)
                    await wait_all_tasks_blocked()

            async def fill(stream):
                try:
                    await stream.send_all(bytes(512 * KIB))
                    await stream.receive_some()
                except StreamResetError as error:
                    resets.append(error)

            for attacker in crowd_:
                await attacker.dial(peer_id, server.addrs)
            for attacker in crowd_:
                nursery.start_soon(flood, attacker)
            for _ in range(20):
                await lasting.send_all(bytes(100 * KIB))
                assert await lasting.receive_exactly(100 * KIB) == bytes(100 * KIB)
                assert await ask_echo(honest, peer_id, bytes(50 * KIB)) == bytes(50 * KIB)
                assert held(server) <= total
                await wait_all_tasks_blocked()
            assert server.receive_memory.used == held(server) > total // 2
            assert resets
            nursery.cancel_scope.cancel()
        await settled(lambda: server.registry.total == 1)
        # The handlers could still read what has arrived; so it counts.
        assert 0 < server.receive_memory.used <= total
        hoard.go.set()
        await settled(lambda: server.receive_memory.used == 0)


async def test_connections_that_come_and_go_cannot_leave_more_behind_than_allowed():
    limits = Limits(receive_memory_total=1024 * KIB)
    async with running(limits=limits) as server:
        hoard = Hoarder()
        server.protocols.handle(HOARD, hoard)
        for _ in range(12):
            async with running(listen=()) as client:
                await client.dial(None, server.addrs)
                stream = await client.open_stream(server.identity.peer_id, [HOARD])
                await stream.send_all(bytes(200 * KIB))
                await settled(lambda: server.receive_memory.used)
            await settled(lambda: not server.registry.total)
            assert server.receive_memory.used <= 1024 * KIB
            gc.collect()
            assert 200 * KIB <= kept_by_all() <= 1024 * KIB
        hoard.go.set()
        await settled(lambda: server.receive_memory.used == 0)


def kept_by_all() -> int:
    """Bytes in the queues of all streams of the process, whoever keeps them alive."""
    streams = [thing for thing in gc.get_objects() if isinstance(thing, MuxStream)]
    return sum(len(chunk) for stream in streams for chunk in stream.receive_queue)


async def test_memory_comes_back_when_it_is_read_reset_or_its_connection_ends():
    async with running() as server, running(listen=()) as client:
        hoard = Hoarder()
        server.protocols.handle(HOARD, hoard)
        peer_id = server.identity.peer_id
        await client.dial(peer_id, server.addrs)
        streams = [await client.open_stream(peer_id, [HOARD]) for _ in range(3)]
        for stream in streams:
            await stream.send_all(bytes(100 * KIB))
        await settled(lambda: held(server) == 300 * KIB)
        assert server.receive_memory.used == 300 * KIB
        streams[0].reset()
        await settled(lambda: server.receive_memory.used == 200 * KIB)
        (connection,) = server.registry
        yamux = next(iter(connection.session.streams.values()))
        assert isinstance(yamux.owner, Stream)
        assert await yamux.owner.receive_exactly(100 * KIB) == bytes(100 * KIB)
        assert server.receive_memory.used == 100 * KIB
        await client.disconnect(peer_id)
        await settled(lambda: not server.registry.total)
        hoard.go.set()
        await settled(lambda: server.receive_memory.used == 0)


async def test_windows_promised_on_one_connection_are_limited():
    """Each stream may hold a window's worth, so that many streams are allowed, and no more."""
    limits = Limits(receive_memory_per_connection=1024 * KIB)
    async with running(limits=limits) as server, running(listen=()) as client:
        server.protocols.handle(HOARD, Hoarder())
        peer_id = server.identity.peer_id
        await client.dial(peer_id, server.addrs)
        await client.open_stream(peer_id, [HOARD])
        streams = [await client.open_stream(peer_id, [HOARD]) for _ in range(7)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(_send_some, stream)
            await wait_all_tasks_blocked(0.02)
            assert held(server) <= 1024 * KIB
            nursery.cancel_scope.cancel()


async def _send_some(stream):
    try:
        await stream.send_all(bytes(2048 * KIB))
    except StreamResetError:
        await trio.sleep_forever()


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_timeouts_end_half_open_handshakes(caplog):
    caplog.set_level(logging.INFO, "lattica")
    async with running(timeouts=Timeouts(handshake=0.1)) as server:
        conn = await TcpTransport().dial(server.addrs[0])
        caplog.clear()
        assert not await conn.receive()
        (record,) = caplog.records
        assert "took too long" in record.getMessage()
        conn.abort()
