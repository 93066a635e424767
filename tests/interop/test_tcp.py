"""TCP, Noise, yamux, identify and ping with implementations we did not write.

go-libp2p (p2pd), js-libp2p and py-libp2p's own host, each dialing and being dialed.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from lattica.errors import DialError, StreamResetError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.mux.stream import Stream
from lattica.node import Node
from tests.interop.foreign import ECHO, IDENTIFY, PING, EchoResult, ForeignError, ForeignPeer
from tests.interop.ours import (
    address,
    call_echo,
    eventually,
    learned,
    our_node,
    partner_connected,
    partner_learned,
    ping,
)

pytestmark = pytest.mark.foreign

MIB = 1024 * 1024


async def exercise(node: Node, partner: ForeignPeer) -> None:
    """Everything two connected peers do with one another, started from both sides."""
    await ping(node, partner.peer_id)
    assert await partner.ping(str(node.peer_id)) is not None
    # We offered AES-256-GCM in a field of the handshake that nobody else knows.
    (peer,) = node.peers()
    assert {connection.cipher for connection in peer.connections} == {"chacha20-poly1305"}

    spoken = {PING, IDENTIFY, ECHO}
    await eventually(lambda: spoken <= learned(node, partner.peer_id), f"identify {partner.name}")
    known = await partner_learned(partner, node.peer_id)
    assert spoken <= set(known.protocols)

    # More than a window in each direction, so that windows have to be given and used up.
    size = 6 * MIB
    half_close = partner.name != "go"  # p2pd ends both directions of a stream at once
    ours = await call_echo(node, partner.peer_id, size, half_close_first=half_close)
    assert ours == EchoResult(size, size, same=True)
    assert await partner.echo(str(node.peer_id), size) == EchoResult(size, size, same=True)


async def test_we_dial(start_partner):
    async with start_partner() as partner, our_node() as node:
        assert str(await node.connect(partner.addrs[0])) == partner.peer_id
        await partner_connected(partner, node.peer_id)
        await exercise(node, partner)


async def test_we_are_dialed(start_partner):
    async with start_partner() as partner, our_node() as node:
        await partner.connect(address(node))
        await node.wait_connected(partner.peer_id, timeout=120)
        await exercise(node, partner)


async def test_many_streams_at_once(start_partner):
    async with start_partner() as partner, our_node() as node:
        await node.connect(partner.addrs[0])
        results: list[EchoResult] = []

        async def one(size: int) -> None:
            half_close = partner.name != "go"
            results.append(
                await call_echo(node, partner.peer_id, size, half_close_first=half_close)
            )

        sizes = [1, 1000, 65_536, 300_000] * 8
        async with trio.open_nursery() as nursery:
            for size in sizes:
                nursery.start_soon(one, size)
        assert sorted(result.received for result in results) == sorted(sizes)
        assert all(result.same for result in results)


async def test_both_dial_at_once(start_partner):
    async with start_partner() as partner, our_node() as node:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.connect, partner.addrs[0])
            nursery.start_soon(partner.connect, address(node))
        size = 100_000
        half_close = partner.name != "go"
        assert await partner.echo(str(node.peer_id), size) == EchoResult(size, size, same=True)
        ours = await call_echo(node, partner.peer_id, size, half_close_first=half_close)
        assert ours == EchoResult(size, size, same=True)


async def test_wrong_peer_id_is_refused_by_us(start_partner):
    async with start_partner() as partner, our_node() as node:
        somebody = Identity.generate().peer_id
        wrong = partner.addrs[0].replace(partner.peer_id, str(somebody))
        with pytest.raises(DialError, match=f"expected peer {somebody}.*{partner.peer_id}"):
            await node.connect(wrong)
        assert not node.is_connected(somebody)
        assert not node.is_connected(partner.peer_id)
        # The address is good: only the expectation was wrong.
        await node.connect(partner.addrs[0])


async def test_wrong_peer_id_is_refused_by_the_partner(start_partner):
    async with start_partner() as partner, our_node() as node:
        somebody = Identity.generate().peer_id
        wrong = address(node).replace(str(node.peer_id), str(somebody))
        with pytest.raises(ForeignError):
            await partner.connect(wrong)
        await eventually(lambda: not node.is_connected(partner.peer_id), "the end of it")
        await partner.connect(address(node))
        await ping(node, partner.peer_id)


async def test_reset_costs_the_stream_and_not_the_connection(start_partner):
    """We reset one of ours while it carries data, and one that the partner opened."""
    async with start_partner() as partner, our_node() as node:
        await node.connect(partner.addrs[0])
        stream = await node.open_stream(partner.peer_id, ECHO)
        await stream.send_all(bytes(100_000))
        stream.reset()
        with pytest.raises(StreamResetError):
            await stream.receive_some()

        async def refuse(stream: Stream) -> None:
            await stream.receive_some()
            stream.reset()

        node.handle(ECHO, refuse)
        with suppress(ForeignError):
            outcome = await partner.echo(str(node.peer_id), 1_000_000)
            assert outcome.received == 0

        await ping(node, partner.peer_id)
        assert [len(status.connections) for status in node.peers()] == [1]
        await partner_connected(partner, node.peer_id)


async def test_disconnect_is_noticed(start_partner):
    async with start_partner() as partner:
        async with our_node() as node:
            await node.connect(partner.addrs[0])
            await ping(node, partner.peer_id)
            await node.disconnect(partner.peer_id)
            await partner_connected(partner, node.peer_id, to_us=False)
            await node.connect(partner.addrs[0])
            await ping(node, partner.peer_id)
        # And the same by shutting down.
        await partner_connected(partner, node.peer_id, to_us=False)
