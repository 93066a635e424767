"""What a multiplexed session tells its driver."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from lattica.nat.mux.stream_state import MuxStream

_IN_A_TURN = 32
"""Tasks that go on in a turn for what has happened. Each has something to do, or to end: 512 took a
twentieth of a second, in which nobody else had a turn."""


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


class EventLine:
    """What has happened, in its order. So many tasks are let go on for it in a turn.

    `act` returns whether an event has let one go on. It is not kept, as it is a method of who has
    this line: neither would be freed before the cycle collector runs.
    """

    __slots__ = ("_left", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._left = _IN_A_TURN

    def __bool__(self) -> bool:
        """Some wait for the next turn, before which no more should be taken from the peer."""
        return bool(self._waiting)

    def add(self, events: Iterable[Event], act: Callable[[Event], bool]) -> None:
        """Act on events, as far as the turn allows."""
        for event in events:
            if self._left:
                self._left -= act(event)
            else:
                self._waiting.append(event)

    def next_turn(self, act: Callable[[Event], bool]) -> None:
        """Act on what waits, as far as another turn allows."""
        self._left = _IN_A_TURN
        waiting = self._waiting
        while waiting and self._left:
            self._left -= act(waiting.popleft())
