"""What is not asked of who has everything, because another is about to have it from there. Pure.

Of each piece it is kept who was said last to have asked for it (the claimant), and how often and
since when it was held back in all: a source may name whom it likes, and must not be able to delay
others for long by that. Nor is it held back for anybody but the source that has said so: what one
says is no reason not to ask another. Time is passed in (seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)

LONGEST_HELD = 60.0
"""Seconds for which a piece is held back in all."""
_MOST_HOLDS = 8
"""Times that a piece is held back."""


@dataclass(frozen=True, slots=True)
class Hold(Generic[S]):
    """A piece is held back."""

    since: float
    source: S
    """Who sends it to another, and said so."""
    claimant: S | None
    """To whom; None: it is not known."""


@dataclass(slots=True)
class _Past(Generic[S]):
    """All holds of a piece."""

    first: float
    count: int
    latest: S | None


class Holds(Generic[S]):
    """All pieces held back. `S` names sources."""

    def __init__(self) -> None:
        self._held: dict[int, Hold[S]] = {}
        self._claimants: dict[int, S] = {}
        self._past: dict[int, _Past[S]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def claimant(self, piece: int) -> S | None:
        """Who has asked for a piece, as was heard last."""
        return self._claimants.get(piece)

    def claim(self, piece: int, claimant: S | None) -> bool:
        """Hear that somebody has asked for a piece; whether it was not held back for that one."""
        if claimant is not None:
            self._claimants[piece] = claimant
        past = self._past.get(piece)
        return past is None or past.latest != claimant

    def hold(self, piece: int, source: S, claimant: S | None, now: float) -> None:
        """Hold a piece back, unless it was for long enough."""
        past = self._past.setdefault(piece, _Past(now, 0, None))
        if past.count >= _MOST_HOLDS or now - past.first > LONGEST_HELD:
            return
        past.count += 1
        past.latest = claimant
        self._held[piece] = Hold(now, source, claimant)

    def got(self, piece: int, source: S) -> None:
        """Somebody has a piece now: for that one it is held back no more."""
        hold = self._held.get(piece)
        if hold is not None and hold.claimant == source:
            del self._held[piece]

    def left(self, source: S) -> None:
        """Somebody is gone: drop what was held back for that one, or because it said so."""
        for piece, hold in list(self._held.items()):
            if source in (hold.claimant, hold.source):
                del self._held[piece]

    def of(self, source: S, waiting: int, now: float, until: Callable[[Hold[S]], float]) -> int:
        """Those of the `waiting` pieces that are not to be asked of a source for now.

        `until` says how long a hold is to last.
        """
        found = 0
        for piece, hold in list(self._held.items()):
            end = min(until(hold), self._past[piece].first + LONGEST_HELD)
            if now > end or not waiting >> piece & 1:
                del self._held[piece]
            elif hold.source == source:
                found |= 1 << piece
        return found
