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
        max_peers: of more, one is forgotten that is not connected: before all one of which the
            application has given no address, and of these whoever has been silent longest.
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
        self._clock = clock
        self._is_connected = is_connected
        self._known: dict[PeerId, dict[Multiaddr, _Entry]] = {}
        """Who was heard of last is last."""

    def __len__(self) -> int:
        return len(self._known)

    def add(self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl: float) -> None:
        """Remember addresses for `ttl` seconds, or longer where that was said before.

        A peer's ID at their end does not matter. Of more than :data:`MAX_ADDRS_PER_PEER` the
        oldest are forgotten, of those that the application has given the last.
        """
        now = self._clock()
        known = self._known.pop(peer_id, {})
        for addr in addrs:
            base, _ = split_peer(addr)
            before = known.pop(base, _Entry(0.0, -math.inf))
            known[base] = _Entry(max(before.ttl, ttl), max(before.expires, now + ttl))
        excess = len(known) - MAX_ADDRS_PER_PEER
        if excess > 0:
            for addr in sorted(known, key=lambda addr: known[addr].ttl == GIVEN_TTL)[:excess]:
                del known[addr]
        if known:
            self._known[peer_id] = known
        while len(self._known) > self._max_peers:
            del self._known[self._least(peer_id)]

    def replace(self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl: float) -> None:
        """Forget what was known of a peer but for what the application has said, and remember
        these.
        """
        known = self._known.pop(peer_id, {})
        given = {addr: entry for addr, entry in known.items() if entry.ttl == GIVEN_TTL}
        if given:
            self._known[peer_id] = given
        self.add(peer_id, addrs, ttl)

    def used(self, peer_id: PeerId) -> None:
        """The peer was connected up to now: the time of its addresses begins anew."""
        known = self._known.pop(peer_id, None)
        if known is not None:
            now = self._clock()
            for entry in known.values():
                entry.expires = max(entry.expires, now + entry.ttl)
            self._known[peer_id] = known

    def addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """The addresses that are still good, without the peer's ID, the oldest first."""
        now, known = self._clock(), self._known.get(peer_id, {})
        if not self._is_connected(peer_id):
            for addr in [addr for addr, entry in known.items() if entry.expires <= now]:
                del known[addr]
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

    def _least(self, added: PeerId) -> PeerId:
        """Whom to forget: somebody else than who was added, if that can be."""
        rest: list[PeerId] = []
        for peer_id, known in self._known.items():
            if peer_id != added and not self._is_connected(peer_id):
                if not any(entry.ttl == GIVEN_TTL for entry in known.values()):
                    return peer_id
                rest.append(peer_id)
        return next(iter(rest), next(iter(self._known)))
