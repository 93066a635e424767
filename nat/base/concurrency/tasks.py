"""Tasks in the background of a service: in a nursery of the node's, and ended with the service, not
with the node.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVarTuple

import trio

from lattica.nat.base.foreign_code import settle
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.peer_log import peer_log

logger = logging.getLogger(__name__)

Ts = TypeVarTuple("Ts")


async def keep(part: Callable[[], Awaitable[object]], rng: random.Random) -> None:
    """Run a part of a service to its end; again, after a pause, when it raises. A defect of one
    part must not take the node with it.

    The part is not made anew: whatever it may not know of its first life it forgets when it begins.
    """
    failures = 0
    while True:
        try:
            await part()
            return
        except Exception:
            failures += 1
            pause = pause_after(failures, 1.0, 60.0, rng)
            logger.exception("internal error, starting again in %.1f s part=%r", pause, part)
        await trio.sleep(pause)


class Tasks:
    """Starts tasks in a nursery, and can end all that it started. An error ends its task only."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self.closed = False
        self._changed = trio.Event()

    @property
    def count(self) -> int:
        """Tasks that run."""
        return len(self._scopes)

    def start_soon(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Start a task; nothing happens after :meth:`cancel`."""
        self.start_in(trio.CancelScope(), function, *args)

    def start_in(
        self,
        scope: trio.CancelScope,
        function: Callable[[*Ts], Awaitable[object]],
        *args: *Ts,
    ) -> None:
        """The same with a scope for it, a new one, by which it can be cancelled."""
        if not self.closed:
            self._scopes.add(scope)
            self._nursery.start_soon(self._run, scope, function, *args)

    async def _run(
        self, scope: trio.CancelScope, function: Callable[..., Awaitable[object]], *args: object
    ) -> None:
        try:
            with scope:
                await function(*args)
        except BaseException as error:
            # A defect, ours or of an iterator, costs what the task was for, not the node.
            settle(error, partial(_report, getattr(function, "__qualname__", "a task")))
        finally:
            self._scopes.discard(scope)
            self._changed.set()

    def cancel(self) -> None:
        """End all tasks, and start no more."""
        self.closed = True
        for scope in self._scopes:
            scope.cancel()

    async def wait_ended(self) -> None:
        """Wait until no task runs."""
        while self._scopes:
            self._changed = trio.Event()
            await self._changed.wait()


def _report(task: str, error: BaseException) -> None:
    peer_log.log(logger, logging.ERROR, task, "internal error: %s", task, exc_info=error)
