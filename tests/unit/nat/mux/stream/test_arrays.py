"""Streams take arrays, of any shape and order, for bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio

from lattica.errors import LocalProtocolError, StreamResetError
from tests.support.pairs.connected import PATTERN, connected, quiet

GRID: Any = np.arange(600_000, dtype=np.float32).reshape(600, 1000)


@pytest.mark.parametrize("source", [GRID, GRID.T, GRID[:, ::3], GRID[::-1], memoryview(GRID.T)])
@pytest.mark.parametrize("order", ["C", "F"])
async def test_an_array_arrives_in_an_array(source: Any, order: Any, autojump_clock) -> None:
    expected = np.asarray(source)
    target = np.zeros(expected.shape, np.float32, order)
    async with connected() as (a, b), trio.open_nursery() as nursery:
        mine = a.open()
        nursery.start_soon(mine.send_all, source)
        theirs = await b.accept()
        assert await theirs.receive_into(target, fill=True) == target.nbytes
        assert np.array_equal(target, expected)


async def test_a_message_of_an_array_has_the_length_of_its_bytes(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        for part in (GRID[0, :5], GRID[:5, 0], memoryview(GRID[0, :5])):
            await mine.send_message(part)
        theirs = await b.accept()
        for part in (GRID[0, :5], GRID[:5, 0], GRID[0, :5]):
            assert await theirs.receive_message(100) == part.tobytes()


async def test_filling_ends_with_the_stream(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(PATTERN[:10])
        theirs = await b.accept()
        target = np.zeros(16, np.uint8)[::2]
        assert await theirs.receive_into(target) == 8
        assert target.tobytes() == PATTERN[:8]
        await mine.send_eof()
        assert await theirs.receive_into(target, fill=True) == 2
        assert target.tobytes() == PATTERN[8:10] + PATTERN[2:8]
        assert await theirs.receive_into(target, fill=True) == 0


async def test_nothing_is_lost_when_filling_is_cancelled_or_refused(autojump_clock) -> None:
    async with connected() as (a, b):
        mine = a.open()
        await mine.send_all(PATTERN[:1000])
        theirs = await b.accept()
        with trio.move_on_after(1) as scope:
            await theirs.receive_into(bytearray(2000), fill=True)
        assert scope.cancelled_caught
        wrong: Any
        for wrong in (b"read-only", bytearray(), np.zeros((0, 4))):
            with pytest.raises(LocalProtocolError):
                await theirs.receive_into(wrong)
        with pytest.raises(TypeError, match="str"):
            await theirs.receive_into("text")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="at least 1"):
            await theirs.receive_some(0)
        with pytest.raises(ValueError, match="-1 bytes"):
            await theirs.receive_exactly(-1)
        assert await theirs.receive_exactly(1000) == PATTERN[:1000]
        mine.reset()
        await quiet()
        with pytest.raises(StreamResetError):
            await theirs.receive_into(bytearray(10), fill=True)
