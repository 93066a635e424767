"""Pauses between attempts that fail: pure, with the clock and the randomness of the caller."""

from __future__ import annotations

import random


class Backoff:
    """The first attempt is due at once; pauses double from `first` to `limit` seconds.

    The second half of each pause is random, so that many who lost the same thing at the same
    moment do not all come back for it together.
    """

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
        doublings = min(self.failures, 64)  # beyond, a float would overflow at last
        self.failures += 1
        longest = min(self._limit, self._first * 2.0**doublings)
        self.due = now + longest * self._rng.uniform(0.5, 1.0)

    def again(self, now: float) -> None:
        """Begin anew, at once."""
        self.failures = 0
        self.due = min(self.due, now)
