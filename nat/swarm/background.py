"""The tasks of a swarm."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.foreign_code import settle

logger = logging.getLogger(__name__)


class Background:
    """Where a swarm's tasks run: in the nursery that it has while it runs itself."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None

    def require_nursery(self) -> trio.Nursery:
        """Raises LocalProtocolError where the swarm is not running."""
        if self.nursery is None:
            raise LocalProtocolError("the swarm is not running")
        return self.nursery

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run what may fail without the swarm: its errors are logged."""
        self.require_nursery().start_soon(_run_logged, function, *args)


async def _run_logged(function: Callable[..., Awaitable[object]], *args: object) -> None:
    try:
        await function(*args)
    except BaseException as error:
        settle(
            error,
            lambda own: logger.error("background work failed: %r", function, exc_info=own),
        )
