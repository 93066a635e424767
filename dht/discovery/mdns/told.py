"""What the senders on the local network have said of peers, each for itself. Pure.

Nobody proves who he is there: any sender may name any peer. So what one says replaces only what it
has said itself, and where there is no room, whoever has said most yields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import ip_of
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr

MOST = 1024
"""Peers that are remembered; one that several senders name counts for each of them."""
MOST_ADDRS = 32
"""Addresses of a peer that are given, of those of all senders."""


@dataclass(frozen=True, slots=True)
class _Claim:
    until: float
    since: float
    """When the sender has first named the peer; kept while it says so again in time."""
    addrs: tuple[Multiaddr, ...]


class ToldPeers:
    """Peers and their addresses, by who has said so."""

    def __init__(self) -> None:
        self._of: dict[IpAddress, dict[PeerId, _Claim]] = {}
        """By sender, the latest at the end."""
        self._senders: dict[PeerId, dict[IpAddress, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(
        self,
        sender: IpAddress,
        peer_id: PeerId,
        addrs: tuple[Multiaddr, ...],
        now: float,
        seconds: float,
    ) -> None:
        """A sender names a peer, and where it is for so many seconds, the same for all."""
        before = self._of.get(sender, {}).get(peer_id)
        if before is not None:
            self._forget(sender, peer_id)
        since = before.since if before is not None and before.until > now else now
        self._of.setdefault(sender, {})[peer_id] = _Claim(now + seconds, since, addrs)
        self._senders.setdefault(peer_id, {})[sender] = None
        self._count += 1
        if self._count > MOST:
            self._make_room(now)

    def peers(self, now: float) -> Iterator[tuple[PeerId, tuple[Multiaddr, ...]]]:
        """Those that are named now, and their addresses, one of each sender in turn.

        First of whoever speaks of itself, then of whoever names fewest peers, then of whoever has
        named it first: who names many others, or a peer that is known, comes last.
        """
        for peer_id, senders in list(self._senders.items()):
            claims: list[tuple[tuple[bool, int, float], _Claim]] = []
            for sender in senders:
                of_sender = self._of[sender]
                claim = of_sender[peer_id]
                if claim.until > now:
                    of_itself = any(ip_of(addr) == sender for addr in claim.addrs)
                    claims.append(((not of_itself, len(of_sender), claim.since), claim))
            claims.sort(key=lambda each: each[0])
            turns = zip_longest(*(claim.addrs for _, claim in claims))
            addrs = dict.fromkeys(addr for turn in turns for addr in turn if addr is not None)
            if addrs:
                yield peer_id, tuple(addrs)[:MOST_ADDRS]

    def _make_room(self, now: float) -> None:
        for sender, claims in list(self._of.items()):
            for peer_id, claim in list(claims.items()):
                if claim.until > now:
                    break  # the next ones hold for longer
                self._forget(sender, peer_id)
        while self._count > MOST:
            # Whoever has most; of those with equal shares, whoever was silent longest.
            sender = max(self._of, key=self._rank)
            self._forget(sender, next(iter(self._of[sender])))

    def _rank(self, sender: IpAddress) -> tuple[int, float]:
        claims = self._of[sender]
        return len(claims), -next(iter(claims.values())).until

    def _forget(self, sender: IpAddress, peer_id: PeerId) -> None:
        self._count -= 1
        claims, senders = self._of[sender], self._senders[peer_id]
        del claims[peer_id], senders[sender]
        if not claims:
            del self._of[sender]
        if not senders:
            del self._senders[peer_id]
