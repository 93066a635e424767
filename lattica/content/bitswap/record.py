"""What a peer was good for in Bitswap, by numbers that the original's rankings have.

The score is that of the original's beetswap (`PeerMetrics::calculate_score`): half of it is speed,
on a logarithmic scale from 1 KB/s to 100 MB/s, 35 % how many of its blocks came, and 15 % how many
came one after the other; what is old counts less.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

_SPEEDS: Final = 10
"""Blocks whose speed is remembered."""


@dataclass(slots=True)
class PeerRecord:
    """Blocks that were asked of a peer. Times are those of the caller's clock, in seconds."""

    blocks: int = 0
    """Came."""
    failures: int = 0
    """Were asked of it and did not come, or not in time."""
    changed_at: float = 0.0
    _speeds: deque[float] = field(default_factory=lambda: deque(maxlen=_SPEEDS))
    _in_a_row: int = 0
    """The last ones that came, or, below zero, that did not."""

    def came(self, size: int, seconds: float, now: float) -> None:
        """A block of `size` bytes has come, so long after it was asked for."""
        self.blocks += 1
        self._in_a_row = max(self._in_a_row, 0) + 1
        self.changed_at = now
        if seconds > 0:
            self._speeds.append(size / seconds)

    def failed(self, now: float) -> None:
        """A block that was asked for has not come."""
        self.failures += 1
        self._in_a_row = min(self._in_a_row, 0) - 1
        self.changed_at = now

    @property
    def success_rate(self) -> float:
        """The share of what was asked for that came; 0.5 of nothing."""
        total = self.blocks + self.failures
        return self.blocks / total if total else 0.5

    @property
    def speed(self) -> float:
        """Bytes a second of the last ten blocks, from question to answer; 0 of none."""
        return sum(self._speeds) / len(self._speeds) if self._speeds else 0.0

    def score(self, now: float) -> float:
        """From 0 to 100."""
        if not self.blocks and not self.failures:
            return 55.0
        speed = self.speed
        speed_score = min(max((math.log10(speed) - 3) / 5 * 100, 0.0), 100.0) if speed else 0.0
        stability_score = min(max(self._in_a_row, 0), 10) * 10.0
        age = min((now - self.changed_at) / 600, 0.3)
        return (speed_score * 0.5 + self.success_rate * 35 + stability_score * 0.15) * (1 - age)
