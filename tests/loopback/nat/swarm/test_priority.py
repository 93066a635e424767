"""Priorities of streams on real connections: control before bulk."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from lattica import Priority
from lattica.nat.mux.stream import Stream
from lattica.node import Node
from tests.support.nets.nets import LISTEN_ON, node_config

SINK = "/test/sink/1"
SIZE = 12 << 20
over = pytest.mark.parametrize("listen", list(LISTEN_ON.values()), ids=list(LISTEN_ON))


@over
async def test_what_is_high_overtakes_what_was_begun_before(listen):
    """By much, but not in every single race: on a busy machine both wait for credit sometimes."""
    received: Counter[bytes] = Counter()
    done: list[tuple[bytes, int]] = []

    async def sink(stream: Stream) -> None:
        name = await stream.receive_exactly(4)
        while part := await stream.receive_view():
            received[name] += len(part)
        done.append((name, received[b"low "]))

    async with Node(node_config(listen=listen)) as server, Node(node_config(listen=())) as client:
        server.handle(SINK, sink)
        await client.connect(server.addrs[0])
        beside: list[float] = []
        with trio.fail_after(60):
            while len(beside) < 3:
                done.clear()
                received.clear()
                # Both are open before: else all of the one would go while the other opens.
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
                beside.append(dict(done)[b"high"] / SIZE)
    # With equal shares it would be almost all, as that was begun first.
    assert min(beside) < 0.75


async def pour(stream: Stream, name: bytes) -> None:
    async with stream:
        await stream.send_all(name + bytes(SIZE))
