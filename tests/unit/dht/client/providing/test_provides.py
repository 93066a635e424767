"""Provides return when they will be found; the rest goes on, is bounded, and can be given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from lattica.dht.client.providing.provides import MOST, Provides
from lattica.errors import LatticaError, NotStoredError
from lattica.nat.base.errors import NotConnectedError


class Slow:
    """A provide that goes on when it is told to."""

    def __init__(self) -> None:
        self.steps: dict[bytes, trio.MemoryReceiveChannel[tuple[int, bool]]] = {}
        self.begun: list[bytes] = []
        self.ended: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.error: LatticaError | None = None

    def prepare(self, key: bytes) -> trio.MemorySendChannel[tuple[int, bool]]:
        send, self.steps[key] = trio.open_memory_channel[tuple[int, bool]](16)
        return send

    async def provide(self, key: bytes, on_held: Callable[[int, bool], object]) -> int:
        self.begun.append(key)
        held = 0
        try:
            async for held, is_enough in self.steps[key]:
                on_held(held, is_enough)
            if self.error is not None:
                raise self.error
            self.ended.append(key)
        except trio.Cancelled:
            self.cancelled.append(key)
            raise
        return held


def provides_of(slow: Slow, nursery: trio.Nursery) -> Provides:
    def start(scope: trio.CancelScope, task: Callable[[], object]) -> None:
        async def run() -> None:
            with scope:
                await task()  # type: ignore[misc]

        nursery.start_soon(run)

    return Provides(slow, start)  # type: ignore[arg-type]


async def test_it_returns_when_it_is_enough_and_the_rest_goes_on():
    slow = Slow()
    steps = slow.prepare(b"key")
    async with trio.open_nursery() as nursery:
        provides = provides_of(slow, nursery)
        for step in ((1, False), (5, True)):
            steps.send_nowait(step)
        assert await provides.provide(b"key") == 5
        assert len(provides) == 1
        assert slow.ended == []
        steps.send_nowait((6, True))
        await trio.testing.wait_all_tasks_blocked()
        assert await provides.provide(b"key") == 6  # it is the same, and has returned
        assert slow.begun == [b"key"]
        steps.close()
        await trio.testing.wait_all_tasks_blocked()
        assert slow.ended == [b"key"]
        assert len(provides) == 0


async def test_it_returns_at_the_end_where_it_never_is_enough():
    slow = Slow()
    async with trio.open_nursery() as nursery:
        provides = provides_of(slow, nursery)
        for held in (3, 0):
            steps = slow.prepare(b"key")
            steps.send_nowait((held, False))
            steps.close()
            assert await provides.provide(b"key") == held


async def test_what_is_withdrawn_is_given_up_before_it_is_taken_back():
    slow = Slow()
    steps = slow.prepare(b"key")
    steps.send_nowait((5, True))
    async with trio.open_nursery() as nursery:
        provides = provides_of(slow, nursery)
        await provides.provide(b"key")
        await provides.give_up(b"key")
        assert slow.cancelled == [b"key"]
        assert len(provides) == 0
        await provides.give_up(b"other")


async def test_whoever_waits_for_what_is_given_up_is_told():
    slow = Slow()
    slow.prepare(b"key")
    async with trio.open_nursery() as nursery:
        provides = provides_of(slow, nursery)

        async def wait() -> None:
            with pytest.raises(NotStoredError, match="given up"):
                await provides.provide(b"key")

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await provides.give_up(b"key")


async def test_who_is_cancelled_ends_it_unless_others_wait_or_it_has_returned():
    slow = Slow()
    slow.prepare(b"alone")
    steps = slow.prepare(b"shared")
    async with trio.open_nursery() as nursery:
        provides = provides_of(slow, nursery)
        with trio.move_on_after(0) as scope:
            await provides.provide(b"alone")
        assert scope.cancelled_caught
        results: list[int] = []

        async def wait(scope: trio.CancelScope) -> None:
            with scope:
                results.append(await provides.provide(b"shared"))

        scopes = [trio.CancelScope() for _ in range(2)]
        for one in scopes:
            nursery.start_soon(wait, one)
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        steps.send_nowait((5, True))
        steps.close()
        await trio.testing.wait_all_tasks_blocked()
        assert len(provides) == 0  # both are over
    assert results == [5]
    assert slow.ended == [b"shared"]


async def test_no_more_than_so_many_are_on_their_way():
    slow = Slow()
    keys = [b"%d" % n for n in range(MOST + 1)]
    sends = {key: slow.prepare(key) for key in keys}
    async with trio.open_nursery() as nursery:
        provides = provides_of(slow, nursery)
        for key in keys:
            sends[key].send_nowait((5, True))
        for key in keys[:-1]:
            assert await provides.provide(key) == 5
        nursery.start_soon(provides.provide, keys[-1])
        await trio.testing.wait_all_tasks_blocked()
        assert slow.begun == keys[:-1]
        sends[keys[0]].close()
        await trio.testing.wait_all_tasks_blocked()
        assert slow.begun == keys
        for send in sends.values():
            send.close()


async def test_what_went_wrong_is_raised():
    slow = Slow()
    slow.error = NotConnectedError("no")
    steps = slow.prepare(b"key")
    steps.close()
    async with trio.open_nursery() as nursery:
        with pytest.raises(NotConnectedError):
            await provides_of(slow, nursery).provide(b"key")
