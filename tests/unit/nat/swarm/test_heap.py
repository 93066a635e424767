"""When memory that connections have left free is given back to the system."""

from __future__ import annotations

import pytest

from lattica.nat.config import MIB
from lattica.nat.swarm.upkeep.heap import Heap, malloc_trim, resident
from tests.support.clock import Clock


class Process:
    """A process whose memory is what the test says."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.size = 100 * MIB
        self.trims = 0
        self.heap = Heap(self.clock, lambda: self.size, self.trim)

    def trim(self) -> None:
        self.trims += 1
        self.size = min(self.size, 105 * MIB)

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            self.clock.now += 1
            await self.heap.look()


async def test_what_a_flood_has_left_is_given_back():
    process = Process()
    await process.seconds(1)
    process.size = 140 * MIB
    await process.seconds(10)  # somebody may need it again
    assert process.trims == 0
    process.heap.note_end()
    await process.seconds(2)
    assert (process.trims, process.size) == (1, 105 * MIB)
    await process.seconds(20)
    assert process.trims == 1


async def test_a_little_more_is_not_worth_it():
    process = Process()
    await process.seconds(1)
    for _ in range(10):
        process.size += MIB
        process.heap.note_end()
        await process.seconds(2)
    assert process.trims == 0


async def test_connections_that_come_and_go_do_not_have_it_trimmed_all_the_time():
    process = Process()
    await process.seconds(1)
    for _ in range(20):
        process.size = 200 * MIB
        process.heap.note_end()
        await process.seconds(2)
    assert process.trims <= 40 / 5


async def test_what_is_freed_later_is_given_back_later():
    process = Process()
    least = 250 * MIB
    process.heap = Heap(
        process.clock, lambda: process.size, lambda: setattr(process, "size", least)
    )
    process.size = 100 * MIB
    await process.seconds(1)
    process.size = 300 * MIB
    process.heap.note_end()
    await process.seconds(3)
    assert process.size == 250 * MIB
    least = 110 * MIB  # freed within, and nothing grows or ends
    await process.seconds(15)
    assert process.size == 110 * MIB
    least = 50 * MIB  # it is as small as it was: that is all
    await process.seconds(60)
    assert process.size == 110 * MIB


@pytest.mark.skipif(malloc_trim() is None, reason="this C library has no malloc_trim")
def test_the_functions_of_the_system():
    trim = malloc_trim()
    assert trim is not None
    trim()
    assert resident() > MIB
