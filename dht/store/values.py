"""The signed values that a node keeps. Pure: the clock is passed in."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterator
from enum import Enum, auto

from lattica.dht.kademlia.messages import MAX_VALUE
from lattica.dht.records.signed_value import (
    MAX_VALUES,
    SignedValue,
    open_value,
    take_fitting,
)
from lattica.dht.store.config import StoreConfig
from lattica.dht.store.deadlines import Deadlines
from lattica.dht.store.rows import Journal, Kind, Row, RowId, pack, unpack
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.quotas import Quotas, source_for

_OVERHEAD = 512
"""Bytes that a value costs beside its envelope."""
_ID = tuple[bytes, bytes]


class Put(Enum):
    """What came of storing something."""

    STORED = auto()
    KNOWN = auto()
    """It was there already."""
    OLD = auto()
    """There is a newer one."""
    EXPIRED = auto()
    NO_ROOM = auto()

    @property
    def is_held(self) -> bool:
        """Whether it is there now."""
        return self in (Put.STORED, Put.KNOWN)


class ValueStore:
    """Values by key, owner and subkey. Times are seconds since 1970."""

    def __init__(self, config: StoreConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._quotas: Quotas[_ID] = Quotas(
            config.values_memory, config.values_per_publisher, config.values_per_network
        )
        self._values: dict[bytes, dict[bytes, SignedValue]] = {}
        """By key and place."""
        self._order: dict[bytes, list[bytes]] = {}
        """Sorted places of each key."""
        self._until: Deadlines[_ID] = Deadlines()
        self._put_at: dict[_ID, float] = {}
        self.refused = Counter[Put]()

    def __len__(self) -> int:
        return len(self._until)

    @property
    def size(self) -> int:
        """What counts towards `values_memory`."""
        return self._quotas.used

    def put(self, value: SignedValue, network: str | None, now: float) -> Put:
        """Store a value that comes from `network` (None: not of the internet)."""
        self.expire(now)
        if value.expires / 1000 <= now:
            self.refused[Put.EXPIRED] += 1
            return Put.EXPIRED
        value_id = (value.key, value.place)
        known = self._values.get(value.key, {}).get(value.place)
        if known is not None and known.envelope == value.envelope:
            self._put_at[value_id] = now
            return Put.KNOWN
        if known is not None and not value.supersedes(known):
            self.refused[Put.OLD] += 1
            return Put.OLD
        source = source_for(value.owner, network)
        evicted = self._quotas.admit(value_id, source, len(value.envelope) + _OVERHEAD)
        if evicted is None:
            self.refused[Put.NO_ROOM] += 1
            return Put.NO_ROOM
        for other in evicted:
            self._forget(other)
        values = self._values.setdefault(value.key, {})
        if known is None:
            insort(self._order.setdefault(value.key, []), value.place)
        values[value.place] = value
        until = min(value.expires / 1000, now + self._config.max_ttl)
        self._until[value_id] = until
        self._put_at[value_id] = now
        self._journal.changed(_row_id(value_id))
        return Put.STORED

    def get(
        self,
        key: bytes,
        now: float,
        *,
        owner: PeerId | None = None,
        after: bytes = b"",
    ) -> tuple[list[SignedValue], bytes]:
        """As many values as a record has room for, by their places, and where the next ones go on.

        `owner`: only this peer's. `after`: those behind that place; the same is returned as the
        second, empty when these are all.
        """
        self.expire(now)
        order = self._order.get(key, [])
        values = self._values.get(key, {})
        if owner is not None:
            after = max(after, owner.to_bytes())
            start = bisect_right(order, after) - (after in values and after == owner.to_bytes())
        else:
            start = bisect_right(order, after)
        some = []
        size = 0
        for place in order[start : start + MAX_VALUES + 1]:
            if owner is not None and not place.startswith(owner.to_bytes()):
                break
            some.append(values[place])
            size += len(values[place].envelope)
            if size > MAX_VALUE:
                break
        taken = take_fitting(some)
        more = taken[-1].place if taken and len(taken) < len(some) else b""
        return taken, more

    def to_republish(self, before: float) -> dict[bytes, list[SignedValue]]:
        """By key: values that nobody has put since `before`."""
        due: dict[bytes, list[SignedValue]] = {}
        for (key, place), put_at in self._put_at.items():
            if put_at <= before:
                due.setdefault(key, []).append(self._values[key][place])
        return due

    def republished(self, value: SignedValue, now: float) -> None:
        """It was put by this node."""
        if (value.key, value.place) in self._put_at:
            self._put_at[value.key, value.place] = now

    def expire(self, now: float) -> None:
        """Forget what has expired."""
        for value_id in self._until.take_due(now):
            self._quotas.release(value_id)
            self._forget(value_id)

    def _forget(self, value_id: _ID) -> None:
        key, place = value_id
        del self._values[key][place]
        order = self._order[key]
        del order[bisect_right(order, place) - 1]
        if not order:
            del self._values[key], self._order[key]
        self._until.discard(value_id)
        del self._put_at[value_id]
        self._journal.changed(_row_id(value_id))

    # --- rows ---

    def row(self, row_id: RowId) -> Row | None:
        """The row as it is now; None: gone."""
        length = int.from_bytes(row_id.id[:2], "big")
        key, place = row_id.id[2 : 2 + length], row_id.id[2 + length :]
        value = self._values.get(key, {}).get(place)
        if value is None:
            return None
        source = self._quotas.source_of((key, place))
        network = source.network if source is not None else None
        put_at = self._put_at[key, place]
        return Row(
            row_id,
            pack(key, value.envelope, network if isinstance(network, str) else None, put_at),
        )

    def row_ids(self) -> Iterator[RowId]:
        """All rows that there are now."""
        return map(_row_id, self._put_at)

    def load(self, row: Row, now: float) -> None:
        """Take a row from a file; what is wrong with it is left out."""
        fields = unpack(row.data, 4)
        if fields is None:
            return
        key, envelope, network, put_at = fields
        if not (isinstance(key, bytes) and isinstance(envelope, bytes)):
            return
        try:
            value = open_value(envelope, key)
        except RemoteProtocolError:
            return
        if self.put(value, network if isinstance(network, str) else None, now) is Put.STORED:
            at = float(put_at) if isinstance(put_at, int | float) else now
            self._put_at[key, value.place] = min(at, now)

    def __iter__(self) -> Iterator[SignedValue]:
        for values in self._values.values():
            yield from values.values()


def _row_id(value_id: _ID) -> RowId:
    key, place = value_id
    return RowId(Kind.VALUE, len(key).to_bytes(2, "big") + key + place)
