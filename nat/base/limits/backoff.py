"""Pauses between attempts that fail: pure, with the clock and the randomness of the caller."""

from __future__ import annotations

import math
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

    __slots__ = ("_first", "_hurry_limit", "_hurry_until", "_limit", "_rng", "due", "failures")

    def __init__(self, first: float, limit: float, rng: random.Random, now: float) -> None:
        self.due = now
        """When the next attempt may be made."""
        self.failures = 0
        """In a row."""
        self._first = first
        self._limit = limit
        self._rng = rng
        self._hurry_until = -math.inf
        self._hurry_limit = math.inf

    def hurry(self, until: float, limit: float) -> None:
        """Before the time `until` no pause begins that is longer than `limit` seconds."""
        self._hurry_until, self._hurry_limit = until, limit

    def failed(self, now: float) -> None:
        """Another attempt has failed."""
        self.failures += 1
        limit = min(self._limit, self._hurry_limit) if now < self._hurry_until else self._limit
        self.due = now + pause_after(self.failures, self._first, limit, self._rng)

    def again(self, now: float) -> None:
        """Begin anew, at once."""
        self.failures = 0
        self.due = min(self.due, now)
