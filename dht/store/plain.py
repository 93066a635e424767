"""The records of one value for each key that a node keeps. Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lattica.dht.records.plain import PlainRecord, PlainRecords, check_plain
from lattica.dht.store.config import StoreConfig
from lattica.dht.store.deadlines import Deadlines
from lattica.dht.store.rows import Journal, Kind, Row, RowId, pack, unpack
from lattica.dht.store.values import Put
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.quotas import Quotas, source_for

_OVERHEAD = 512


@dataclass(slots=True)
class _Kept:
    record: PlainRecord
    put_at: float
    publisher: PeerId
    network: str | None


class PlainStore:
    """Plain records by key, of kinds that are known. Times are seconds since 1970."""

    def __init__(
        self, config: StoreConfig, kinds: tuple[PlainRecords, ...], journal: Journal
    ) -> None:
        self.kinds = kinds
        self._journal = journal
        self._owned: Quotas[bytes] = Quotas(
            config.values_memory // 4, config.values_per_publisher, config.values_per_network
        )
        self._content: Quotas[bytes] = Quotas(
            config.content_memory, config.content_per_publisher, config.content_memory
        )
        self._kept: dict[bytes, _Kept] = {}
        self._until: Deadlines[bytes] = Deadlines()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """What counts towards the quotas."""
        return self._owned.used + self._content.used

    def put(self, record: PlainRecord, publisher: PeerId, network: str | None, now: float) -> Put:
        """Store a record that `publisher` has sent; the same again is kept for longer."""
        self.expire(now)
        known = self._kept.get(record.key)
        until = now + record.ttl
        if known is not None and known.record.value == record.value:
            known.put_at = now
            if until > (self._until.get(record.key) or 0.0) + record.ttl / 20:
                self._until[record.key] = until
                self._journal.changed(RowId(Kind.PLAIN, record.key))
            return Put.KNOWN
        if known is not None and record.sequence <= known.record.sequence:
            return Put.OLD
        quotas = self._content if record.owner is None else self._owned
        source = source_for(record.owner or publisher, network)
        evicted = quotas.admit(record.key, source, len(record.value) + _OVERHEAD)
        if evicted is None:
            return Put.NO_ROOM
        for other in evicted:
            self._forget(other)
        self._kept[record.key] = _Kept(record, now, publisher, network)
        self._until[record.key] = until
        self._journal.changed(RowId(Kind.PLAIN, record.key))
        return Put.STORED

    def get(self, key: bytes, now: float) -> PlainRecord | None:
        """The record of a key."""
        self.expire(now)
        kept = self._kept.get(key)
        return None if kept is None else kept.record

    def expire(self, now: float) -> None:
        """Forget what has expired."""
        for key in self._until.take_due(now):
            self._forget(key)

    def _forget(self, key: bytes) -> None:
        del self._kept[key]
        self._until.discard(key)
        self._owned.release(key)
        self._content.release(key)
        self._journal.changed(RowId(Kind.PLAIN, key))

    # --- rows ---

    def row(self, row_id: RowId) -> Row | None:
        """The row as it is now; None: gone."""
        kept = self._kept.get(row_id.id)
        if kept is None:
            return None
        publisher = kept.publisher.to_bytes()
        return Row(
            row_id, pack(kept.record.value, self._until.get(row_id.id), publisher, kept.network)
        )

    def row_ids(self) -> Iterator[RowId]:
        """All rows that there are now."""
        return (RowId(Kind.PLAIN, key) for key in self._kept)

    def load(self, row: Row, now: float) -> None:
        """Take a row from a file; what is wrong with it is left out."""
        fields = unpack(row.data, 4)
        if fields is None:
            return
        value, until, publisher, network = fields
        if not (
            isinstance(value, bytes)
            and isinstance(publisher, bytes)
            and isinstance(until, int | float)
            and now < until
        ):
            return
        try:
            record = check_plain(self.kinds, row.row_id.id, value)
            sender = PeerId(publisher)
        except (RemoteProtocolError, ValueError):
            return
        stored = self.put(record, sender, network if isinstance(network, str) else None, now)
        if stored is Put.STORED:
            self._until[record.key] = min(float(until), now + record.ttl)
