"""What a handler may know about the call that it runs for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId

if TYPE_CHECKING:
    from lattica.rpc.leases.ref import BufferRef

Lend: TypeAlias = "Callable[[Any, PeerId, float], BufferRef]"


class CallContext:
    """One call, as its handler sees it: a parameter with this annotation gets it.

    May be read from the handler's thread.
    """

    __slots__ = (
        "_clock",
        "_is_cancelled",
        "_lend",
        "deadline",
        "metadata",
        "method",
        "path",
        "peer",
    )

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
        lend: Lend | None = None,
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
        self._lend = lend
        self._clock = clock or trio.lowlevel.current_clock().current_time

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; infinite where there is none."""
        return self.deadline - self._clock()

    @property
    def cancelled(self) -> bool:
        """Nobody waits for the result any more. An async handler is cancelled anyway; one in a
        thread should look now and then."""
        return self._is_cancelled() or self._clock() >= self.deadline

    def share(self, buffer: Any, ttl: float = 20.0) -> BufferRef:
        """Lend an array, a tensor or bytes to the caller, which reads what it wants of it, when it
        wants; see :meth:`lattica.rpc.Rpc.share`.
        """
        if self._lend is None:
            raise LocalProtocolError("this call is none over the network")
        return self._lend(buffer, self.peer, ttl)
