"""Whether what a connection sends arrives: a sign of life is not enough. Pure.

A path may let small packets through and lose all large ones (its MTU has shrunk, and nobody says
so), or carry one direction only. The peer is heard then, pings are answered, and nothing moves. So
what counts is acknowledged progress while something waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

_LONGEST_GAP = 2.0
"""Seconds between two looks; what is more was this process's own pause, and nobody's fault."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the carrier of a connection knows of the bytes that it was given."""

    waiting: bool
    """Some are under way, and nothing at the other end keeps them from arriving."""
    arrived: int
    """A number that grows when some have arrived, and only then."""


class DeliveryWatch:
    """Says when nothing has arrived for `patience` seconds though something was under way.

    To be asked about once a second.
    """

    __slots__ = ("_arrived", "_looked_at", "_patience", "_since")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._arrived = -1
        self._since: float | None = None
        self._looked_at = 0.0

    def look(self, delivery: Delivery | None, now: float) -> bool:
        """Whether the path carries nothing. None for `delivery`: the carrier does not know."""
        gap, self._looked_at = now - self._looked_at, now
        if delivery is None or not delivery.waiting or delivery.arrived != self._arrived:
            self._since = now if delivery is not None and delivery.waiting else None
            self._arrived = -1 if delivery is None else delivery.arrived
            return False
        if self._since is None:
            self._since = now
        self._since = min(now, self._since + max(0.0, gap - _LONGEST_GAP))
        return now - self._since >= self._patience

    def stuck_for(self, now: float) -> float:
        """Seconds since something last arrived, while something is under way; else 0."""
        return 0.0 if self._since is None else now - self._since
