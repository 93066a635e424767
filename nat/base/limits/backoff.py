"""Pauses between attempts that fail: pure, with the clock and the randomness of the caller."""

from __future__ import annotations

import random


def pause_after(failures: int, first: float, limit: float, rng: random.Random) -> float:
    """Seconds to wait after that many failures in a row (at least 1).

    The longest pause doubles from `first` to `limit`. The second half of each is random, so that
    many who lost the same thing at the same moment do not all come back for it together.
    """
    doublings = min(failures - 1, 64)  # beyond, a float would overflow at last
    return min(limit, first * 2.0**doublings) * rng.uniform(0.5, 1.0)


class Backoff:
    """The first attempt is due at once; later ones after pauses from :func:`pause_after`."""

    __slots__ = ("_first", "_limit", "_rng", "due", "failures")

    def __init__(self, first: float, limit: float, rng: random.Random, now: float) -> None:
        self.due = now
        """When the next attempt may be made."""
        self.failures = 0
        """In a row."""
        self._first = first
        self._limit = limit
        self._rng = rng

    def failed(self, now: float) -> None:
        """Another attempt has failed."""
        self.failures += 1
        self.due = now + pause_after(self.failures, self._first, self._limit, self._rng)

    def hurry(self, now: float, limit: float) -> None:
        """Make the next attempt within `limit` seconds, however many have failed."""
        if self.due > now + limit:
            self.due = now + limit * self._rng.uniform(0.5, 1.0)

    def again(self, now: float) -> None:
        """Begin anew, at once."""
        self.failures = 0
        self.due = min(self.due, now)
