"""More streams than the limits allow: which count, which wait, and whose limit it is."""

from __future__ import annotations

import pytest
import trio

from lattica.errors import PeerLimitError, ResourceLimitError
from lattica.nat.config import KIB, Limits
from lattica.nat.mux.stream import Stream
from lattica.node import Node
from tests.support.nets.nets import ECHO, LISTEN_ON, echo, node_config, settled

SLOW = "/test/slow/1"
over = pytest.mark.parametrize("listen", list(LISTEN_ON.values()), ids=list(LISTEN_ON))
FEW = Limits(receive_memory_per_connection=8 * 256 * KIB)
"""For eight streams, or nine."""


async def forever(stream: Stream) -> None:
    await trio.sleep_forever()


async def opened(node: Node, peer, count: int, protocol: str = ECHO) -> list[Stream]:
    streams = []
    for _ in range(count):
        stream = await node.open_stream(peer, protocol, timeout=60)
        await stream.send_all(b"?")
        streams.append(stream)
    return streams


@over
async def test_closed_streams_do_not_count_though_their_handlers_go_on(listen):
    async with (
        Node(node_config(listen=listen, limits=FEW)) as server,
        Node(node_config(listen=(), limits=FEW)) as client,
    ):
        server.handle(SLOW, forever)
        await client.connect(server.addrs[0])
        for _ in range(4):
            for stream in await opened(client, server.peer_id, 4, SLOW):
                await stream.aclose()
        (there,) = server.swarm.registry
        await settled(lambda: there.stream_count == 16)
        await settled(lambda: there.session.has_place)


@over
async def test_a_stream_waits_for_a_place_of_this_node(listen):
    async with (
        Node(node_config(listen=listen)) as server,
        Node(node_config(listen=(), limits=FEW)) as client,
    ):
        server.handle(ECHO, echo)
        await client.connect(server.addrs[0])
        await settled(lambda: not next(iter(client.swarm.registry)).stream_count)
        streams = await opened(client, server.peer_id, 8)
        with pytest.raises(ResourceLimitError, match=r"this node's limits\.receive_memory"):
            await client.open_stream(server.peer_id, ECHO, timeout=3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_soon, streams[0])
            stream = await client.open_stream(server.peer_id, ECHO, timeout=60)
            assert await answered(stream)


@over
async def test_a_stream_waits_for_a_place_of_the_peer(listen):
    async with (
        Node(node_config(listen=listen, limits=FEW)) as server,
        Node(node_config(listen=())) as client,
    ):
        server.handle(ECHO, echo)
        await client.connect(server.addrs[0])
        await settled(lambda: not next(iter(client.swarm.registry)).stream_count)
        streams = await opened(client, server.peer_id, 8)
        for stream in streams:
            assert await stream.receive_exactly(1) == b"?"
        (connection,) = client.swarm.registry
        connection.known_protocols.discard(ECHO)  # the refusal is heard before it is used
        with pytest.raises(ResourceLimitError, match="the peer's limits allow no more"):
            await client.open_stream(server.peer_id, ECHO, timeout=3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_soon, streams[0])
            stream = await client.open_stream(server.peer_id, ECHO, timeout=60)
            assert await answered(stream)
        assert not connection.peer_is_full


async def end_soon(stream: Stream) -> None:
    await trio.sleep(0.2)
    await stream.aclose()


async def answered(stream: Stream) -> bool:
    await stream.send_all(b"hello")
    return await stream.receive_exactly(5) == b"hello"


@over
async def test_a_network_has_so_many_streams_whatever_they_are_for(listen):
    limits = Limits(max_inbound_streams_per_network=8)
    async with (
        Node(node_config(listen=listen, limits=limits)) as server,
        Node(node_config(listen=())) as hoarder,
        Node(node_config(listen=())) as other,
    ):
        server.handle(SLOW, forever, cancel_when_gone=True)
        server.handle(ECHO, echo)
        for client in (hoarder, other):
            await client.connect(server.addrs[0])
        held = server.swarm.inbound_streams._of_network
        await settled(lambda: not held)  # what is asked at the beginning has been answered
        streams = await opened(hoarder, server.peer_id, 8, SLOW)
        (places,) = held.values()
        await settled(lambda: len(places) == 8)
        stream = await other.open_stream(server.peer_id, ECHO, timeout=60)
        assert await answered(stream)
        with pytest.raises(PeerLimitError):  # the oldest of whoever has most
            await streams[0].receive_some()
        with pytest.raises(ResourceLimitError, match="the peer's limits allow no more"):
            await hoarder.open_stream(server.peer_id, ECHO, timeout=0.5)
        assert not any(each.is_dead for each in streams[1:])
        await stream.aclose()
        for each in streams[1:]:
            each.reset()
        await settled(lambda: not held)
