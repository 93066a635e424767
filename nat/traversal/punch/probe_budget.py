"""How many datagrams may be sent to addresses that peers have named. Pure.

One budget is for all strategies of a node that send to addresses nobody has proved to be at: ICE
and the birthday method. A datagram costs about what it weighs.

A peer may lie about its address, and have a victim's probed in its place. Nothing it says can be
checked beforehand (what would show that it is there is what the hole is for), so the answer is
that a victim gets little: a bucket for each address and one for all, both filled at a steady
rate, both empty for everybody once they are empty.
"""

from __future__ import annotations

from collections.abc import Callable

from lattica.nat.base.limits.token_bucket import TokenBucket, take

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
        self._all = TokenBucket(per_hour, per_hour / _HOUR)
        self._addresses: dict[str, TokenBucket] = {}

    def take(self, host: str, cost: int = PROBE_COST) -> bool:
        """Whether one more may be sent to `host`; if so it is counted."""
        now = self._clock()
        bucket = self._addresses.get(host)
        if bucket is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._forget_idle(now)
            if len(self._addresses) >= MAX_ADDRESSES:
                return False
            bucket = TokenBucket(self._per_address, self._per_address / _HOUR)
            self._addresses[host] = bucket
        return take((bucket, self._all), cost, now)

    def _forget_idle(self, now: float) -> None:
        """Forget the addresses whose bucket is full again."""
        for host, bucket in list(self._addresses.items()):
            bucket.fill(now)
            if bucket.is_full:
                del self._addresses[host]
