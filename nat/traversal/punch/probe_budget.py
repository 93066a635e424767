"""How many datagrams may be sent to addresses that peers have named. Pure.

One budget is for all ways of a node that send to addresses nobody has proved to be at: ICE and
the birthday method. A datagram costs about what it weighs.

A peer may lie about its address, and have a victim's probed in its place. Nothing it says can be
checked beforehand (what would show that it is there is what the hole is for), so the answer is
that a victim gets little: a bucket for each address and one for all, both filled at a steady
rate, both empty for everybody once they are empty.
"""

from __future__ import annotations

from collections.abc import Callable

_HOUR = 3600.0
PROBE_COST = 1
"""Of a probe of the birthday method: 18 bytes."""
CHECK_COST = 4
"""Of a check of ICE, or the answer to one: about 100 bytes."""
PER_ADDRESS = 4096
"""Two runs of the birthday method to the end, or ten attempts of ICE that fail: an hour for one
address, which several peers may share."""
PER_HOUR = 131_072
"""For all addresses: 32 times as much."""
MAX_ADDRESSES = 1024
"""Addresses that are remembered; others are refused as long as all of these are needed."""


class ProbeBudget:
    """Counts datagrams by what they cost.

    Args:
        per_address, per_hour: costs in an hour for one address, and for all.
        clock: monotonic seconds; asked first when something is taken.
    """

    def __init__(
        self,
        per_address: int = PER_ADDRESS,
        per_hour: int = PER_HOUR,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._per_address = per_address
        self._clock = clock
        self._all = _Bucket(per_hour)
        self._addresses: dict[str, _Bucket] = {}

    def take(self, host: str, cost: int = PROBE_COST) -> bool:
        """Whether one more may be sent to `host`; if so it is counted."""
        now = self._clock()
        bucket = self._addresses.get(host)
        if bucket is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._forget_idle(now)
            if len(self._addresses) >= MAX_ADDRESSES:
                return False
            bucket = self._addresses[host] = _Bucket(self._per_address)
        bucket.fill(now)
        self._all.fill(now)
        if bucket.level < cost or self._all.level < cost:
            return False
        bucket.level -= cost
        self._all.level -= cost
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

    def __init__(self, size: int) -> None:
        self.size = size
        self.level = float(size)
        self.updated: float | None = None

    def fill(self, now: float) -> None:
        if self.updated is not None:
            gained = max(0.0, now - self.updated) * self.size / _HOUR
            self.level = min(float(self.size), self.level + gained)
        self.updated = now
