"""What a handler may know about the call that it runs for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import trio

from lattica.nat.base.keys.identity import PeerId

NO_METADATA: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class CallContext:
    """One call, as its handler sees it: a parameter with this annotation gets it.

    Safe to read from the handler's thread.
    """

    peer: PeerId
    """Who calls; proved by its key."""
    method: str
    """Service and method, as `Echo.shout`."""
    path: str
    """How the caller is connected: "relayed", or "direct-" and tcp, quic, ws or wss."""
    deadline: float = math.inf
    """When the caller's patience ends, in the clock of trio here."""
    metadata: Mapping[str, Any] = NO_METADATA
    """What the caller sent along."""
    _is_cancelled: Callable[[], bool] = lambda: False
    _clock: Callable[[], float] = trio.current_time

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; infinite where there is none."""
        return self.deadline - self._clock()

    @property
    def cancelled(self) -> bool:
        """Nobody waits for the result any more. An async handler is cancelled anyway; one in a
        thread should look now and then."""
        return self._is_cancelled()
