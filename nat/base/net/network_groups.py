"""Networks that count as one source, and rates for those whom nobody has to remember. Pure.

Who has one IPv4 address may have its neighbours, too, and every IPv6 host has 2^64 of them: what
strangers may use is counted by network. IPv4-mapped addresses count as the IPv4 that they are.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from hashlib import blake2b

from lattica.nat.base.limits.token_bucket import TokenBucket, take
from lattica.nat.base.net.addresses import ip_of
from lattica.nat.base.net.ip import IpAddress, parse_ip
from lattica.nat.base.net.multiaddr import Multiaddr

_IPV4_PREFIX = 24
_SITE_PREFIX = 48
"""What a site has at most (RFC 6177)."""
_HOST_PREFIX = 64


def network_of(ip: str | IpAddress) -> str:
    """The network that is counted as one, as text: an IPv4 /24 or an IPv6 /48."""
    address = parse_ip(ip)
    prefix = _IPV4_PREFIX if address.version == 4 else _SITE_PREFIX
    return str(ipaddress.ip_network((address, prefix), strict=False))


def network_at(addr: Multiaddr) -> str:
    """The network that an address counts to; what has no IP address counts for itself."""
    ip = ip_of(addr)
    return str(addr) if ip is None else network_of(ip)


def host_of(ip: str | IpAddress) -> str:
    """What one machine cannot have many of, as text: an IPv4 address, or an IPv6 /64."""
    address = parse_ip(ip)
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, _HOST_PREFIX), strict=False))


class NetworkSlots:
    """Numbers below `count` for networks (IPv4 /24, IPv6 /48), by a secret hash.

    Networks share them, so that what is kept for each slot needs memory that does not depend on
    what arrives, and nobody can choose with whom to share.

    Args:
        rng: `rng(n)` returns n unpredictable bytes.
    """

    __slots__ = ("_secret", "count")

    def __init__(self, count: int, rng: Callable[[int], bytes] = os.urandom) -> None:
        self.count = count
        self._secret = rng(16)

    def slot_of(self, host: str) -> int:
        """The slot of a numeric host's network."""
        address = parse_ip(host)
        prefix = _IPV4_PREFIX if address.version == 4 else _SITE_PREFIX
        network = address.packed[: prefix // 8]
        digest = blake2b(network, key=self._secret, digest_size=4).digest()
        return int.from_bytes(digest, "big") % self.count


class NetworkRates:
    """A token bucket for each of :class:`NetworkSlots`, and one for all networks together.

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
        self._slots = NetworkSlots(self.SLOTS, rng)
        self._buckets = [TokenBucket(burst, per_second) for _ in range(self.SLOTS)]
        self._total = TokenBucket(total_per_second, total_per_second)

    def take(self, host: str, cost: float = 1.0) -> bool:
        """Whether a request from a numeric host is within its rate; if so, it is counted."""
        bucket = self._buckets[self._slots.slot_of(host)]
        return take((bucket, self._total), cost, self._clock())
