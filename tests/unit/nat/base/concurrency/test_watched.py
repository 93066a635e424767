"""A value that is waited for: woken by what counts, and by nothing else."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from lattica.nat.base.concurrency.watched import Watched


async def test_is_there_already() -> None:
    watched = Watched(3)
    assert watched.value == 3
    assert await watched.wait_until(lambda value: value > 2) == 3
    assert await watched.wait_changed(2) == 3


async def test_all_who_wait_are_woken_by_what_they_wait_for() -> None:
    watched = Watched(0)
    seen: list[tuple[int, int]] = []

    async def wait(least: int) -> None:
        seen.append((least, await watched.wait_until(lambda value: value >= least)))

    async with trio.open_nursery() as nursery:
        for least in (2, 2, 3):
            nursery.start_soon(wait, least)
        for value, expected in ((1, []), (2, [(2, 2)] * 2), (2, [(2, 2)] * 2)):
            watched.set(value)
            await wait_all_tasks_blocked()
            assert seen == expected
        watched.set(9)
    assert seen[2:] == [(3, 9)]


async def test_only_the_latest_is_kept() -> None:
    watched = Watched("a")
    seen: list[str] = []

    async def follow() -> None:
        value = watched.value
        while value != "end":
            value = await watched.wait_changed(value)
            seen.append(value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        watched.set("b")
        watched.set("c")
        await wait_all_tasks_blocked()
        watched.set("d")
        watched.set("c")  # nobody can have seen that
        await wait_all_tasks_blocked()
        watched.set("end")
    assert seen == ["c", "end"]


async def test_whoever_is_cancelled_waits_no_more(autojump_clock) -> None:
    watched = Watched(0)
    with trio.move_on_after(1) as scope:
        await watched.wait_changed(0)
    assert scope.cancelled_caught
    watched.set(1)
    assert await watched.wait_changed(0) == 1
