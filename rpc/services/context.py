"""What a handler may know about the call that it runs for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import trio

from lattica.nat.base.keys.identity import PeerId


class CallContext:
    """One call, as its handler sees it: a parameter with this annotation gets it.

    May be read from the handler's thread.
    """

    __slots__ = ("_clock", "_is_cancelled", "deadline", "metadata", "method", "path", "peer")

    def __init__(
        self,
        peer: PeerId,
        method: str,
        path: str = "",
        deadline: float = math.inf,
        metadata: Mapping[str, Any] | None = None,
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.peer = peer
        """Who calls; proved by its key."""
        self.method = method
        """Service and method, as `Echo.shout`."""
        self.path = path
        """How the caller is connected: "relayed", or "direct-" and tcp, quic, ws or wss."""
        self.deadline = deadline
        """When the caller's patience ends, in the clock of trio here."""
        self.metadata: Mapping[str, Any] = metadata or {}
        """What the caller sent along."""
        self._is_cancelled = is_cancelled
        self._clock = clock or trio.lowlevel.current_clock().current_time

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; infinite where there is none."""
        return self.deadline - self._clock()

    @property
    def cancelled(self) -> bool:
        """Nobody waits for the result any more. An async handler is cancelled anyway; one in a
        thread should look now and then."""
        return self._is_cancelled()
