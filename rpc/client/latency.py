"""How long a method takes, and what a deadline learns from that. Pure."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

_WINDOW: Final = 64
_LEAST: Final = 8
_DEVIATIONS: Final = 4.0
_FLOOR: Final = 0.05
"""Seconds below which no deadline is set: a busy process needs as long to look."""


class Latencies:
    """The durations of a method's last calls, seconds."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_WINDOW)

    def add(self, seconds: float) -> None:
        self._samples.append(seconds)

    @property
    def deadline(self) -> float | None:
        """The median, and four times the median absolute deviation; None before eight calls."""
        if len(self._samples) < _LEAST:
            return None
        median = statistics.median(self._samples)
        deviation = statistics.median(abs(each - median) for each in self._samples)
        return max(_FLOOR, median + _DEVIATIONS * deviation)
