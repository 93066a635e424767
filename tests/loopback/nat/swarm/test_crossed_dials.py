"""A dial that meets one of the peer's: TCP joins the two, and the peer may look for another.

A node that comes back on its port with a new key is dialed by those who knew the old one. Where
its own dial meets theirs, both are initiators of one connection, which they end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing, nullcontext

import pytest
import trio

from lattica.errors import DialError, PeerMismatchError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Direction
from lattica.nat.swarm.dialing.connector import Connector
from lattica.nat.transport.base import RawConn
from lattica.nat.transport.tcp import TcpTransport
from tests.support.nets.nets import running, swarm_config

PEER, OLD = Identity.generate(), Identity.generate()
ROUNDS = 8  # each with keys by chance, which decide who becomes the responder


def peer_connector() -> Connector:
    return Connector(PEER, swarm_config(), lambda stream: None)


async def look_for_the_old_node(raw: RawConn) -> None:
    """What a peer does whose dial became this connection."""
    with pytest.raises(PeerMismatchError):
        await peer_connector().connect(raw, Direction.OUTBOUND, OLD.peer_id, initiator=True)
    raw.abort()


async def hang_up(raw: RawConn) -> None:
    await raw.receive()
    raw.abort()


async def dial(
    *meetings: Callable[[RawConn], Awaitable[None]], failure: str | None = None
) -> list[int]:
    """Dial a peer that meets the first connections so, and answers the next; return the port
    that the dialer listens on, and then the source port of each connection.
    """
    listen = TcpTransport().listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
    async with (
        aclosing(await listen) as listener,
        running() as client,
        trio.open_nursery() as nursery,
    ):
        ports = [to_endpoint(client.addrs[0]).port]

        async def accept() -> RawConn:
            raw = await listener.accept()
            ports.append(to_endpoint(raw.remote_addr).port)
            return raw

        async def peer() -> None:
            for meet in meetings:
                await meet(await accept())
            raw = await accept()
            answered = await peer_connector().connect(raw, Direction.INBOUND, initiator=False)
            assert answered.peer_id == client.identity.peer_id

        nursery.start_soon(peer)
        with pytest.raises(DialError, match=failure) if failure else nullcontext():
            connection = await client.dial(PEER.peer_id, [listener.addrs[0]])
            assert connection.peer_id == PEER.peer_id
            connection.abort("seen")
        nursery.cancel_scope.cancel()
    return ports


async def test_a_dial_that_met_one_for_somebody_else_goes_on_from_another_port() -> None:
    for _ in range(ROUNDS):
        listening, first, second = await dial(look_for_the_old_node)
        assert first == listening
        assert second != listening


async def test_it_goes_on_once() -> None:
    meetings = [look_for_the_old_node, look_for_the_old_node]
    ports = await dial(*meetings, failure="the peer closed during")
    assert len(ports) == 1 + len(meetings)


async def test_a_peer_that_hangs_up_is_not_asked_again() -> None:
    listening, only = await dial(hang_up, failure="the peer closed during the negotiation of sec")
    assert only == listening
