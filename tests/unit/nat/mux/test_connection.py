"""Connections under trio: streams in all their uses, and backpressure."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from lattica.errors import (
    IncompleteReadError,
    StreamClosedError,
    StreamResetError,
)
from lattica.nat.config import Windows
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream import Stream
from tests.support.pairs.connected import (
    KIB,
    MIB,
    PATTERN,
    End,
    any_pipe,
    connected,
    quiet,
    read_all,
    serve_echo,
)

# --- streams ---


@any_pipe
async def test_echo(pipe, autojump_clock) -> None:
    size = 30_000 if pipe else 2 * MIB
    async with connected(**pipe) as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, b)
        async with a.open() as stream:
            nursery.start_soon(stream.send_all, PATTERN[:size])
            assert await stream.receive_exactly(size) == PATTERN[:size]
        nursery.cancel_scope.cancel()


@any_pipe
async def test_many_streams_both_ways(pipe, autojump_clock) -> None:
    scale = 100 if pipe else 1
    count = 20 if pipe else 60
    sizes = [0, 1, 100 // scale, 5000 // scale, 70_000 // scale, 600_000 // scale]

    async def converse(end: End, index: int) -> None:
        rng = random.Random(index)
        sent = 0
        async with end.open() as stream, trio.open_nursery() as nursery:
            total = sum(rng.sample(sizes, 4))

            async def send() -> None:
                nonlocal sent
                while sent < total:
                    size = min(rng.choice([1, 1000, 50_000]), total - sent)
                    await stream.send_all(PATTERN[index + sent : index + sent + size])
                    sent += size
                await stream.send_eof()

            nursery.start_soon(send)
            assert await read_all(stream) == PATTERN[index : index + total]

    async with connected(**pipe) as (a, b), trio.open_nursery() as servers:
        servers.start_soon(serve_echo, a)
        servers.start_soon(serve_echo, b)
        async with trio.open_nursery() as nursery:
            for index in range(count):
                nursery.start_soon(converse, (a, b)[index % 2], index)
        await quiet()
        assert a.connection.stream_count == b.connection.stream_count == 0
        assert a.budget.used == b.budget.used == 0
        servers.cancel_scope.cancel()


async def test_half_close(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(b"question")
        await mine.send_eof()
        with pytest.raises(StreamClosedError):
            await mine.send_all(b"more")
        theirs = await b.accept()
        assert await read_all(theirs) == b"question"
        assert await theirs.receive_some() == b""
        await theirs.send_all(b"answer")
        await theirs.send_eof()
        assert await read_all(mine) == b"answer"
        await quiet()
        assert a.connection.stream_count == b.connection.stream_count == 0
        await mine.aclose()
        await theirs.aclose()
        await mine.aclose()


async def test_receiving_in_all_ways(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(PATTERN[:100])
        theirs = await b.accept()
        assert await theirs.receive_some(10) == PATTERN[:10]
        assert await theirs.receive_exactly(5) == PATTERN[10:15]
        assert await theirs.receive_exactly(0) == b""
        buffer = bytearray(b"\xaa" * 20)
        assert await theirs.receive_into(memoryview(buffer)[:15]) == 15
        assert buffer == PATTERN[15:30] + b"\xaa" * 5
        view = await theirs.receive_view()
        assert isinstance(view, memoryview)
        assert view == PATTERN[30:100]
        # All that there is fits one call, though it came in pieces.
        for start in range(100, 5100, 1000):
            await mine.send_all(PATTERN[start : start + 1000])
            await quiet()
        buffer = bytearray(10_000)
        assert await theirs.receive_into(buffer) == 5000
        assert buffer[:5000] == PATTERN[100:5100]
        await mine.send_all(b"end")
        await mine.send_eof()
        with pytest.raises(IncompleteReadError, match="3 of 10"):
            await theirs.receive_exactly(10)
        assert await theirs.receive_exactly(3) == b"end"
        with pytest.raises(IncompleteReadError, match="0 of 1"):
            await theirs.receive_exactly(1)
        assert await theirs.receive_exactly(0) == b""
        assert await theirs.receive_some() == b""
        assert len(await theirs.receive_view()) == 0
        assert await theirs.receive_into(buffer) == 0
        # Bytes that a protocol has read too far can be given back.
        theirs.push_back(b"again")
        assert await theirs.receive_some(2) == b"ag"
        assert await read_all(theirs) == b"ain"


async def test_nothing_need_come_for_nothing(autojump_clock) -> None:
    """A message of length 0 is there already."""
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(b"x")
        theirs = await b.accept()
        assert await theirs.receive_some() == b"x"
        with trio.fail_after(1):
            assert await theirs.receive_exactly(0) == b""


async def test_reset_reaches_the_peer_and_all_who_wait(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(b"hello")
        theirs = await b.accept()
        assert await theirs.receive_some() == b"hello"
        quieter = a.open()
        failed = []

        async def fails(function: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(StreamResetError):
                await function()
            failed.append(function)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, theirs.receive_some)
            nursery.start_soon(fails, lambda: theirs.send_all(PATTERN))
            nursery.start_soon(fails, quieter.receive_some)
            await quiet()
            assert not failed
            mine.reset()
            mine.reset()
            quieter.reset()
        assert len(failed) == 3
        for stream in (mine, theirs):
            for method in (stream.receive_view, stream.send_eof, lambda s=stream: s.send_all(b"")):
                with pytest.raises(StreamResetError):
                    await method()
            await stream.aclose()
            assert stream.is_dead
        assert a.connection.stream_count == b.connection.stream_count == 0


async def test_a_block_that_fails_resets_its_stream(autojump_clock) -> None:
    async with connected() as (a, b):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with a.open() as mine:
                await mine.send_all(b"x")
                theirs = await b.accept()
                raise ZeroDivisionError
        with pytest.raises(StreamResetError):
            await read_all(theirs)
        async with a.open() as mine:
            await mine.send_all(b"complete")
        theirs = await b.accept()
        assert await read_all(theirs) == b"complete"


async def test_closed_streams_say_so(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(b"x")
        theirs = await b.accept()
        theirs.push_back(b"read too far")
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(StreamClosedError):
                    await mine.receive_some()

            nursery.start_soon(wait)
            await quiet()
            await mine.aclose()
        with pytest.raises(StreamClosedError):
            await mine.send_all(b"y")
        with pytest.raises(StreamClosedError):
            await mine.receive_some()
        # Also where there is something to read, or where the peer has finished.
        await quiet()
        await theirs.aclose()
        with pytest.raises(StreamClosedError):
            await theirs.receive_some()
        await quiet()
        assert a.connection.stream_count == b.connection.stream_count == 0


async def test_two_tasks_in_one_direction(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(b"x")
        theirs = await b.accept()
        assert await theirs.receive_some() == b"x"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.receive_some)
            nursery.start_soon(theirs.send_all, PATTERN)
            await quiet()
            with pytest.raises(trio.BusyResourceError):
                await theirs.receive_view()
            with pytest.raises(trio.BusyResourceError):
                await theirs.send_all(b"y")
            nursery.cancel_scope.cancel()


# --- backpressure ---


async def test_slow_reader_blocks_only_its_writer(autojump_clock) -> None:
    windows = Windows(send_buffer=100 * KIB)
    async with connected(windows=windows) as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                await mine.send_all(PATTERN[: 10 * KIB])
                written += 10 * KIB

        nursery.start_soon(write)
        theirs = await b.accept()
        await trio.sleep(100)
        assert written <= INITIAL_WINDOW + windows.send_buffer + 10 * KIB
        assert written >= INITIAL_WINDOW
        assert b.budget.used == INITIAL_WINDOW
        # A second stream does not suffer.
        nursery.start_soon(serve_echo, b)
        async with a.open() as other:
            for _ in range(20):
                nursery.start_soon(other.send_all, PATTERN[: 60 * KIB])
                assert await other.receive_exactly(60 * KIB) == PATTERN[: 60 * KIB]
        # Reading lets the writer go on, and no faster.
        before = written
        for _ in range(20):
            await theirs.receive_exactly(100 * KIB)
        await trio.sleep(100)
        assert written >= before + 1800 * KIB
        assert b.budget.used <= 16 * MIB
        nursery.cancel_scope.cancel()


async def test_one_large_write_waits_for_the_reader(autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        sent = trio.Event()

        async def write() -> None:
            await mine.send_all(PATTERN)
            sent.set()

        nursery.start_soon(write)
        theirs = await b.accept()
        await trio.sleep(1000)
        assert not sent.is_set()
        assert b.budget.used == INITIAL_WINDOW
        assert await theirs.receive_exactly(len(PATTERN)) == PATTERN
        await sent.wait()


@pytest.mark.parametrize("kind", ["bytes", "bytearray"])
async def test_writer_keeps_waiting_while_it_receives(kind: str, autojump_clock) -> None:
    """Data that arrives wakes the stream's reader, and must not let its writer go."""
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        size = INITIAL_WINDOW + 600 * KIB
        data = bytearray(PATTERN[:size]) if kind == "bytearray" else PATTERN[:size]
        sent = False

        async def write() -> None:
            nonlocal sent
            await mine.send_all(data)
            sent = True
            if isinstance(data, bytearray):
                data[:] = bytes(len(data))

        nursery.start_soon(write)
        theirs = await b.accept()
        for index in range(20):
            await theirs.send_all(b"%20d" % index)
            assert await mine.receive_exactly(20) == b"%20d" % index
        await quiet()
        assert not sent
        assert mine._core.send_pending == 600 * KIB
        assert await theirs.receive_exactly(size) == PATTERN[:size]


@pytest.mark.parametrize("size", [10, 16 * KIB, 16 * KIB + 1, 500 * KIB])
@any_pipe
async def test_mutable_buffers_may_change_after_a_write(pipe, size: int, autojump_clock) -> None:
    if pipe:
        size = min(size, 20_000)
    async with connected(**pipe) as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(serve_echo, b)
        async with a.open() as stream:
            buffer = bytearray(size)
            for start in range(0, 3 * size, size):
                nursery.start_soon(stream.receive_exactly, 0)
                buffer[:] = PATTERN[start : start + size]
                async with trio.open_nursery() as both:
                    got: list[bytes] = []

                    async def receive(got: list[bytes] = got) -> None:
                        got.append(await stream.receive_exactly(size))

                    both.start_soon(receive)
                    await stream.send_all(memoryview(buffer))
                    buffer[:] = b"\xff" * size
                assert got == [PATTERN[start : start + size]]
        nursery.cancel_scope.cancel()


async def test_typed_buffers_count_in_bytes(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        words = memoryview(bytearray(PATTERN[:80_000])).cast("Q")
        await mine.send_all(words)
        await mine.send_all(memoryview(b""))
        theirs = await b.accept()
        target = memoryview(bytearray(80_000)).cast("I")
        filled = 0
        while filled < 80_000:
            filled += await theirs.receive_into(target[filled // 4 :])
        assert bytes(target) == PATTERN[:80_000]


async def test_small_calls_overtake_a_bulk_transfer(autojump_clock) -> None:
    """Between a call and its answer only so much bulk data passes as was sent before it."""
    async with connected(capacity=64 * KIB) as (a, b), trio.open_nursery() as nursery:
        bulk = a.open()
        await bulk.send_all(b"x")
        sink = await b.accept()

        async def pour() -> None:
            while True:
                await bulk.send_all(PATTERN[: 512 * KIB])

        async def swallow() -> None:
            while await sink.receive_view():
                pass

        nursery.start_soon(pour)
        nursery.start_soon(swallow)
        nursery.start_soon(serve_echo, b)
        async with a.open() as call:
            for _ in range(50):
                before = a.raw.sent
                await call.send_all(b"ping" * 32)
                assert await call.receive_exactly(128) == b"ping" * 32
                # A batch that had been handed over, and one that was made in the meantime.
                assert a.raw.sent - before <= 3 * 524_400
        assert a.raw.sent > 50 * 64 * KIB, "there was no bulk transfer to overtake"
        nursery.cancel_scope.cancel()


# --- giving way ---


async def queued_stream(a: End, b: End, data: bytes, write: int) -> Stream:
    """A stream of `b` on which all of `data` has arrived and nothing was read."""
    mine = a.open()
    for start in range(0, len(data), write):
        await mine.send_all(data[start : start + write])
    await mine.send_eof()
    theirs = await b.accept()
    await quiet()
    return theirs


@pytest.mark.parametrize(("write", "most"), [(KIB, 32), (64 * KIB, 16)])
async def test_what_has_arrived_is_received_without_keeping_others_from_running(
    write: int, most: int, autojump_clock
) -> None:
    """Not a pass of the scheduler for each chunk, but one for each so many."""
    size = 640 * KIB
    windows = Windows(send_buffer=MIB)
    async with connected(windows=windows) as (a, b), trio.open_nursery() as nursery:
        theirs = await queued_stream(a, b, PATTERN[:size], write)
        runs = 0

        async def another() -> None:
            nonlocal runs
            while True:
                runs += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(another)
        await quiet()
        got = bytearray()
        longest, calls, seen = 0, 0, runs
        while part := await theirs.receive_some(write):
            got += part
            calls = calls + 1 if runs == seen else 1
            seen = runs
            longest = max(longest, calls)
        assert bytes(got) == PATTERN[:size]
        # trio shuffles who runs first in a pass, so there may be two turns in a row.
        assert 1 < longest <= 2 * most
        nursery.cancel_scope.cancel()


async def test_a_cancelled_task_receives_nothing_that_has_arrived(autojump_clock) -> None:
    async with connected() as (a, b):
        theirs = await queued_stream(a, b, b"data", KIB)
        with trio.CancelScope() as scope:
            scope.cancel()
            await theirs.receive_some()
        assert scope.cancelled_caught
        assert await theirs.receive_some() == b"data"
