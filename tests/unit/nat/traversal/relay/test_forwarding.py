"""What a relay passes on leaves together, and a circuit hands out together what has come."""

from __future__ import annotations

import trio

from lattica.nat.mux.stream import Stream
from lattica.nat.traversal.relay.circuit import CircuitConn
from lattica.nat.traversal.relay.server.books import Circuit
from lattica.nat.traversal.relay.server.forwarding import FROM_SOURCE, forward
from lattica.nat.traversal.relay.server.limits import CircuitLimits
from tests.support.pairs.connected import ALICE, BOB, KIB, PATTERN, connected, quiet, read_all

PIECE = 60 * KIB
UNLIMITED = CircuitLimits()


def circuit() -> Circuit:
    return Circuit(
        ALICE.peer_id, BOB.peer_id, UNLIMITED, 0.0, network="", is_stranger=False, shared=None
    )


async def test_pieces_that_have_come_leave_together(autojump_clock) -> None:
    async with connected() as (source, near), connected() as (far, target):
        sent = PATTERN[: 4 * PIECE]
        async with source.open() as stream:
            for start in range(0, len(sent), PIECE):
                await stream.send_all(sent[start : start + PIECE])
                await quiet()
        origin = await near.accept()
        goal = far.open()
        before = far.raw.sends
        progress: list[int] = []
        await forward(origin, goal, circuit(), FROM_SOURCE, lambda: progress.append(1))
        assert await read_all(await target.accept()) == sent
        assert far.raw.sends - before < len(progress)
        goal.reset()


async def test_no_more_waits_than_a_send_buffer_and_a_piece(autojump_clock) -> None:
    async with connected() as (source, near), connected() as (far, target):
        async with source.open() as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, PATTERN)
            goal = far.open()
            origin = await near.accept()
            nursery.start_soon(forward, origin, goal, circuit(), FROM_SOURCE, lambda: None)
            await quiet()
            await target.accept()  # which does not read
            assert 0 < goal._core.send_pending <= far.connection.send_buffer + 64 * KIB
            nursery.cancel_scope.cancel()
        goal.reset()


async def test_a_circuit_hands_out_together_what_has_come(autojump_clock) -> None:
    async with connected() as (a, b):
        stream = a.open()
        for start in range(0, 3 * PIECE, PIECE):
            await stream.send_all(PATTERN[start : start + PIECE])
            await quiet()
        received: Stream = await b.accept()
        view = await CircuitConn(received).receive()
        assert view == PATTERN[: 3 * PIECE]
        stream.reset()
