"""Connections under trio: cancellation at every point of a write, a read, a conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from lattica.errors import (
    ConnectionClosedError,
    IncompleteReadError,
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
            view = memoryview(data) if kind == "memoryview" else data
            done = await cancel_at(ticks, partial(mine.send_all, view))
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


async def test_cancelled_write_takes_back_only_its_own(autojump_clock) -> None:
    """What earlier writes had left in the buffer is accepted, and arrives."""
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(PATTERN[:INITIAL_WINDOW])
        theirs = await b.accept()
        await mine.send_all(PATTERN[INITIAL_WINDOW : INITIAL_WINDOW + 100_000])
        with trio.move_on_after(5) as scope:
            await mine.send_all(bytearray(b"\xff" * MIB))
        assert scope.cancelled_caught
        await mine.aclose()
        assert await read_all(theirs) == PATTERN[: INITIAL_WINDOW + 100_000]


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
        ended = False

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

        ticks = 0
        while not ended:
            if not await cancel_at(ticks, receive):
                cancelled += 1
            # Long enough, now and then, for the slowest to get on.
            ticks = (ticks + 1) % 400
        assert bytes(got) == PATTERN[:size]
        assert cancelled > 0


async def test_what_a_cancelled_read_had_is_there_again_and_in_the_budget(autojump_clock) -> None:
    total = 8 * MIB
    data = bytes(range(256)) * (total // 256)
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        nursery.start_soon(mine.send_all, data)
        theirs = await b.accept()
        core = theirs._core
        for _ in range(3):
            with trio.move_on_after(1) as scope:
                await theirs.receive_exactly(total + 1)
            assert scope.cancelled_caught
            assert b.budget.used == total
        pieces = len(core.receive_queue)
        assert max(map(len, core.receive_queue)) <= MIB, "a copy of all of it"
        credit = core.receive_credit + core.consumed
        received = bytearray()
        while len(received) < total // 2:
            received += await theirs.receive_exactly(16 * KIB)
        assert len(core.receive_queue) < pieces
        assert len(await theirs.receive_some()) <= 64 * KIB
        assert len(await theirs.receive_view()) <= 64 * KIB
        assert core.receive_credit + core.consumed == credit, "credit for the same bytes twice"
        await theirs.aclose()
        assert b.budget.used == 0
        assert received == data[: len(received)]


async def test_the_budget_counts_what_is_put_back_when_the_connection_is_gone() -> None:
    async with connected() as (a, b):
        await a.open().send_all(bytes(10_000))
        theirs = await b.accept()
        await quiet()
        b.connection.abort("gone")
        with pytest.raises(ConnectionClosedError):
            await theirs.receive_exactly(20_000)
        assert b.budget.used == 10_000
        assert b.budget.make_room(b.budget.limit, 0.0) == [theirs._core]
        assert b.budget.used == 0
