"""Gives up calls whose time has passed, some in each pass of the event loop.

A caller chooses its deadlines, and may have all of its calls end at the same moment. trio would
cancel them in one pass, in which nobody else has a turn: 4,096 calls are half a second.
"""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import Final

import trio

from lattica.nat.base.concurrency.tasks import Tasks

AT_ONCE: Final = 32
"""Calls that are given up in one pass."""
_SPARE: Final = 1024
"""Entries of calls that have ended, which may stay until they are due."""


class Deadlines:
    """When scopes are to be cancelled; a late one is when the others before it have been."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._ends: dict[trio.CancelScope, float] = {}
        """Of scopes that are neither cancelled nor forgotten."""
        self._heap: list[tuple[float, int, trio.CancelScope]] = []
        self._numbers = count()
        self._sleep = trio.CancelScope()
        self._runs = False

    def add(self, scope: trio.CancelScope, deadline: float) -> None:
        """Cancel a scope at that time, unless it is forgotten before."""
        if deadline == math.inf:
            return
        self._ends[scope] = deadline
        heapq.heappush(self._heap, (deadline, next(self._numbers), scope))
        if len(self._heap) > _SPARE + 2 * len(self._ends):
            self._heap = [each for each in self._heap if self._ends.get(each[2]) == each[0]]
            heapq.heapify(self._heap)
        if not self._runs:
            self._runs = True
            self._tasks.start_soon(self._run)
        elif deadline < self._sleep.deadline:
            self._sleep.deadline = deadline

    def forget(self, scope: trio.CancelScope) -> None:
        """What runs in it has ended. Idempotent."""
        self._ends.pop(scope, None)

    async def _run(self) -> None:
        try:
            while self._heap:
                with trio.CancelScope(deadline=self._heap[0][0]) as self._sleep:
                    await trio.sleep_forever()
                self._cancel_due()
                await trio.lowlevel.checkpoint()
        finally:
            self._runs = False

    def _cancel_due(self) -> None:
        now = trio.current_time()
        cancelled = 0
        while self._heap and self._heap[0][0] <= now and cancelled < AT_ONCE:
            deadline, _, scope = heapq.heappop(self._heap)
            if self._ends.get(scope) == deadline:
                del self._ends[scope]
                scope.cancel()
                cancelled += 1
