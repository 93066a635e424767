"""What is urgent overtakes what was begun before, where the network is what both wait for.

On loopback nothing is: there both wait for credit most of the time, and take turns in that.
"""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from lattica.nat.mux.priority import Priority
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.stream_state import MuxStream
from tests.support.pairs.connected import KIB, MIB, connected
from tests.support.pairs.mux_streams import take_all, write
from tests.support.pairs.quic_pair import Link, Pair

OVER_YAMUX, OVER_QUIC = 8 * MIB, 2 * MIB
"""Bytes of each stream. Of yamux 512 KiB may be on their way when the second begins."""
RATE = 4 * MIB
"""Bytes a second of the network."""
EQUAL, MARKED = (Priority.NORMAL, Priority.NORMAL), (Priority.LOW, Priority.HIGH)
RESULTS = pytest.mark.parametrize(
    ("priorities", "least", "most"),
    [(EQUAL, 0.8, 1.0), (MARKED, 0.0, 0.4)],
    ids=["equal", "marked"],
)
"""How much of the first has arrived, of all of it, when the second one is over: a small share goes
out in any case (0.17), and more where the second one's task has to wait for the processor."""


@RESULTS
async def test_over_yamux(priorities, least, most, autojump_clock):
    received: Counter[bytes] = Counter()
    beside: list[float] = []

    async def pour(stream: Stream, name: bytes) -> None:
        async with stream:
            await stream.send_all(name + bytes(OVER_YAMUX))

    async def take(stream: Stream) -> None:
        name = await stream.receive_exactly(6)
        while part := await stream.receive_some():
            received[name] += len(part)
        if name == b"second":
            beside.append(received[b"first "] / OVER_YAMUX)

    async with connected(capacity=64 * KIB) as (a, b), trio.open_nursery() as nursery:
        b.raw.rate = RATE
        first, second = streams = a.open(), a.open()
        first.priority, second.priority = priorities
        nursery.start_soon(pour, first, b"first ")
        await trio.sleep(0.02)
        nursery.start_soon(pour, second, b"second")
        for _ in streams:
            nursery.start_soon(take, await b.accept())
    assert [stream.priority for stream in streams] == list(priorities)
    assert least <= beside[0] <= most


@RESULTS
def test_over_quic(priorities, least, most):
    pair = Pair(Link(delay=0.01, rate=RATE, queue=128 * KIB)).establish()
    (first, first_end), (second, second_end) = pair.open(), pair.open()
    for stream, priority in zip((first, second), priorities, strict=True):
        stream.session.set_priority(stream, priority)
    received: Counter[MuxStream] = Counter()

    def take() -> None:
        for end in (first_end, second_end):
            received[end] += len(take_all(end))

    take()
    received.clear()
    write(first, bytes(OVER_QUIC))
    pair.run(seconds=0.02, each=take)
    write(second, bytes(OVER_QUIC))
    assert pair.run(lambda: received[second_end] >= OVER_QUIC, each=take)
    assert least <= received[first_end] / OVER_QUIC <= most
