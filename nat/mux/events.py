"""What a multiplexed session tells its driver."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lattica.nat.mux.stream_state import MuxStream


class EventKind(Enum):
    ACCEPTED = "accepted"
    """The peer opened `stream`."""
    READABLE = "readable"
    """`stream` has data, or its peer's FIN has arrived."""
    RESET = "reset"
    """`stream` was aborted; `stream.reset_reason` says why.

    It is one of another session where its memory was needed (see
    :class:`~lattica.nat.mux.budget.MemoryBudget`).
    """
    STOPPED = "stopped"
    """The peer reads no more of `stream`; what it has sent is still there."""
    PONG = "pong"
    """A ping was answered; `session.rtt` is up to date."""
    GO_AWAY = "go-away"
    """The peer will accept no more streams; `value` is its code."""


@dataclass(frozen=True, slots=True)
class Event:
    kind: EventKind
    stream: MuxStream | None = None
    value: int = 0
