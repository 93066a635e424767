"""Readers that need many bytes: woken once, and what they need put straight into their memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.errors import IncompleteReadError, RemoteProtocolError
from lattica.nat.mux.events import EventKind
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.secure.noise import CipherState, TransportReader, TransportWriter
from tests.support.clock import Clock
from tests.support.pairs.connected import PATTERN, any_pipe, connected, quiet
from tests.support.pairs.mux_streams import take_all
from tests.support.pairs.yamux_pair import DATA, FIN, SYN, Side, data_frame, drain, frame

HALF = INITIAL_WINDOW // 2


def opened() -> tuple[Side, MuxStream]:
    side = Side(initiator=False, clock=Clock())
    side.receive(frame(DATA, SYN, 1, 0))
    drain(side.session)
    side.events.clear()
    return side, side.accepted[-1]


def test_memory_that_waits_is_filled_and_then_told_once() -> None:
    side, stream = opened()
    memory = bytearray(1000)
    stream.sink = memoryview(memory)
    side.receive(data_frame(1, PATTERN[:400]))
    assert (stream.sink_filled, side.events, side.session.budget.used) == (400, [], 0)
    side.receive(data_frame(1, PATTERN[400:1010]))
    assert memory == PATTERN[:1000]
    assert {event.kind for event in side.events} == {EventKind.READABLE}
    assert take_all(stream) == PATTERN[1000:1010]
    assert side.session.budget.used == 0


def test_memory_that_waits_counts_as_read() -> None:
    side, stream = opened()
    stream.sink = memoryview(bytearray(INITIAL_WINDOW))
    side.receive(data_frame(1, bytes(HALF)))
    assert stream.id in side.session.window_updates_due


def test_a_place_is_offered_for_what_the_frame_and_the_memory_have_room_for() -> None:
    side, stream = opened()
    session, memory = side.session, bytearray(1000)
    stream.sink = memoryview(memory)
    assert session.place(10) is None  # no frame has begun
    side.receive(data_frame(1, bytes(700))[:12])
    assert session.place(701) is None
    assert session.place(0) is None
    place = session.place(700)
    assert place is not None
    place[:] = PATTERN[:700]
    assert session.placed(700) == []
    assert session.place(1) is None  # the frame is over
    side.receive(data_frame(1, bytes(301), flags=FIN)[:12])
    assert session.place(301) is None  # of which 300 have room
    place = session.place(300)
    assert place is not None
    place[:] = PATTERN[700:1000]
    assert [event.kind for event in session.placed(300)] == [EventKind.READABLE]
    side.receive(b"!")
    assert (bytes(memory), take_all(stream), stream.received_fin) == (PATTERN[:1000], b"!", True)


@pytest.mark.parametrize("end", ["reset", "discard_received"])
def test_no_place_is_offered_on_a_stream_that_has_ended_here(end: str) -> None:
    side, stream = opened()
    stream.sink = memoryview(bytearray(100))
    side.receive(data_frame(1, bytes(100))[:12])
    getattr(side.session, end)(stream)
    assert side.session.place(100) is None
    side.receive(bytes(100))
    assert stream.sink_filled == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12), st.integers(1, 5000))
def test_nothing_is_lost_or_doubled_however_it_comes(sizes: list[int], room: int) -> None:
    side, stream = opened()
    memory = bytearray(room)
    stream.sink = memoryview(memory)
    sent = 0
    for size in sizes:
        side.receive(data_frame(1, PATTERN[sent : sent + size]))
        sent += size
    received = bytes(memory[: stream.sink_filled]) + take_all(stream)
    assert received == PATTERN[:sent]
    assert side.session.budget.used == 0


@any_pipe
async def test_a_reader_of_many_bytes_gets_them(pipe: Any, autojump_clock) -> None:
    size = 50_000 if "tiny" in pipe else 3 * INITIAL_WINDOW + 7
    async with connected(**pipe) as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        nursery.start_soon(mine.send_all, PATTERN[: 2 * size])
        theirs = await b.accept()
        target = bytearray(size)
        assert await theirs.receive_into(target, fill=True) == size
        assert target == PATTERN[:size]
        assert await theirs.receive_exactly(size) == PATTERN[size : 2 * size]


async def test_nothing_is_lost_when_a_reader_gives_up_with_its_memory_half_full(
    autojump_clock,
) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(PATTERN[:1])
        theirs = await b.accept()
        assert await theirs.receive_exactly(1) == PATTERN[:1]
        for receive in (
            lambda: theirs.receive_into(bytearray(HALF), fill=True),
            lambda: theirs.receive_exactly(HALF),
        ):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    await quiet()
                    await mine.send_all(PATTERN[: HALF // 2])
                    await quiet()
                    with pytest.raises(trio.BusyResourceError):
                        await theirs.receive_into(bytearray(HALF), fill=True)
                    with pytest.raises(trio.BusyResourceError):
                        await theirs.receive_view()
                    scope.cancel()
            assert await theirs.receive_exactly(HALF // 2) == PATTERN[: HALF // 2]
        assert b.connection.session.budget.used == 0


async def test_memory_that_is_half_full_ends_with_the_stream(autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        await mine.send_all(PATTERN[:1])
        theirs = await b.accept()
        await theirs.receive_exactly(1)
        target = bytearray(HALF)
        counts: list[int] = []

        async def receive() -> None:
            counts.append(await theirs.receive_into(target, fill=True))
            with pytest.raises(IncompleteReadError):
                await theirs.receive_exactly(HALF)

        nursery.start_soon(receive)
        await quiet()
        await mine.send_all(PATTERN[:1000])
        await quiet()
        await mine.send_eof()
        await quiet()
        assert counts == [1000]
        assert target[:1000] == PATTERN[:1000]


def test_a_message_is_decrypted_to_where_it_belongs() -> None:
    key = bytes(32)
    out = bytearray(100)
    size = TransportWriter(CipherState(key)).seal_into(memoryview(PATTERN[:50]), memoryview(out))
    reader = TransportReader(CipherState(key))
    (sealed,) = reader.split(bytes(out[:size]))
    place = bytearray(50)
    reader.open_into(sealed, memoryview(place))
    assert place == PATTERN[:50]
    again = TransportReader(CipherState(key))
    out[size - 1] ^= 1
    (spoiled,) = again.split(bytes(out[:size]))
    with pytest.raises(RemoteProtocolError, match="decrypt"):
        again.open_into(spoiled, memoryview(place))
