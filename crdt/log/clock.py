"""Hybrid logical time: close to the wall clock, and later than everything that was seen.

Source: S. Kulkarni et al., "Logical Physical Clocks" (2014). 48 bits of milliseconds, 16 of a
counter that carries into them.
"""

from __future__ import annotations

import time
from typing import Final

from lattica.crdt.entries.header import MAX_HLC

_COUNTER_BITS: Final = 16


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def hlc_at(milliseconds: int) -> int:
    """The first hybrid time of a millisecond since 1970."""
    return milliseconds << _COUNTER_BITS


def milliseconds_of(hlc: int) -> int:
    """Milliseconds since 1970 of a hybrid time."""
    return hlc >> _COUNTER_BITS


NEVER_EARLY: Final = milliseconds_of(MAX_HLC)
"""A time after that of any entry."""


class HybridClock:
    """Gives times to the entries that are written here. Pure: the wall clock is an argument."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def saw(self, hlc: int) -> None:
        """An entry with this time was admitted: what is written now comes after it."""
        self._last = max(self._last, hlc)

    def next(self, now_ms: int) -> int:
        """A time later than all that were seen and given, and not before `now_ms`."""
        return max(self._last + 1, hlc_at(now_ms))

    def tick(self, now_ms: int) -> int:
        """Give :meth:`next`."""
        self._last = self.next(now_ms)
        return self._last
