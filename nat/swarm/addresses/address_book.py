"""Known addresses of peers, each for a time after it was last of use. Pure but for its clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr

MAX_ADDRS_PER_PEER = 128
ADDRS_FOR_EACH = 6
"""Addresses that there is room for, for each peer: some have more, and most have fewer."""
_LOOKED_AT = 32
"""Peers among which the one with most addresses is forgotten first: those that were silent longest.
"""
GIVEN_TTL = math.inf
"""For addresses that the application has given: in its configuration, a ticket, or a call."""


@dataclass(slots=True)
class _Entry:
    ttl: float
    expires: float


class AddressBook:
    """What was said of where peers are, by users, by the peers, and by dials that worked.

    Addresses are forgotten when their time has passed since they were said, or since the peer
    was last connected. While it is, and where the application has given them, they stay.

    Args:
        max_peers: of more, or of more than :data:`ADDRS_FOR_EACH` addresses for each of so many,
            one is forgotten that is not connected: before all one of which the application has
            given no address, and of these one that has been silent for long, and has many.
        is_connected: whether a peer is.
        clock: seconds. The default stands still while the machine sleeps (on Linux and macOS),
            so that a night's sleep makes nothing old.
    """

    def __init__(
        self,
        max_peers: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_connected: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        self._max_peers = max_peers
        self._max_addrs = max(ADDRS_FOR_EACH * max_peers, 4 * MAX_ADDRS_PER_PEER)
        self._clock = clock
        self._is_connected = is_connected
        self._known: dict[PeerId, dict[Multiaddr, _Entry]] = {}
        """Who was heard of last is last."""
        self._count = 0
        """Addresses of all of them."""

    def __len__(self) -> int:
        return len(self._known)

    def add(self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl: float) -> None:
        """Remember addresses for `ttl` seconds, or longer where that was said before.

        A peer's ID at their end does not matter. Of more than :data:`MAX_ADDRS_PER_PEER` the
        oldest are forgotten, of those that the application has given the last.
        """
        now = self._clock()
        known = self._take(peer_id)
        for addr in addrs:
            base, _ = split_peer(addr)
            before = known.pop(base, _Entry(0.0, -math.inf))
            known[base] = _Entry(max(before.ttl, ttl), max(before.expires, now + ttl))
        excess = len(known) - MAX_ADDRS_PER_PEER
        if excess > 0:
            for addr in sorted(known, key=lambda addr: known[addr].ttl == GIVEN_TTL)[:excess]:
                del known[addr]
        self._keep(peer_id, known)
        while len(self._known) > self._max_peers or self._has_too_many:
            self._take(self._least(peer_id))

    @property
    def _has_too_many(self) -> bool:
        return len(self._known) > 1 and self._count > self._max_addrs

    def replace(self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl: float) -> None:
        """Forget what was known of a peer but for what the application has said, and remember
        these.
        """
        known = self._take(peer_id)
        given = {addr: entry for addr, entry in known.items() if entry.ttl == GIVEN_TTL}
        self._keep(peer_id, given)
        self.add(peer_id, addrs, ttl)

    def used(self, peer_id: PeerId) -> None:
        """The peer was connected up to now: the time of its addresses begins anew."""
        now, known = self._clock(), self._take(peer_id)
        for entry in known.values():
            entry.expires = max(entry.expires, now + entry.ttl)
        self._keep(peer_id, known)

    def addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """The addresses that are still good, without the peer's ID, the oldest first."""
        now, known = self._clock(), self._known.get(peer_id, {})
        if not self._is_connected(peer_id):
            for addr in [addr for addr, entry in known.items() if entry.expires <= now]:
                del known[addr]
                self._count -= 1
        if not known:
            self._known.pop(peer_id, None)
        return list(known)

    def by_source(self, peer_id: PeerId) -> tuple[list[Multiaddr], list[Multiaddr]]:
        """As :meth:`addrs`: those that the application has given, and the others."""
        given: list[Multiaddr] = []
        told: list[Multiaddr] = []
        for addr in self.addrs(peer_id):
            (given if self._known[peer_id][addr].ttl == GIVEN_TTL else told).append(addr)
        return given, told

    def _take(self, peer_id: PeerId) -> dict[Multiaddr, _Entry]:
        known = self._known.pop(peer_id, {})
        self._count -= len(known)
        return known

    def _keep(self, peer_id: PeerId, known: dict[Multiaddr, _Entry]) -> None:
        if known:
            self._known[peer_id] = known
            self._count += len(known)

    def _least(self, added: PeerId) -> PeerId:
        """Whom to forget: somebody else than who was added, if that can be."""
        told: list[PeerId] = []
        rest: PeerId | None = None
        for peer_id, known in self._known.items():
            if peer_id != added and not self._is_connected(peer_id):
                if not any(entry.ttl == GIVEN_TTL for entry in known.values()):
                    told.append(peer_id)
                    if len(told) == _LOOKED_AT:
                        break
                else:
                    rest = rest or peer_id
        if not told:
            return rest or next(iter(self._known))
        if not self._has_too_many:
            return told[0]
        return max(told, key=lambda peer_id: len(self._known[peer_id]))
