"""Readers that are given what arrives, with no task woken for small pieces of it."""

from __future__ import annotations

import pytest
import trio

from lattica.errors import StreamResetError
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.turns import TURN
from tests.support.pairs.connected import KIB, PATTERN, any_pipe, connected, quiet


class Taker:
    """Takes pieces up to `most` bytes, and notes in whose task and turn it was given them."""

    def __init__(self, stream: Stream, most: int = len(PATTERN)) -> None:
        self.data = b""
        self.in_own_task: list[bool] = []
        self.turns: list[int] = []
        self.ended = False
        self._stream = stream
        self._most = most
        self._own: trio.lowlevel.Task | None = None

    async def run(self) -> None:
        self._own = trio.lowlevel.current_task()
        await self._stream.receive_by(self._take)
        self.ended = True

    def _take(self, piece: memoryview) -> bool:
        self.data += piece
        self.in_own_task.append(trio.lowlevel.current_task() is self._own)
        self.turns.append(self._stream.connection.session.turn)
        return len(self.data) < self._most


async def test_small_pieces_wake_nobody_and_large_ones_the_reader(autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        await mine.send_all(PATTERN[:10])
        theirs = await b.accept()
        taker = Taker(theirs)
        nursery.start_soon(taker.run)
        await quiet()
        assert taker.in_own_task == [True]  # it was there before
        await mine.send_all(PATTERN[10:300])
        await quiet()
        await mine.send_all(PATTERN[300:20_000])
        await quiet()
        await mine.send_all(PATTERN[20_000:20_001])
        await quiet()
        assert taker.data == PATTERN[:20_001]
        assert taker.in_own_task == [True, False, True, False]
        await mine.send_eof()
        await quiet()
        assert taker.ended


async def test_small_pieces_count_as_work_of_the_connection(autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        await mine.send_all(b"a")
        taker = Taker(await b.accept())
        nursery.start_soon(taker.run)
        await quiet()
        await mine.send_all(bytes(16 * KIB))
        await quiet()
        assert taker.in_own_task[-1] is False
        assert taker.turns[-1] < TURN * 3 // 4
        nursery.cancel_scope.cancel()


@any_pipe
async def test_all_is_given_in_order_up_to_the_end(pipe, autojump_clock) -> None:
    size = 20_000 if pipe else 300_000
    async with connected(**pipe) as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        await mine.send_all(PATTERN[:1])
        taker = Taker(await b.accept())
        nursery.start_soon(taker.run)
        position, step = 1, 3
        while position < size:
            await mine.send_all(PATTERN[position : min(size, position + step)])
            position, step = position + step, step * 2 % 40_000 + 1
            if step % 3 == 0:
                await trio.sleep(0.01)
        await mine.send_eof()
        await quiet()
        assert taker.ended
        assert taker.data == PATTERN[:size]
        assert b.budget.used == 0


async def test_who_has_enough_leaves_the_rest(autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        await mine.send_all(PATTERN[:1])
        theirs = await b.accept()
        taker = Taker(theirs, most=2)
        nursery.start_soon(taker.run)
        await quiet()
        await mine.send_all(PATTERN[1:2])
        await quiet()
        assert (taker.ended, taker.data) == (True, PATTERN[:2])
        await mine.send_all(PATTERN[2:9])
        assert await theirs.receive_exactly(7) == PATTERN[2:9]


async def test_a_reset_is_raised_and_a_cancelled_reader_is_given_nothing(autojump_clock) -> None:
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        await mine.send_all(PATTERN[:1])
        theirs = await b.accept()
        taker = Taker(theirs)
        with trio.CancelScope() as scope:
            scope.cancel()
            await taker.run()
        nursery.start_soon(mine.send_all, PATTERN[1:3])
        with trio.move_on_after(1):
            await taker.run()
        assert taker.data == PATTERN[:3]
        await mine.send_all(PATTERN[3:5])
        assert await theirs.receive_exactly(2) == PATTERN[3:5]

        async def raises() -> None:
            with pytest.raises(StreamResetError):
                await taker.run()

        nursery.start_soon(raises)
        await quiet()
        with pytest.raises(trio.BusyResourceError):
            await theirs.receive_some()
        mine.reset()
