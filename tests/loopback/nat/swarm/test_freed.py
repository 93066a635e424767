"""What has ended is freed at once, without the cycle collector: memory that waits for it may grow
as large as an enemy likes."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from qh3 import tls

from lattica.errors import ConnectionClosedError, DialError, StreamResetError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.session import MuxSession
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.quic.qh3.core import QuicCore
from lattica.nat.swarm.swarm import Swarm
from tests.support.attacker import attacking, data, propose, syn
from tests.support.freed import freed_at_once
from tests.support.nets.nets import ECHO, LISTEN_ON, ask_echo, running, settled, unused_port

KINDS = (Stream, MuxStream, MuxSession, Connection, QuicCore, tls.Context)
FIN, RST = 4, 8


def living() -> Counter[str]:
    """How many there are of each kind; what is only in cycles counts."""
    found: Counter[str] = Counter()
    for thing in gc.get_objects():
        for kind in KINDS:
            if isinstance(thing, kind):
                found[kind.__name__] += 1
    return found


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


async def nothing_stays(before: Counter[str]) -> None:
    await settled(lambda: living() <= before)


@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_streams_that_have_ended(transport):
    async with running(listen=LISTEN_ON[transport]) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        await ask_echo(client, server.identity.peer_id)
        await settled(lambda: not server.inbound_streams.negotiating)
        with no_collector():
            before = living()
            for _ in range(20):
                await ask_echo(client, server.identity.peer_id, bytes(1000))
            await nothing_stays(before)


@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_streams_that_were_reset_while_they_were_served(transport):
    async with running(listen=LISTEN_ON[transport]) as server, running(listen=()) as client:

        async def read(stream: Stream) -> None:
            await stream.receive_exactly(1_000_000)

        server.protocols.handle("/read/1", read)
        await client.dial(server.identity.peer_id, server.addrs)
        await ask_echo(client, server.identity.peer_id)
        await settled(lambda: not server.inbound_streams.negotiating)
        with no_collector():
            before = living()
            stream = None
            for _ in range(20):
                stream = await client.open_stream(server.identity.peer_id, "/read/1")
                await stream.send_all(bytes(100_000))
                await trio.sleep(0)
                stream.reset()
                with pytest.raises(StreamResetError):
                    await stream.receive_some()
            del stream
            await nothing_stays(before)


async def connect_and_leave(server: Swarm) -> None:
    async with running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        stream = await client.open_stream(server.identity.peer_id, ECHO)
        await stream.send_all(bytes(10))
        await stream.receive_exactly(10)


@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_connections_that_have_ended_with_streams_on_them(transport):
    async with running(listen=LISTEN_ON[transport]) as server:
        await connect_and_leave(server)
        await settled(lambda: not server.registry.total)
        with no_collector():
            before = living()
            for _ in range(5):
                await connect_and_leave(server)
            await settled(lambda: not server.registry.total)
            await nothing_stays(before)


async def test_dials_and_handshakes_that_have_failed():
    async with running() as server, running(listen=()) as client:
        closed = Multiaddr(f"/ip4/127.0.0.1/tcp/{unused_port()}")
        # One is refused, and at the other a peer is with another key.
        wanted = [closed, *server.addrs]
        with freed_at_once(DialError, ConnectionClosedError, OSError):
            for _ in range(3):
                with pytest.raises(DialError):
                    await client.dial(Identity.generate().peer_id, wanted)
            await settled(lambda: not len(server.listeners.pending))


async def test_connections_of_those_who_break_the_protocol():
    async with running() as server:

        async def attack() -> None:
            async with attacking(server.addrs[0]) as enemy:
                await enemy.set_up()
                streams = (syn(n, propose(ECHO)) for n in range(1, 200, 2))
                await enemy.send_frames(*streams, data(1, b"", FIN), data(3, b"", RST))
                await enemy.send_frames(data(2001, b"never opened"))
                await enemy.closed()

        await attack()
        await settled(lambda: not server.registry.total)
        with no_collector():
            before = living()
            for _ in range(3):
                await attack()
            await settled(lambda: not server.registry.total)
            await nothing_stays(before)
