"""Known addresses of peers, each for a time. Pure but for its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr

MAX_ADDRS_PER_PEER = 128
GIVEN_TTL = 3600.0
"""Seconds that an address is remembered which the application has given."""


class AddressBook:
    """What was said of where peers are, by users, by the peers, and by dials that worked.

    Args:
        max_peers: of more, whoever has been silent longest is forgotten.
        clock: seconds.
    """

    def __init__(self, max_peers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_peers = max_peers
        self._clock = clock
        self._known: dict[PeerId, dict[Multiaddr, float]] = {}
        """When each address expires; who was heard of last is last."""

    def __len__(self) -> int:
        return len(self._known)

    def add(self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl: float) -> None:
        """Remember addresses for `ttl` seconds, or longer where that was said before.

        A peer's ID at their end does not matter. Of more than :data:`MAX_ADDRS_PER_PEER` the
        oldest are forgotten.
        """
        now = self._clock()
        known = self._known.pop(peer_id, {})
        for addr in addrs:
            base, _ = split_peer(addr)
            known[base] = max(known.pop(base, 0.0), now + ttl)
        for addr in list(known)[:-MAX_ADDRS_PER_PEER]:
            del known[addr]
        if known:
            self._known[peer_id] = known
        while len(self._known) > self._max_peers:
            del self._known[next(iter(self._known))]

    def replace(self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl: float) -> None:
        """Forget a peer's addresses, and remember these."""
        self._known.pop(peer_id, None)
        self.add(peer_id, addrs, ttl)

    def addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """The addresses that are still good, without the peer's ID, the oldest first."""
        now, known = self._clock(), self._known.get(peer_id, {})
        for addr in [addr for addr, expiry in known.items() if expiry <= now]:
            del known[addr]
        if not known:
            self._known.pop(peer_id, None)
        return list(known)
