"""How many datagrams may be sent to addresses that peers have named. Pure.

A peer may lie about its address, and have a victim's probed in its place. Nothing it says can be
checked beforehand (what would show that it is there is what the hole is for), so the answer is
that a victim gets little: a bucket for each address and one for all, both filled at a steady
rate, both empty for everybody once they are empty.
"""

from __future__ import annotations

from collections.abc import Callable

_HOUR = 3600.0
MAX_ADDRESSES = 1024
"""Addresses that are remembered; others are refused as long as all of these are needed."""


class ProbeBudget:
    """Counts datagrams.

    Args:
        per_address, per_hour: datagrams in an hour to one address, and to all.
        clock: monotonic seconds.
    """

    def __init__(self, per_address: int, per_hour: int, clock: Callable[[], float]) -> None:
        self._per_address = per_address
        self._clock = clock
        self._all = _Bucket(per_hour, clock())
        self._addresses: dict[str, _Bucket] = {}

    def take(self, host: str) -> bool:
        """Whether one more may be sent to `host`; if so it is counted."""
        now = self._clock()
        bucket = self._addresses.get(host)
        if bucket is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._forget_idle(now)
            if len(self._addresses) >= MAX_ADDRESSES:
                return False
            bucket = self._addresses[host] = _Bucket(self._per_address, now)
        bucket.fill(now)
        self._all.fill(now)
        if bucket.level < 1 or self._all.level < 1:
            return False
        bucket.level -= 1
        self._all.level -= 1
        return True

    def _forget_idle(self, now: float) -> None:
        """Forget the addresses whose bucket is full again."""
        for host, bucket in list(self._addresses.items()):
            bucket.fill(now)
            if bucket.level >= bucket.size:
                del self._addresses[host]


class _Bucket:
    """Holds `size`, and is filled with as much in an hour."""

    __slots__ = ("level", "size", "updated")

    def __init__(self, size: int, now: float) -> None:
        self.size = size
        self.level = float(size)
        self.updated = now

    def fill(self, now: float) -> None:
        gained = max(0.0, now - self.updated) * self.size / _HOUR
        self.level = min(float(self.size), self.level + gained)
        self.updated = now
