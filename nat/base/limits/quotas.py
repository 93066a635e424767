"""Who has how much, and who yields where there is no room. Pure.

Identities are free, so that a limit for each publisher limits nobody: what is stored is counted by
network, too (:mod:`lattica.nat.base.limits.places`), and where all is full, the network that has
most yields to one that has less. Addresses that are not of the internet have no network: there each
peer is its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from lattica.nat.base.limits.places import Shares, Source

R = TypeVar("R", bound=Hashable)


class Quotas(Generic[R]):
    """Weights of records by their source.

    Args:
        total, per_peer, per_network: the limits, in whatever weights are.
    """

    def __init__(self, total: int, per_peer: int, per_network: int) -> None:
        self._total = total
        self._per_peer = per_peer
        self._per_network = per_network
        self._shares = Shares()
        self._records: dict[R, tuple[Source, int]] = {}
        self._by_network: dict[Hashable, dict[Source, dict[R, None]]] = {}
        self._largest: list[tuple[int, int, Hashable]] = []
        """A heap of (-share, a number, network), of which each network has one with its share or
        more."""
        self._serial = count()
        self.used = 0

    def admit(self, record: R, source: Source, weight: int) -> list[R] | None:
        """Count a record, in place of what it was counted as; None: there is no room for it.

        Otherwise the records that yield to it: they are counted no more, and to be forgotten.
        """
        before = self._records.get(record)
        if before is not None:
            self.release(record)
        evicted = self._make_room(source, weight)
        if evicted is not None:
            self._add(record, source, weight)
        elif before is not None:
            self._add(record, *before)
        return evicted

    def release(self, record: R) -> None:
        """The record is there no more."""
        counted = self._records.pop(record, None)
        if counted is None:
            return
        source, weight = counted
        self._shares.add(source, -weight)
        self.used -= weight
        sources = self._by_network[source.network]
        del sources[source][record]
        if not sources[source]:
            del sources[source]
        if not sources:
            del self._by_network[source.network]

    def source_of(self, record: R) -> Source | None:
        """Who is charged for a record."""
        counted = self._records.get(record)
        return None if counted is None else counted[0]

    def _add(self, record: R, source: Source, weight: int) -> None:
        network = source.network
        self._records[record] = source, weight
        self._by_network.setdefault(network, {}).setdefault(source, {})[record] = None
        self._shares.add(source, weight)
        self.used += weight
        heappush(self._largest, (-self._shares.of_network(network), next(self._serial), network))
        if len(self._largest) > 4 * len(self._by_network) + 64:
            self._largest = [
                (-self._shares.of_network(other), next(self._serial), other)
                for other in self._by_network
            ]
            heapify(self._largest)

    def _make_room(self, source: Source, weight: int) -> list[R] | None:
        mine = self._shares.of_network(source.network) + weight
        if self._shares.of_peer(source) + weight > self._per_peer or mine > self._per_network:
            return None
        missing = weight - (self._total - self.used)
        if missing <= 0:
            return []
        network = self._largest_network()
        # Whoever yields has still no less than the newcomer.
        if network is None or self._shares.of_network(network) - missing < mine:
            return None
        evicted: list[R] = []
        while missing > 0:
            sources = self._by_network[network]
            peer = max(sources, key=self._shares.of_peer)
            victim = next(iter(sources[peer]))
            missing -= self._records[victim][1]
            self.release(victim)
            evicted.append(victim)
        return evicted

    def _largest_network(self) -> Hashable | None:
        heap = self._largest
        while heap:
            share, _, network = heap[0]
            actual = self._shares.of_network(network)
            if actual == -share:
                return network
            heappop(heap)
            if actual:
                heappush(heap, (-actual, next(self._serial), network))
        return None


@lru_cache(maxsize=1024)  # one object for all records of a peer
def source_for(peer: Hashable, network: str | None) -> Source:
    """The source of a publisher, in a network of the internet or none."""
    return Source(peer, network if network is not None else ("", peer))
