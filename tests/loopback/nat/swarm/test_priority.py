"""Priorities of streams on real connections: control before bulk."""

from __future__ import annotations

import pytest
import trio

from lattica import Priority
from lattica.nat.mux.stream import Stream
from lattica.node import Node
from tests.support.nets.nets import LISTEN_ON, node_config

SINK = "/test/sink/1"
over = pytest.mark.parametrize("listen", list(LISTEN_ON.values()), ids=list(LISTEN_ON))


@over
async def test_what_is_high_overtakes_what_was_begun_before(listen):
    done: list[bytes] = []

    async def sink(stream: Stream) -> None:
        name = await stream.receive_exactly(4)
        while await stream.receive_view():
            pass
        done.append(name)

    async with Node(node_config(listen=listen)) as server, Node(node_config(listen=())) as client:
        server.handle(SINK, sink)
        await client.connect(server.addrs[0])
        with trio.fail_after(60):
            # Both are open before: on a busy machine all of the one would go while the other opens.
            low = await client.open_stream(server.peer_id, SINK)
            high = await client.open_stream(server.peer_id, SINK)
            assert low.priority is high.priority is Priority.NORMAL
            low.priority, high.priority = Priority.LOW, Priority.HIGH
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pour, low, b"low ")
                await trio.lowlevel.checkpoint()
                nursery.start_soon(pour, high, b"high")
            while len(done) < 2:
                await trio.sleep(0.01)
    assert done == [b"high", b"low "]


async def pour(stream: Stream, name: bytes) -> None:
    async with stream:
        await stream.send_all(name + bytes(12 << 20))
