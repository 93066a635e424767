"""All that a node keeps for others, put together. Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lattica.dht.records.plain import STANDARD, PlainRecords
from lattica.dht.store.config import StoreConfig
from lattica.dht.store.plain import PlainStore
from lattica.dht.store.providers import ProviderStore
from lattica.dht.store.rows import Journal, Kind, NoJournal, Row, RowId
from lattica.dht.store.values import ValueStore

KINDS = (Kind.VALUE, Kind.PLAIN, Kind.PROVIDER, Kind.ADDRESSES)


class RecordStore:
    """Values, plain records and providers, each within its quotas.

    Args:
        kinds: of plain records.
        journal: is told of every row that changes.
    """

    def __init__(
        self,
        config: StoreConfig | None = None,
        *,
        kinds: tuple[PlainRecords, ...] = STANDARD,
        journal: Journal | None = None,
    ) -> None:
        self.config = config or StoreConfig()
        journal = journal or NoJournal()
        self.values = ValueStore(self.config, journal)
        self.plain = PlainStore(self.config, kinds, journal)
        self.providers = ProviderStore(self.config, journal)

    def expire(self, now: float) -> None:
        """Forget what has expired; `now` is in seconds since 1970."""
        self.values.expire(now)
        self.plain.expire(now)
        self.providers.expire(now)

    def row(self, row_id: RowId) -> Row | None:
        """A row of one of :data:`KINDS` as it is now; None: gone."""
        if row_id.kind is Kind.VALUE:
            return self.values.row(row_id)
        if row_id.kind is Kind.PLAIN:
            return self.plain.row(row_id)
        return self.providers.row(row_id)

    def row_ids(self) -> Iterator[RowId]:
        """All rows that there are now."""
        for part in (self.values, self.plain, self.providers):
            yield from part.row_ids()

    def load(self, rows: Iterable[Row], now: float) -> None:
        """Take rows from a file; what is wrong or has expired is left out."""
        providers = []
        for row in rows:
            if row.row_id.kind is Kind.VALUE:
                self.values.load(row, now)
            elif row.row_id.kind is Kind.PLAIN:
                self.plain.load(row, now)
            elif row.row_id.kind in (Kind.PROVIDER, Kind.ADDRESSES):
                providers.append(row)
        self.providers.load(providers, now)
