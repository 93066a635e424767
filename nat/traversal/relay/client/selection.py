"""Which of the relays that could be used are used: pure, without sockets or clock.

The nearest ones by round trip, `wanted` of them. What works is kept: another one takes its
place only when it fails, or when the other has been clearly nearer for a while. Then both are
held until the new one is, so that there is never one less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lattica.nat.base.keys.identity import PeerId

CLEARLY = 0.5
"""A relay is clearly nearer if its round trip is at most this part of the other's, and …"""
CLEARLY_FASTER_BY = 0.02
"""… at least so many seconds shorter."""
_UNKNOWN = 1.0
"""Seconds that a round trip is taken for that was not measured yet."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A relay, as things stand."""

    relay: PeerId
    rtt: float | None
    """Shortest round trip, seconds; None: not measured, or not connected."""
    connected: bool
    held: bool
    """There is a reservation."""
    avoided: bool
    """It has refused or failed, and is left alone for now."""
    leaving: bool = False
    """It has said that it is about to stop."""


class RelaySelection:
    """The choice, and what it needs to remember of the one before."""

    def __init__(self, wanted: int, switch_after: float) -> None:
        self.wanted = wanted
        self._switch_after = switch_after
        self._in_use: tuple[PeerId, ...] = ()
        self._change: tuple[PeerId, PeerId] | None = None
        """(relay that comes, relay that goes as soon as the other is held)."""
        self._nearer_since: dict[tuple[PeerId, PeerId], float] = {}
        """(nearer one, one in use) -> since when."""

    def choose(self, candidates: Iterable[Candidate], now: float) -> tuple[PeerId, ...]:
        """The relays to hold reservations at, the nearest first.

        At most `wanted`, and one more while it takes the place of another. One that is
        avoided is not among them, unless it still holds a reservation. Which of equal ones
        is taken, their order says.
        """
        usable = {c.relay: c for c in candidates if c.held or not (c.avoided or c.leaving)}
        by_distance = sorted(usable.values(), key=_distance)
        alive = [c for c in by_distance if c.connected or c.held]
        kept = [c.relay for c in alive if c.relay in self._in_use][: self.wanted]
        others = alive + [c for c in by_distance if not (c.connected or c.held)]
        kept += [c.relay for c in others if c.relay not in kept][: self.wanted - len(kept)]
        self._in_use = tuple(kept)
        self._continue_change(usable)
        self._compare(by_distance, now)
        if self._change is None:
            self._begin_change(usable, now)
        coming = self._change[:1] if self._change is not None else ()
        chosen = [usable[relay] for relay in (*self._in_use, *coming)]
        return tuple(c.relay for c in sorted(chosen, key=_distance))

    def next_wake(self) -> float:
        """When a nearer relay has been nearer for long enough; infinite if none is."""
        if self._change is not None:
            return math.inf
        return min(self._nearer_since.values(), default=math.inf) + self._switch_after

    def _continue_change(self, usable: Mapping[PeerId, Candidate]) -> None:
        if self._change is None:
            return
        new, old = self._change
        if new not in usable or new in self._in_use or old not in self._in_use:
            self._change = None
        elif usable[new].held:
            self._in_use = tuple(new if relay == old else relay for relay in self._in_use)
            self._change = None

    def _compare(self, usable: Sequence[Candidate], now: float) -> None:
        """Note since when relays outside are clearly nearer than ones in use."""
        inside = [c for c in usable if c.relay in self._in_use]
        outside = [c for c in usable if c.relay not in self._in_use and not c.leaving]
        nearer = {(o.relay, i.relay) for o in outside for i in inside if _clearly_nearer(o, i)}
        self._nearer_since = {pair: self._nearer_since.get(pair, now) for pair in nearer}

    def _begin_change(self, usable: Mapping[PeerId, Candidate], now: float) -> None:
        """The nearest of those that are nearer for long is to come, for the farthest; and at once
        for one that is about to stop."""
        outside = [c for c in usable.values() if c.relay not in self._in_use and not c.leaving]
        leaving = [relay for relay in self._in_use if usable[relay].leaving]
        if outside and leaving:
            self._change = (min(outside, key=_distance).relay, leaving[0])
            return
        ripe = [
            pair for pair, since in self._nearer_since.items() if now >= since + self._switch_after
        ]
        if ripe:
            self._change = min(
                ripe, key=lambda pair: (_distance(usable[pair[0]]), -_distance(usable[pair[1]]))
            )


def _distance(candidate: Candidate) -> float:
    return _UNKNOWN if candidate.rtt is None else candidate.rtt


def _clearly_nearer(new: Candidate, old: Candidate) -> bool:
    if new.rtt is None or old.rtt is None:
        return False
    return new.rtt <= old.rtt * CLEARLY and old.rtt - new.rtt >= CLEARLY_FASTER_BY
