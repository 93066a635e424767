"""Rates for source networks that strangers cannot make us remember. Pure."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from hashlib import blake2b


class NetworkRates:
    """A token bucket for each source network, IPv4 /24 or IPv6 /48, and one for all together.

    Networks share a fixed number of buckets by a secret hash, so that memory does not depend on
    what arrives, and nobody can choose whose bucket to empty.

    Args:
        clock: seconds, never decreasing.
        per_second, burst: tokens that one network gets and can save up.
        total_per_second: tokens of all networks together; their burst is one second's.
        rng: `rng(n)` returns n unpredictable bytes.
    """

    SLOTS = 1024

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        per_second: float,
        burst: float,
        total_per_second: float,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._clock = clock
        self._per_second, self._burst = per_second, burst
        self._total_per_second = total_per_second
        self._secret = rng(16)
        now = clock()
        self._buckets = [(burst, now)] * self.SLOTS
        self._total = total_per_second, now

    def take(self, host: str, cost: float = 1.0) -> bool:
        """Whether a request from a numeric host is within its rate; if so, it is counted."""
        now = self._clock()
        slot = self._slot(host)
        tokens = _refilled(self._buckets[slot], now, self._per_second, self._burst)
        total = _refilled(self._total, now, self._total_per_second, self._total_per_second)
        if tokens < cost or total < cost:
            return False
        self._buckets[slot] = tokens - cost, now
        self._total = total - cost, now
        return True

    def _slot(self, host: str) -> int:
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        network = address.packed[:3] if address.version == 4 else address.packed[:6]
        digest = blake2b(network, key=self._secret, digest_size=4).digest()
        return int.from_bytes(digest, "big") % self.SLOTS


def _refilled(bucket: tuple[float, float], now: float, rate: float, burst: float) -> float:
    tokens, since = bucket
    return min(burst, tokens + (now - since) * rate)
