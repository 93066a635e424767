"""Places that strangers share: whoever holds most yields first. Pure.

Handshakes, connections, memory for what nobody has read, streams of a service, circuits of a relay:
there are only so many, and identities are free, so that a limit for each peer limits nobody. Places
are therefore counted by source: the peer, above it its network (an IPv4 /24, an IPv6 /48), above
that everybody. Where there is no place left,

1. the network that holds most yields to one that holds less, and in it the peer that holds most;
2. of what one peer holds, or several with equal shares, what is unproven yields first (no
   handshake, no progress), and then what has made no progress for longest;
3. what is idle for some seconds yields to anybody.

A newcomer that would only take the place of somebody with no more than it has itself is refused.

:class:`Places` hands them out one by one; :func:`yielding` says who yields of what is there.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

from lattica.nat.base.net.addresses import ip_of, relay_of
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.network_groups import host_of, network_of

H = TypeVar("H", bound=Hashable)


class Source(NamedTuple):
    """Who has a place."""

    peer: Hashable
    """A peer ID, or as long as that is not known what one machine has: see :func:`source_at`."""
    network: Hashable
    """What one owner is likely to have."""


NOBODY = Source(None, "")
"""Of whom nothing is known."""


def source_at(ip: IpAddress | str | None, peer: Hashable = None) -> Source:
    """The source at an IP address; whoever has none shares one network with others of the kind."""
    if ip is None:
        return Source(peer, "")
    return Source(host_of(ip) if peer is None else peer, network_of(ip))


def source_of(addr: Multiaddr, peer: Hashable = None) -> Source:
    """The source at the other end of a connection; behind a relay, the relay is the network."""
    relay = relay_of(addr)
    return (
        source_at(ip_of(addr), peer)
        if relay is None
        else Source(relay if peer is None else peer, relay)
    )


class Shares:
    """How much each source has."""

    __slots__ = ("_networks", "_peers")

    def __init__(self) -> None:
        self._networks: dict[Hashable, int] = {}
        self._peers: dict[Hashable, dict[Hashable, int]] = {}
        """By network."""

    def add(self, source: Source, weight: int = 1) -> None:
        """The source has so much more, or less."""
        peers = self._peers.setdefault(source.network, {})
        for shares, key in ((self._networks, source.network), (peers, source.peer)):
            shares[key] = shares.get(key, 0) + weight
            if not shares[key]:
                del shares[key]
        if not peers:
            del self._peers[source.network]

    def of_network(self, network: Hashable) -> int:
        return self._networks.get(network, 0)

    def of_peer(self, source: Source) -> int:
        return self._peers.get(source.network, {}).get(source.peer, 0)

    def largest_network(self) -> Hashable:
        """The one that has most; there has to be one."""
        return max(self._networks, key=self._networks.__getitem__)

    def largest_peer(self, network: Hashable) -> int:
        """How much the peer has that has most in a network."""
        return max(self._peers.get(network, {}).values(), default=0)


@dataclass(slots=True)
class _Place(Generic[H]):
    holder: H
    source: Source
    proven: bool
    active_at: float


class Places(Generic[H]):
    """So many places, and who has them.

    Args:
        limit: how many; may be changed.
        idle_after: seconds without progress after which a proven holder yields to anybody.
        unproven_after: seconds after which an unproven one does.
        newest_first: an unproven newcomer displaces the oldest unproven one of its own network at
            once, as it is the more likely to come to something.
    """

    def __init__(
        self,
        limit: int,
        *,
        idle_after: float = math.inf,
        unproven_after: float = math.inf,
        newest_first: bool = False,
    ) -> None:
        self.limit = limit
        self._newest_first = newest_first
        self._idle_after = idle_after
        self._unproven_after = unproven_after
        self._shares = Shares()
        self._places: dict[H, _Place[H]] = {}
        # By network, whoever has made no progress for longest first.
        self._proven: dict[Hashable, dict[H, _Place[H]]] = {}
        self._unproven: dict[Hashable, dict[H, _Place[H]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, holder: object) -> bool:
        return holder in self._places

    def __iter__(self) -> Iterator[H]:
        return iter(tuple(self._places))

    def share_of(self, source: Source) -> int:
        """How many places the peer has."""
        return self._shares.of_peer(source)

    def share_of_network(self, source: Source) -> int:
        """How many the peer's network has."""
        return self._shares.of_network(source.network)

    def enter(
        self, holder: H, source: Source, now: float, *, proven: bool = False
    ) -> list[H] | None:
        """Give a place to a new holder; return who loses one for it, or None: it is refused."""
        out: list[H] = []
        if len(self._places) >= self.limit:
            victim = self._victim(source, now)
            if victim is None:
                return None
            self.leave(victim.holder)
            out.append(victim.holder)
        place = _Place(holder, source, proven, now)
        self._places[holder] = place
        self._shares.add(source)
        self._line(place)[holder] = place
        return out

    def leave(self, holder: H) -> None:
        """A holder needs its place no more. Idempotent."""
        place = self._places.pop(holder, None)
        if place is not None:
            self._shares.add(place.source, -1)
            self._leave_line(place)

    def progress(self, holder: H, now: float) -> None:
        """A holder has made progress, and is proven from now on."""
        place = self._places.get(holder)
        if place is not None:
            self._leave_line(place)
            place.proven, place.active_at = True, now
            self._line(place)[holder] = place

    def _line(self, place: _Place[H]) -> dict[H, _Place[H]]:
        lines = self._proven if place.proven else self._unproven
        return lines.setdefault(place.source.network, {})

    def _leave_line(self, place: _Place[H]) -> None:
        lines = self._proven if place.proven else self._unproven
        line = lines[place.source.network]
        del line[place.holder]
        if not line:
            del lines[place.source.network]

    # --- who yields ---

    def _victim(self, source: Source, now: float) -> _Place[H] | None:
        if not self._places:
            return None
        return self._idle(source, now) or self._of_more(source) or self._unproven_beside(source)

    def _idle(self, source: Source, now: float) -> _Place[H] | None:
        """Who has had its time, of the network that has most.

        A slow handshake does not yield to those of a flood, who can yield to each other.
        """
        found: _Place[H] | None = None
        most = 0
        own = self._shares.of_network(source.network) if source.network in self._unproven else 0
        for lines, patience in (
            (self._unproven, self._unproven_after),
            (self._proven, self._idle_after),
        ):
            if patience == math.inf:
                continue
            for line in lines.values():
                first = next(iter(line.values()))
                share = self._shares.of_network(first.source.network)
                spared = not first.proven and share < own
                if now - first.active_at >= patience and share > most and not spared:
                    found, most = first, share
        return found

    def _of_more(self, source: Source) -> _Place[H] | None:
        """Somebody whose network, or else whose peer, has more than the source would have."""
        shares = self._shares
        largest = shares.largest_network()
        if shares.of_network(largest) > shares.of_network(source.network) + 1:
            return self._first_of(largest)
        if shares.largest_peer(source.network) > shares.of_peer(source) + 1:
            return self._first_of(source.network)
        return None

    def _first_of(self, network: Hashable) -> _Place[H]:
        """Who of a network yields first: an unproven one, of the peer that has most."""
        most = self._shares.largest_peer(network)
        lines = self._unproven.get(network, {}), self._proven.get(network, {})
        places = chain(*(line.values() for line in lines))
        return next(place for place in places if self._shares.of_peer(place.source) == most)

    def _unproven_beside(self, source: Source) -> _Place[H] | None:
        """The oldest unproven one of the source's own network: an honest handshake is quick."""
        line = self._unproven.get(source.network) if self._newest_first else None
        return next(iter(line.values())) if line else None


class Held(NamedTuple):
    """What somebody has; of one peer's, what has the lowest `rank` yields first."""

    holder: Any
    source: Source
    weight: int
    rank: Any
    """Comparable."""


def yielding(held: Iterable[Held]) -> Iterator[Held]:
    """All of it, in the order in which it yields.

    Always from the network that has most of what is left, and there from the peer that has most.
    """
    networks: dict[Hashable, dict[Hashable, list[Held]]] = {}
    for item in held:
        peers = networks.setdefault(item.source.network, {})
        peers.setdefault(item.source.peer, []).append(item)
    # The heaps have what is left, negated: the largest share is first. Numbers break ties that
    # ranks leave, since holders cannot be compared.
    queue = []
    for number, peers in enumerate(networks.values()):
        line = []
        for order, items in enumerate(peers.values()):
            items.sort(key=lambda item: item.rank, reverse=True)
            line.append([-sum(item.weight for item in items), items[-1].rank, order, items])
        heapq.heapify(line)
        queue.append([sum(entry[0] for entry in line), number, line])
    heapq.heapify(queue)
    while queue:
        network = queue[0]
        line = network[2]
        peer = line[0]
        item = peer[3].pop()
        yield item
        network[0] += item.weight
        peer[0] += item.weight
        if peer[3]:
            peer[1] = peer[3][-1].rank
            heapq.heapreplace(line, peer)
        else:
            heapq.heappop(line)
        if line:
            heapq.heapreplace(queue, network)
        else:
            heapq.heappop(queue)
