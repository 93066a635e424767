"""Provides that return as soon as the record will be found; what is left of them goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from lattica.dht.client.providing.providing import Providing
from lattica.dht.errors import NotStoredError

MOST = 64
"""That are on their way at a time, those that have returned, too. Who begins another waits."""

Start = Callable[[trio.CancelScope, Callable[[], Awaitable[object]]], object]
"""Runs a task in a scope, no longer than the DHT runs."""


@dataclass(eq=False, slots=True)
class _Provide:
    """One that is on its way."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    enough: trio.Event = field(default_factory=trio.Event)
    """It will be found, or is over."""
    over: trio.Event = field(default_factory=trio.Event)
    held: int = 0
    waiting: int = 0
    """Callers."""
    is_complete: bool = False
    error: Exception | None = None


class Provides:
    """The provides of one node."""

    def __init__(self, providing: Providing, start: Start) -> None:
        self._providing = providing
        self._start = start
        self._limit = trio.CapacityLimiter(MOST)
        self._running: dict[bytes, _Provide] = {}

    def __len__(self) -> int:
        return len(self._running)

    async def provide(self, key: bytes) -> int:
        """Announce a key: how many peers have it, read back, when it is where it will be found. Who
        provides what is on its way waits for that.

        Cancellation: ends it, unless it has returned to somebody or others wait.
        """
        one = self._running.get(key)
        if one is None:
            one = self._running[key] = _Provide()
            self._start(one.scope, lambda: self._run(key, one))
        one.waiting += 1
        try:
            await one.enough.wait()
        except trio.Cancelled:
            if one.waiting == 1 and not one.enough.is_set():
                one.scope.cancel()
            raise
        finally:
            one.waiting -= 1
        if one.error is not None:
            raise one.error
        if not one.held and not one.is_complete:
            raise NotStoredError("it was given up: the key was withdrawn, or the node ended")
        return one.held

    async def give_up(self, key: bytes) -> None:
        """End what is left of a provide, and wait until it is over."""
        one = self._running.get(key)
        if one is not None:
            one.scope.cancel()
            await one.over.wait()

    async def _run(self, key: bytes, one: _Provide) -> None:
        def on_held(count: int, is_enough: bool) -> None:
            one.held = count
            if is_enough:
                one.enough.set()

        try:
            async with self._limit:
                await self._providing.provide(key, on_held)
                one.is_complete = True
        except Exception as error:
            one.error = error
        finally:
            del self._running[key]
            one.enough.set()
            one.over.set()
