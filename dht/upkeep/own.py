"""What this node has put and provides, to be stored anew until it expires. Pure.

Kept in the node's file, so that it goes on after a restart where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lattica.dht.records.signed_value import SignedValue, open_value
from lattica.dht.store.rows import Journal, Kind, Row, RowId, pack, unpack
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId

KINDS = (Kind.OWN_VALUE, Kind.OWN_PROVIDED)
_LEAST = 60.0
"""Seconds for which a value is not stored anew, however soon it expires."""


class OwnRecords:
    """Times are seconds since 1970."""

    def __init__(self, own: PeerId, journal: Journal) -> None:
        self._own = own
        self._journal = journal
        self._values: dict[tuple[bytes, bytes], tuple[SignedValue, float]] = {}
        """By key and subkey, and when each was stored last."""
        self._provided: dict[bytes, float] = {}

    # --- values ---

    def put(self, value: SignedValue, now: float) -> None:
        """A value of this node was stored."""
        self._values[value.key, value.subkey] = value, now
        self._journal.changed(_value_row(value.key, value.subkey))

    def value(self, key: bytes, subkey: bytes) -> SignedValue | None:
        """What this node has put there."""
        known = self._values.get((key, subkey))
        return None if known is None else known[0]

    def values_due(self, before: float, now: float) -> Iterator[SignedValue]:
        """Values that were stored last before `before`, or half of the time ago that they had left
        then; those that have expired are forgotten.
        """
        for place, (value, stored_at) in tuple(self._values.items()):
            expires = value.expires / 1000
            half = max((expires - stored_at) / 2, _LEAST)
            if expires <= now:
                del self._values[place]
                self._journal.changed(_value_row(*place))
            elif _is_due(stored_at, max(before, now - half), now):
                yield value

    # --- provided keys ---

    @property
    def provided(self) -> int:
        """How many keys this node provides."""
        return len(self._provided)

    def provides(self, keys: Iterable[bytes], now: float) -> None:
        """Keys that were announced just now."""
        for key in keys:
            self._provided[key] = now
            self._journal.changed(RowId(Kind.OWN_PROVIDED, key))

    def withdraw(self, key: bytes) -> bool:
        """Whether it was provided."""
        self._journal.changed(RowId(Kind.OWN_PROVIDED, key))
        return self._provided.pop(key, None) is not None

    def provided_due(self, before: float, now: float) -> list[bytes]:
        """Keys that were announced last before `before`, those that wait longest first."""
        due = [(at, key) for key, at in self._provided.items() if _is_due(at, before, now)]
        return [key for _, key in sorted(due)]

    def count_due(self, before: float, now: float) -> int:
        """How many :meth:`provided_due` has."""
        return sum(_is_due(at, before, now) for at in self._provided.values())

    def oldest_provided(self) -> float | None:
        """When the key that waits longest was announced."""
        return min(self._provided.values(), default=None)

    # --- rows ---

    def row(self, row_id: RowId) -> Row | None:
        """A row of one of :data:`KINDS` as it is now; None: gone."""
        if row_id.kind is Kind.OWN_PROVIDED:
            at = self._provided.get(row_id.id)
            return None if at is None else Row(row_id, pack(at))
        length = int.from_bytes(row_id.id[:2], "big")
        known = self._values.get((row_id.id[2 : 2 + length], row_id.id[2 + length :]))
        if known is None:
            return None
        return Row(row_id, pack(known[0].key, known[0].envelope, known[1]))

    def row_ids(self) -> Iterator[RowId]:
        """All rows that there are now."""
        for place in self._values:
            yield _value_row(*place)
        for key in self._provided:
            yield RowId(Kind.OWN_PROVIDED, key)

    def load(self, row: Row, now: float) -> None:
        """Take a row from a file; what is wrong with it is left out."""
        if row.row_id.kind is Kind.OWN_PROVIDED:
            fields = unpack(row.data, 1)
            if fields is not None and isinstance(fields[0], int | float):
                self._provided[row.row_id.id] = min(float(fields[0]), now)
            return
        fields = unpack(row.data, 3)
        if fields is None:
            return
        key, envelope, at = fields
        if not (isinstance(key, bytes) and isinstance(envelope, bytes)):
            return
        try:
            value = open_value(envelope, key)
        except RemoteProtocolError:
            return
        if value.owner == self._own and isinstance(at, int | float):
            self._values[value.key, value.subkey] = value, min(float(at), now)


def _is_due(at: float, before: float, now: float) -> bool:
    """Whether something was done last before `before`, or at a time that has not come yet: then the
    clock was wrong, and it is not known when."""
    return at <= before or at > now


def _value_row(key: bytes, subkey: bytes) -> RowId:
    return RowId(Kind.OWN_VALUE, len(key).to_bytes(2, "big") + key + subkey)
