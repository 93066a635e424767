"""Tasks in the background of a service: in a nursery of the node's, and ended with the service, not
with the node.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

from lattica.nat.base.foreign_code import settle
from lattica.nat.base.peer_log import peer_log

logger = logging.getLogger(__name__)

Ts = TypeVarTuple("Ts")


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
        if not self.closed:
            scope = trio.CancelScope()
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
            name = getattr(function, "__qualname__", "a task")
            settle(
                error,
                lambda own: peer_log.log(
                    logger, logging.ERROR, name, "internal error: %s", name, exc_info=own
                ),
            )
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
