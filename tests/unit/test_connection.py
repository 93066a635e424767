"""Connections under trio: streams, cancellation at every point, backpressure, loss and faults."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from lattica.errors import (
    ConnectionClosedError,
    IncompleteReadError,
    StreamClosedError,
    StreamResetError,
)
from lattica.nat.config import Limits, Timeouts, Windows
from lattica.nat.connection import Connection
from lattica.nat.noise import frame as noise_frame
from lattica.nat.stream import Stream
from lattica.nat.yamux_frames import INITIAL_WINDOW
from tests.connected import (
    BOB,
    End,
    ManualPeer,
    Pipe,
    against_manual_peer,
    connected,
    make_end,
    pipe_pair,
    read_all,
    serve_echo,
    tick,
    upgraded_pair,
)
from tests.yamux_pair import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Frame,
    data_frame,
    frame,
    parse,
)

KIB = 1024
MIB = 1024 * KIB
PATTERN = random.Random(7).randbytes(4 * MIB)

pytestmark = pytest.mark.usefixtures("autojump_clock")

any_pipe = pytest.mark.parametrize(
    "pipe",
    [{}, {"capacity": 1000}, {"tiny": 1}],
    ids=["wide", "narrow", "tiny"],
)


async def quiet(*connections: Connection) -> None:
    """Let everything that is under way come to rest."""
    for _ in range(200):
        await trio.lowlevel.checkpoint()


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
        with pytest.raises(ZeroDivisionError):
            async with a.open() as mine:
                await mine.send_all(b"x")
                theirs = await b.accept()
                1 / 0  # noqa: B018
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


# --- cancellation ---


async def cancel_at(ticks: int, function: Callable[[], Awaitable[object]]) -> bool:
    """Run `function`, cancelled after `ticks` turns of the scheduler; True if it had ended."""
    done = False

    async def run() -> None:
        nonlocal done
        with scope:
            await function()
            done = True

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        scope.cancel()
    return done


async def chatter(end: End, stop: trio.Event) -> None:
    """Another stream of the connection, which must not notice anything."""
    async with end.open() as stream:
        number = 0
        while not stop.is_set():
            number += 1
            size = number * 37 % 3000 + 1
            await stream.send_all(PATTERN[number : number + size])
            assert await stream.receive_exactly(size) == PATTERN[number : number + size]
        assert number > 3
        await stream.send_eof()
        assert await read_all(stream) == b""


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview"])
@pytest.mark.parametrize(
    ("pipe", "size"),
    [({}, 700_000), ({"capacity": 20_000}, 300_000), ({"tiny": 3}, 20_000), ({}, 3000)],
    ids=["wide", "narrow", "tiny", "small"],
)
async def test_write_cancelled_at_every_point(pipe, size: int, kind: str, autojump_clock) -> None:
    """What arrives is a prefix, the stream goes on after it, and the others notice nothing."""
    windows = Windows(send_buffer=50_000)
    unfinished = 0
    lengths = set()
    async with connected(**pipe, windows=windows) as (a, b), trio.open_nursery() as nursery:
        stop = trio.Event()
        nursery.start_soon(serve_echo, a)
        nursery.start_soon(chatter, b, stop)
        ticks, finished = 0, 0
        # A few more after the first that finishes: the order of tasks is not quite the same.
        while finished < 3:
            start = ticks * 11
            expected = PATTERN[start : start + size]
            data = bytearray(expected) if kind != "bytes" else expected
            mine = a.open()
            await mine.send_all(b"begin")
            theirs = await b.accept()
            got: list[bytes] = []
            collected = trio.Event()

            async def collect(
                stream: Stream = theirs, got: list[bytes] = got, collected: trio.Event = collected
            ) -> None:
                got.append(await read_all(stream))
                collected.set()

            nursery.start_soon(collect)
            done = await cancel_at(
                ticks,
                lambda s=mine, d=data: s.send_all(memoryview(d) if kind == "memoryview" else d),
            )
            if isinstance(data, bytearray):
                data[:] = b"\xff" * len(data)  # it is ours again, cancelled or not
            await mine.send_all(b"tail")
            await mine.aclose()
            await collected.wait()
            assert got[0].startswith(b"begin")
            assert got[0].endswith(b"tail")
            body = got[0][5:-4]
            assert body == expected[: len(body)]
            if done:
                assert len(body) == size
                finished += 1
            else:
                unfinished += 1
                lengths.add(len(body))
            await theirs.aclose()
            ticks += 1
            assert ticks < 2000
        stop.set()
        await trio.sleep(1)
        assert a.connection.stream_count == b.connection.stream_count == 0
        nursery.cancel_scope.cancel()
    if size > windows.send_buffer:
        # It was cancelled before, while and after parts of it left.
        assert unfinished > 3
        assert len(lengths) > 1
        assert 0 in lengths


@any_pipe
async def test_conversation_cancelled_at_every_point(pipe, autojump_clock) -> None:
    """Opening, sending, receiving and closing: none of it can be torn."""
    size = 2000 if pipe else 400_000
    async with connected(**pipe) as (a, b), trio.open_nursery() as nursery:
        stop = trio.Event()
        nursery.start_soon(serve_echo, a)
        nursery.start_soon(chatter, b, stop)

        async def talk() -> None:
            async with a.open() as stream:
                async with trio.open_nursery() as sender:
                    sender.start_soon(stream.send_all, PATTERN[:size])
                    assert await stream.receive_exactly(size) == PATTERN[:size]
                await stream.send_eof()
                assert await read_all(stream) == b""

        async def serve(stream: Stream) -> None:
            try:
                async with stream:
                    while data := await stream.receive_some():
                        await stream.send_all(data)
            except StreamResetError:
                pass

        async def accept() -> None:
            while True:
                nursery.start_soon(serve, await b.accept())

        nursery.start_soon(accept)
        # Every point near the beginning, then ever wider steps.
        ticks, count = 0, 0
        while not await cancel_at(ticks, talk):
            count += 1
            ticks += 1 + ticks // 30
        assert count > 10
        stop.set()
        await trio.sleep(1)
        assert a.connection.stream_count == b.connection.stream_count == 0
        assert a.budget.used == b.budget.used == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["some", "few", "view", "into", "exactly"])
@any_pipe
async def test_receive_cancelled_at_every_point(pipe, how: str, autojump_clock) -> None:
    """No byte is lost."""
    size = 5_000 if pipe else 500_000
    async with connected(**pipe) as (a, b), trio.open_nursery() as nursery:
        mine = a.open()

        async def send() -> None:
            await mine.send_all(PATTERN[:size])
            await mine.send_eof()

        nursery.start_soon(send)
        theirs = await b.accept()
        got = bytearray()
        cancelled = 0

        async def receive() -> None:
            nonlocal ended
            if how == "some":
                part = await theirs.receive_some()
            elif how == "few":
                part = await theirs.receive_some(size // 50)
            elif how == "view":
                part = bytes(await theirs.receive_view())
            elif how == "into":
                buffer = bytearray(size // 30)
                part = bytes(buffer[: await theirs.receive_into(buffer)])
            else:
                try:
                    part = await theirs.receive_exactly(size // 3)
                except IncompleteReadError:
                    part = await theirs.receive_exactly(size % (size // 3))
                    ended = True
            got.extend(part)
            ended = ended or not part

        ended = False
        ticks = 0
        while not ended:
            # Long enough, now and then, for the slowest to get on.
            ticks = (ticks + 1) % 400
            if not await cancel_at(ticks, receive):
                cancelled += 1
        assert bytes(got) == PATTERN[:size]
        assert cancelled > 0


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
        assert mine._yamux.send_pending == 600 * KIB
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
                assert a.raw.sent - before <= 3 * 262_200
        assert a.raw.sent > 50 * 64 * KIB, "there was no bulk transfer to overtake"
        nursery.cancel_scope.cancel()


# --- the end of a connection ---


async def lose_abort(a: End) -> None:
    a.connection.abort("pulled the plug")


async def lose_raw(a: End) -> None:
    a.raw.abort()


async def lose_timeout(a: End) -> None:
    """Nothing comes any more; the writer may be stuck as well."""
    for raw in (a.raw, a.raw.peer):
        assert isinstance(raw, Pipe)
        raw.cut = True
    await tick(a.connection)


async def lose_gracefully(a: End) -> None:
    with trio.move_on_after(3):
        await a.connection.aclose()
    a.connection.abort("closed by this side")


@pytest.mark.parametrize("lose", [lose_abort, lose_raw, lose_timeout, lose_gracefully])
async def test_loss_wakes_everybody(lose, autojump_clock) -> None:
    """Whatever they wait for, on whichever side, and whatever state their stream is in."""
    async with connected() as (a, b):
        errors = 0

        async def fails(function: Callable[[], Awaitable[object]]) -> None:
            nonlocal errors
            with pytest.raises(ConnectionClosedError):
                await function()
            errors += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick, b.connection)
            pairs = []
            for index in range(5):
                mine = a.open()
                await mine.send_all(b"x")
                theirs = await b.accept()
                assert await theirs.receive_some() == b"x"
                if index % 2:
                    mine, theirs = theirs, mine
                pairs.append((mine, theirs))
            for mine, _ in pairs:
                nursery.start_soon(fails, mine.receive_some)
                nursery.start_soon(fails, lambda s=mine: s.send_all(PATTERN[: 3 * MIB]))
            # Half-closed: the peer has finished, and this side still sends to it.
            for index in range(2):
                mine = a.open()
                await mine.send_all(b"x")
                theirs = await b.accept()
                if index:
                    mine, theirs = theirs, mine
                else:
                    await theirs.receive_some()
                await theirs.send_eof()
                await read_all(mine)
                nursery.start_soon(fails, lambda s=mine: s.send_all(bytearray(3 * MIB)))
                pairs.append((mine, theirs))
            await quiet()
            assert errors == 0
            await lose(a)
        assert errors == 12
        for pair in pairs:
            for stream in pair:
                for method in (
                    lambda s=stream: s.send_all(b"more"),
                    lambda s=stream: s.send_all(PATTERN),
                    stream.send_eof,
                ):
                    with pytest.raises((ConnectionClosedError, StreamClosedError)):
                        await method()
                await stream.aclose()
        for end in (a, b):
            assert end.connection.closed.is_set()
            assert end.connection.closed_reason
            with pytest.raises(ConnectionClosedError):
                end.open()


async def test_what_had_arrived_stays_readable(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(PATTERN[:200_000])
        await mine.send_eof()
        theirs = await b.accept()
        half = a.open()
        await half.send_all(b"not the end")
        other = await b.accept()
        await quiet()
        b.connection.abort("gone")
        assert await read_all(theirs) == PATTERN[:200_000]
        assert await theirs.receive_some() == b""
        assert await other.receive_exactly(3) == b"not"
        with pytest.raises(ConnectionClosedError, match="gone"):
            await other.receive_exactly(100)
        assert await other.receive_some() == b" the end"
        with pytest.raises(ConnectionClosedError, match="gone"):
            await other.receive_some()
        assert b.budget.used == 0


async def test_last_words_of_a_peer_that_has_closed(autojump_clock) -> None:
    """They are in the pipe still when a write of ours fails."""
    async with against_manual_peer() as (end, peer):
        await peer.say(frame(WINDOW_UPDATE, SYN, 1, 0))
        stream = await end.accept()
        frames = [data_frame(1, PATTERN[i : i + 40_000]) for i in range(0, 160_000, 40_000)]
        await peer.say(*frames, data_frame(1, b"", FIN))
        peer.raw.abort()
        await stream.send_all(b"nobody will read this")
        assert await read_all(stream) == PATTERN[:160_000]
        await end.connection.closed.wait()
        assert end.connection.closed_reason == "closed by the peer"


@any_pipe
async def test_closing_sends_what_was_accepted(pipe, autojump_clock) -> None:
    async with connected(**pipe) as (a, b):
        stream = a.open()
        await stream.send_all(PATTERN[:200_000])
        await stream.send_eof()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connection.aclose)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            with pytest.raises(ConnectionClosedError):
                a.open()
            theirs = await b.accept()
            assert await read_all(theirs) == PATTERN[:200_000]
        await a.connection.aclose()
        await b.connection.closed.wait()
        assert a.connection.closed_reason == "closed by this side"
        assert b.connection.closed_reason == "closed by the peer"


async def test_closing_is_bounded_by_the_caller(autojump_clock) -> None:
    """A peer that does not read cannot keep a connection open."""
    async with against_manual_peer(capacity=1000) as (end, peer):
        await peer.say(frame(WINDOW_UPDATE, SYN, 1, 0))
        stream = await end.accept()
        await stream.send_all(PATTERN[:100_000])
        with trio.move_on_after(3) as scope:
            await end.connection.aclose()
        assert scope.cancelled_caught
        end.connection.abort("shutting down")
        with pytest.raises(ConnectionClosedError, match="shutting down"):
            await stream.receive_some()


async def test_go_away_goes_out_last(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        stream = end.open()
        await stream.send_all(PATTERN[:200_000])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.connection.aclose)
            said = parse(await peer.hear_all())
            peer.raw.abort()
        assert sum(f.length for f in said if f.kind == DATA) == 200_000
        assert said[-1] == Frame(GO_AWAY, 0, 0, 0)


async def test_aborted_before_it_runs(autojump_clock) -> None:
    """Streams that came with the handshake must not be handed to anybody then."""
    _, ours = upgraded_pair()
    raw, _ = pipe_pair()
    end = make_end(raw, ours)
    end.connection._early = (data_frame(1, b"hello", SYN),)
    end.connection.abort("too many")
    await end.connection.run()
    assert end.accepted == []
    assert end.connection.closed_reason == "too many"


async def test_cancelling_the_task_closes(autojump_clock) -> None:
    raws = pipe_pair()
    ends = [make_end(r, u) for r, u in zip(raws, upgraded_pair(), strict=True)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends[1].connection.run)
        async with trio.open_nursery() as inner:
            inner.start_soon(ends[0].connection.run)
            stream = ends[0].open()
            await stream.send_all(b"x")
            await quiet()
            inner.cancel_scope.cancel()
        with pytest.raises(ConnectionClosedError):
            await stream.receive_some()
        await ends[1].connection.closed.wait()


# --- peers that misbehave ---

VIOLATIONS = {
    "version": b"\x07" + bytes(11),
    "type": frame(9, 0, 0, 0),
    "never opened": data_frame(99, b"x"),
    "overrun": frame(DATA, SYN, 3, INITIAL_WINDOW + 1),
    "open twice": frame(WINDOW_UPDATE, SYN, 1, 0),
    "wrong parity": frame(WINDOW_UPDATE, SYN, 2, 0),
    "pings": frame(PING, SYN, 0, 1) * 5000,
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_violation_costs_the_connection_and_one_line(name, caplog, autojump_clock) -> None:
    caplog.set_level(logging.INFO)
    async with connected() as (a, b), against_manual_peer(capacity=2000) as (end, peer):
        other = a.open()
        await other.send_all(b"unharmed")
        await peer.say(data_frame(1, b"hello", SYN))
        stream = await end.accept()
        assert await stream.receive_some() == b"hello"
        async with trio.open_nursery() as nursery:

            async def fails(function: Callable[[], Awaitable[object]]) -> None:
                with pytest.raises(ConnectionClosedError, match="yamux"):
                    await function()

            nursery.start_soon(fails, stream.receive_some)
            nursery.start_soon(fails, lambda: stream.send_all(PATTERN))
            nursery.start_soon(fails, lambda: end.open().receive_some())
            await quiet()
            # Pings pile up only where nothing is drained; for the rest the peer may read.
            if name != "pings":
                nursery.start_soon(peer.hear_all)
            await peer.say(VIOLATIONS[name], frame(PING, SYN, 0, 1))
        await end.connection.closed.wait()
        lines = [record for record in caplog.records if record.levelno >= logging.INFO]
        assert len(lines) == 1
        assert lines[0].levelname == "WARNING"
        assert "yamux" in lines[0].getMessage()
        assert str(end.connection.peer_id) in lines[0].getMessage()
        assert "/ip4/127.0.0.1" in lines[0].getMessage()
        assert lines[0].exc_info is None
        theirs = await b.accept()
        assert await theirs.receive_some() == b"unharmed"


async def test_violator_is_told(autojump_clock) -> None:
    async with against_manual_peer() as (_, peer):
        await peer.say(VIOLATIONS["version"])
        assert parse(await peer.hear_all())[-1] == Frame(GO_AWAY, 0, 0, 1)


async def test_violation_among_the_early_bytes(caplog, autojump_clock) -> None:
    early = (data_frame(1, b"", SYN), VIOLATIONS["type"])
    async with against_manual_peer(early=early) as (end, peer):
        assert parse(await peer.hear_all())[-1] == Frame(GO_AWAY, 0, 0, 1)
        await end.connection.closed.wait()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_violation_after_the_end_of_streams_wakes_their_users(autojump_clock) -> None:
    """In one message: two streams end, and then the peer breaks the protocol."""
    async with against_manual_peer() as (end, peer):
        await peer.say(frame(WINDOW_UPDATE, SYN, 1, 0) + frame(WINDOW_UPDATE, SYN, 3, 0))
        one, two = await end.accept(), await end.accept()
        await two.send_eof()
        await quiet()
        async with trio.open_nursery() as nursery:

            async def fails() -> None:
                with pytest.raises((StreamResetError, ConnectionClosedError)):
                    await one.receive_some()

            async def ends() -> None:
                assert await two.receive_some() == b""

            nursery.start_soon(fails)
            nursery.start_soon(ends)
            await quiet()
            await peer.say(
                frame(WINDOW_UPDATE, RST, 1, 0) + data_frame(3, b"", FIN) + VIOLATIONS["type"]
            )


async def test_unsealed_bytes(caplog, autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        await peer.raw.send(noise_frame(bytes(100)))
        await end.connection.closed.wait()
        assert "decrypt" in (end.connection.closed_reason or "")
    assert len(caplog.records) == 1
    assert "decrypt" in caplog.records[0].getMessage()


async def test_peer_that_goes_away_with_a_code(caplog, autojump_clock) -> None:
    caplog.set_level(logging.INFO)
    async with against_manual_peer() as (end, peer):
        await peer.say(frame(GO_AWAY, 0, 0, 2))
        peer.raw.abort()
        await end.connection.closed.wait()
        assert end.connection.closed_reason == "closed by the peer"
    assert [record.getMessage() for record in caplog.records] == [
        f"peer ends the connection with code 2 peer={end.connection.peer_id}"
    ]


async def play_dead(end: End, peer: ManualPeer, kind: str) -> float:
    await peer.say(data_frame(1, b"hello", SYN))
    stream = await end.accept()
    assert await stream.receive_some() == b"hello"
    data = data_frame(1, bytes(1000))
    if kind == "half a Noise message":
        await peer.raw.send(peer.upgraded.writer.seal(data)[:500])
    elif kind == "half a yamux frame":
        await peer.say(data[:500])
        assert len(await stream.receive_exactly(488)) == 488
    start = trio.current_time()
    with pytest.raises(ConnectionClosedError, match="not answered"):
        await stream.receive_some()
    return trio.current_time() - start


async def test_peer_that_stalls(autojump_clock) -> None:
    """A minute of silence, in the middle of something or not: it does not get that far."""
    for kind in ("half a Noise message", "half a yamux frame", "nothing"):
        async with (
            against_manual_peer(ticking=True) as (end, peer),
            connected(ticking=True) as (a, b),
        ):
            other = a.open()
            await other.send_all(b"x")
            theirs = await b.accept()
            assert 11 <= await play_dead(end, peer, kind) <= 14
            # Those who answer are not affected, by hours of silence either.
            await theirs.receive_some()
            await trio.sleep(1000)
            await other.send_all(b"still here")
            assert await theirs.receive_some() == b"still here"


async def test_peer_that_trickles_is_alive(autojump_clock) -> None:
    """A message that takes minutes on a slow link comes in all the same."""
    async with against_manual_peer(ticking=True) as (end, peer):
        await peer.say(frame(WINDOW_UPDATE, SYN, 1, 0))
        stream = await end.accept()
        sealed = peer.upgraded.writer.seal(data_frame(1, PATTERN[:60]))
        for index in range(len(sealed)):
            await trio.sleep(5)
            await peer.raw.send(sealed[index : index + 1])
        assert await stream.receive_exactly(60) == PATTERN[:60]


async def test_peer_that_reads_nothing_and_answers_pings(autojump_clock) -> None:
    """Waiting for credit has no limit of its own."""
    async with connected(ticking=True, timeouts=Timeouts()) as (a, b):
        stream = a.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, PATTERN)
            theirs = await b.accept()
            await trio.sleep(3000)
            assert await theirs.receive_exactly(len(PATTERN)) == PATTERN


async def test_peer_that_opens_too_many_streams(autojump_clock) -> None:
    limits = Limits(max_streams_per_connection=10)
    async with against_manual_peer(limits=limits) as (end, peer):
        for number in range(20):
            await peer.say(data_frame(2 * number + 1, b"x", SYN))
        await quiet()
        assert len(end.accepted) == 10
        said = parse(await peer.hear())
        assert [f.stream_id for f in said if f.flags & RST] == list(range(21, 41, 2))
        assert end.connection.closed_reason is None


async def test_peer_that_makes_handlers_fail_and_does_not_read(caplog, autojump_clock) -> None:
    """Resets pile up: it is the connection that ends, and no handler gets the blame."""
    async with against_manual_peer(capacity=300) as (end, peer):

        async def handle() -> None:
            while True:
                stream = await end.accept()
                stream.reset()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle)
            with pytest.raises(ConnectionClosedError):  # noqa: PT012
                for number in range(20_000):
                    await peer.say(data_frame(2 * number + 1, b"", SYN))
            await end.connection.closed.wait()
            nursery.cancel_scope.cancel()
        assert "provokes" in (end.connection.closed_reason or "")


async def test_an_error_of_ours_costs_one_connection(caplog, autojump_clock) -> None:
    def broken(stream: Stream) -> None:
        raise ZeroDivisionError

    raws = pipe_pair()
    theirs, ours = upgraded_pair()
    end = make_end(raws[1], ours, on_stream=broken)
    peer = ManualPeer(raws[0], theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.connection.run)
        await peer.say(data_frame(1, b"", SYN))
        await end.connection.closed.wait()
    assert end.connection.closed_reason == "internal error"
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info


async def test_network_error(autojump_clock) -> None:
    raws = pipe_pair()
    _, ours = upgraded_pair()
    end = make_end(raws[1], ours)

    async def receive() -> memoryview:
        await trio.sleep(1)
        raise OSError(113, "No route to host")

    raws[1].receive = receive  # type: ignore[method-assign]
    await end.connection.run()
    assert end.connection.closed_reason == "network error: [Errno 113] No route to host"
    assert raws[1].aborted


async def test_peer_identity_is_that_of_the_handshake(autojump_clock) -> None:
    async with connected() as (a, b):
        assert a.connection.peer_id == BOB.peer_id
        stream = a.open()
        await stream.send_all(b"x")
        theirs = await b.accept()
        assert stream.peer_id == BOB.peer_id
        assert theirs.id == stream.id == 1
        assert (a.connection.direction.value, b.connection.direction.value) == (
            "outbound",
            "inbound",
        )


async def test_a_first_request_is_one_frame(autojump_clock) -> None:
    async with against_manual_peer() as (end, peer):
        [ping] = parse(await peer.hear())
        assert ping.kind == PING
        stream = end.open()
        await stream.send_all(b"request")
        stream.close()
        said = parse(await peer.hear())
        while not said[-1].flags & FIN:
            said += parse(await peer.hear())
        assert said[0].flags & SYN
        assert (said[0].kind, said[0].body) == (DATA, b"request")
        assert len(said) <= 2
        await peer.say(frame(WINDOW_UPDATE, ACK, 2, 0) + data_frame(2, b"", FIN))
        await quiet()
        assert end.connection.stream_count == 0
