"""The space of keys, and peers in it. Pure.

Keys are SHA-256 as numbers below 2**256, of what a record is stored under and of binary peer IDs
alike; the distance of two is their XOR.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import direct_ip
from lattica.nat.base.net.ip import is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.network_groups import network_of

KEY_BITS = 256


def key_of(data: bytes) -> int:
    """Where the record of a key, or the peer of a binary ID, is in the space of keys."""
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


def common_prefix(one: int, other: int) -> int:
    """Leading bits that two keys share: 0 to :data:`KEY_BITS`."""
    return KEY_BITS - (one ^ other).bit_length()


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer, where it is in the space of keys, and where it can be dialed."""

    key: int = field(repr=False)
    peer_id: PeerId
    addrs: tuple[Multiaddr, ...] = ()
    """Without the peer's ID."""

    @classmethod
    def of(cls, peer_id: PeerId, addrs: Iterable[Multiaddr] = ()) -> Contact:
        """The contact of a peer."""
        return cls(key_of(peer_id.to_bytes()), peer_id, tuple(addrs))


@lru_cache(maxsize=8192)
def network_group(addr: Multiaddr) -> str | None:
    """The network whose members count as one (:func:`network_of`); None for addresses that are not
    public or go through a relay, of which a local network may have many honest peers.
    """
    ip = direct_ip(addr)
    if ip is None or not is_public_host(ip):
        return None
    return network_of(ip)
