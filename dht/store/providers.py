"""Who provides what, as a node keeps it for others. Pure: the clock is passed in."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import chain, islice, zip_longest
from math import inf

from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import MAX_ADDRS
from lattica.dht.store.config import StoreConfig
from lattica.dht.store.deadlines import Deadlines
from lattica.dht.store.rows import Journal, Kind, Row, RowId, pack, unpack
from lattica.dht.store.values import Put
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.quotas import Quotas, source_for
from lattica.nat.base.net.addresses import decode_multiaddr
from lattica.nat.base.net.multiaddr import Multiaddr

_ID = tuple[bytes, PeerId]


class ProviderStore:
    """Providers by key, and the addresses that each has told. Times are seconds since 1970."""

    def __init__(self, config: StoreConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._quotas: Quotas[_ID] = Quotas(
            config.providers, config.providers_per_publisher, config.providers_per_network
        )
        self._peers: dict[bytes, dict[PeerId, Hashable]] = {}
        """By key, and the network of each."""
        self._until: Deadlines[_ID] = Deadlines()
        self._addrs: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._counts: dict[PeerId, int] = {}
        """Records of each peer."""

    def __len__(self) -> int:
        return self._quotas.used

    def add(self, key: bytes, provider: Contact, network: str | None, now: float) -> Put:
        """A peer provides a key from now on, for `provider_ttl` seconds. Where a key has as many as
        it may, the network that has most of them yields to one that has less.
        """
        self.expire(now)
        peer_id = provider.peer_id
        record = (key, peer_id)
        peers = self._peers.get(key, {})
        is_known = peer_id in peers
        if not is_known:
            source = source_for(peer_id, network)
            is_full = len(peers) >= self._config.providers_per_key
            yields = _who_yields(peers, source.network) if is_full else None
            if is_full and yields is None:
                return Put.NO_ROOM
            evicted = self._quotas.admit(record, source, 1)
            if evicted is None:
                return Put.NO_ROOM
            self._counts[peer_id] = self._counts.get(peer_id, 0) + 1
            for other_key, other in evicted:
                self._forget(other_key, other)
            if yields is not None and len(peers) >= self._config.providers_per_key:
                self.remove(key, yields)
            self._peers.setdefault(key, {})[peer_id] = source.network
        end = now + self._config.provider_ttl
        # What is repeated all the time is not written all the time.
        if end > (self._until.get(record) or 0.0) + self._config.provider_ttl / 20:
            self._until[record] = end
            self._journal.changed(_row_id(key, peer_id))
        addrs = provider.addrs[:MAX_ADDRS]
        if addrs and self._addrs.get(peer_id) != addrs:
            self._addrs[peer_id] = addrs
            self._journal.changed(_addrs_row(peer_id))
        return Put.KNOWN if is_known else Put.STORED

    def remove(self, key: bytes, peer_id: PeerId) -> bool:
        """A peer provides a key no more; whether it was known to."""
        if not self.has(key, peer_id):
            return False
        self._quotas.release((key, peer_id))
        self._forget(key, peer_id)
        return True

    def get(self, key: bytes, now: float, count: int, rng: random.Random) -> list[Contact]:
        """At most `count` of those who provide a key, in no order, from as many networks as there
        are.
        """
        self.expire(now)
        known = self._peers.get(key, {})
        peers = list(known) if len(known) <= count else _spread(known, count, rng)
        return [Contact.of(peer_id, self._addrs.get(peer_id, ())) for peer_id in peers]

    def has(self, key: bytes, peer_id: PeerId) -> bool:
        """Whether a peer is known to provide a key."""
        return peer_id in self._peers.get(key, {})

    def expire(self, now: float) -> None:
        """Forget what has expired."""
        for key, peer_id in self._until.take_due(now):
            self._quotas.release((key, peer_id))
            self._forget(key, peer_id)

    def _forget(self, key: bytes, peer_id: PeerId) -> None:
        peers = self._peers[key]
        del peers[peer_id]
        if not peers:
            del self._peers[key]
        self._until.discard((key, peer_id))
        self._journal.changed(_row_id(key, peer_id))
        self._counts[peer_id] -= 1
        if not self._counts[peer_id]:
            del self._counts[peer_id]
            if self._addrs.pop(peer_id, None) is not None:
                self._journal.changed(_addrs_row(peer_id))

    # --- rows ---

    def row(self, row_id: RowId) -> Row | None:
        """The row as it is now; None: gone."""
        if row_id.kind is Kind.ADDRESSES:
            addrs = self._addrs.get(PeerId(row_id.id))
            return None if addrs is None else Row(row_id, pack([a.to_bytes() for a in addrs]))
        length = row_id.id[0]
        key, peer_id = row_id.id[1 : 1 + length], PeerId(row_id.id[1 + length :])
        end = self._until.get((key, peer_id))
        if end is None:
            return None
        source = self._quotas.source_of((key, peer_id))
        network = source.network if source is not None else None
        return Row(row_id, pack(end, network if isinstance(network, str) else None))

    def row_ids(self) -> Iterator[RowId]:
        """All rows that there are now."""
        for peer_id in self._addrs:
            yield _addrs_row(peer_id)
        for key, peers in self._peers.items():
            for peer_id in peers:
                yield _row_id(key, peer_id)

    def load(self, rows: Iterable[Row], now: float) -> None:
        """Take rows from a file; what is wrong with one is left out."""
        addrs: dict[bytes, tuple[Multiaddr, ...]] = {}
        providers: list[Row] = []
        for row in rows:
            if row.row_id.kind is Kind.PROVIDER:
                providers.append(row)
                continue
            fields = unpack(row.data, 1)
            if fields is not None and isinstance(fields[0], list):
                addrs[row.row_id.id] = _addrs(fields[0])
        for row in providers:
            fields = unpack(row.data, 2)
            if fields is None or not row.row_id.id:
                continue
            end, network = fields
            length = row.row_id.id[0]
            key, raw = row.row_id.id[1 : 1 + length], row.row_id.id[1 + length :]
            if not isinstance(end, int | float) or not now < end < inf:
                continue
            try:
                provider = Contact.of(PeerId(raw), addrs.get(raw, ()))
            except ValueError:
                continue
            where = network if isinstance(network, str) else None
            if self.add(key, provider, where, now) is Put.STORED:
                latest = now + self._config.provider_ttl
                self._until[key, provider.peer_id] = min(float(end), latest)


def _who_yields(peers: Mapping[PeerId, Hashable], newcomer: Hashable) -> PeerId | None:
    """The first of the network that has most, if it has still no less than the newcomer's then;
    None: nobody.
    """
    shares = Counter(peers.values())
    ((network, most),) = shares.most_common(1)
    if most - 1 < shares[newcomer] + 1:
        return None
    return next(peer_id for peer_id, other in peers.items() if other == network)


def _spread(peers: Mapping[PeerId, Hashable], count: int, rng: random.Random) -> list[PeerId]:
    """Some of them by lot: of each network one, then of each another."""
    by_network: dict[Hashable, list[PeerId]] = {}
    for peer_id, network in peers.items():
        by_network.setdefault(network, []).append(peer_id)
    groups = list(by_network.values())
    for group in groups:
        rng.shuffle(group)
    rng.shuffle(groups)
    turns = chain.from_iterable(zip_longest(*groups))
    return list(islice((peer_id for peer_id in turns if peer_id is not None), count))


def _row_id(key: bytes, peer_id: PeerId) -> RowId:
    return RowId(Kind.PROVIDER, bytes((len(key),)) + key + peer_id.to_bytes())


def _addrs_row(peer_id: PeerId) -> RowId:
    return RowId(Kind.ADDRESSES, peer_id.to_bytes())


def _addrs(items: list[object]) -> tuple[Multiaddr, ...]:
    found = []
    for item in items[:MAX_ADDRS]:
        try:
            if isinstance(item, bytes):
                found.append(decode_multiaddr(item))
        except RemoteProtocolError:
            continue
    return tuple(found)
