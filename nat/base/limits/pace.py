"""Limits of rates: how long to wait so that no more than so many bytes a second pass. Pure."""

from __future__ import annotations

import math

PACED_PIECE = 64 * 1024
"""Bytes that pass at once where a rate is limited."""
_BURST = 0.1
"""Seconds of the rate that may pass at once after a pause."""


class Pace:
    """At most `rate` bytes a second; infinite: no limit."""

    def __init__(self, rate: float = math.inf) -> None:
        if not rate > 0:
            raise ValueError(f"a rate of {rate} bytes a second")
        self.rate = rate
        self.passed = 0
        """Bytes so far."""
        self._free_at = -math.inf

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self.rate < math.inf

    def delay(self, count: int, now: float) -> float:
        """`count` bytes pass; seconds to wait until they may."""
        self.passed += count
        if not self.is_limited:
            return 0.0
        begin = max(self._free_at, now - _BURST)
        self._free_at = begin + count / self.rate
        return max(0.0, self._free_at - now)
