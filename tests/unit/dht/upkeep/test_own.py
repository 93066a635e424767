"""When what a node has put and provides is due to be stored anew."""

from __future__ import annotations

import pytest

from lattica.dht.records.keys import value_key
from lattica.dht.records.signed_value import SignedValue, seal_value
from lattica.dht.store.rows import Kind, Row, RowId
from lattica.dht.upkeep.own import KINDS, OwnRecords
from lattica.nat.base.keys.identity import Identity

OWN, OTHER = Identity.generate(), Identity.generate()
KEY = value_key("key")
HOUR = 3600.0
DAY = 24 * HOUR
T0 = 1_800_000_000.0


class Journal:
    """Remembers which rows have changed."""

    def __init__(self) -> None:
        self.rows: dict[RowId, None] = {}

    def changed(self, row_id: RowId) -> None:
        self.rows[row_id] = None


def records() -> tuple[OwnRecords, Journal]:
    journal = Journal()
    return OwnRecords(OWN.peer_id, journal), journal


def value(ttl: float, *, by: Identity = OWN, subkey: bytes = b"") -> SignedValue:
    return seal_value(by, KEY, subkey, b"\x01", sequence=1, expires=int((T0 + ttl) * 1000))


def due(own: OwnRecords, now: float) -> int:
    return len(list(own.values_due(now - HOUR, now)))


@pytest.mark.parametrize(
    ("ttl", "at", "expected"),
    [
        (DAY, HOUR - 1, 0),
        (DAY, HOUR, 1),
        # It would expire before it is due: it is stored anew at half of its time.
        (600.0, 299.0, 0),
        (600.0, 300.0, 1),
        (40.0, 39.0, 0),
    ],
)
def test_a_value_is_stored_anew_before_it_expires(ttl, at, expected):
    own, _ = records()
    own.put(value(ttl), T0)
    assert due(own, T0 + at) == expected


def test_what_has_expired_is_forgotten():
    own, journal = records()
    own.put(value(600.0), T0)
    (row_id,) = journal.rows
    assert own.row(row_id) is not None
    assert due(own, T0 + 600) == 0
    assert own.value(KEY, b"") is None
    assert own.row(row_id) is None


def test_a_clock_that_was_days_ahead_delays_nothing():
    own, _ = records()
    own.put(value(10 * DAY), T0 + 3 * DAY)
    own.provides([b"key"], T0 + 3 * DAY)
    assert due(own, T0) == 1
    assert own.provided_due(T0 - 22 * HOUR, T0) == [b"key"]
    own.provides([b"key"], T0)
    assert own.provided_due(T0 - 22 * HOUR, T0) == []


def test_keys_that_wait_longest_come_first():
    own, _ = records()
    for number, key in enumerate((b"a", b"b", b"c")):
        own.provides([key], T0 - number)
    assert own.provided_due(T0 - 1, T0) == [b"c", b"b"]
    assert own.oldest_provided() == T0 - 2
    assert own.withdraw(b"c")
    assert not own.withdraw(b"c")
    assert own.provided == 2


def test_rows_bring_back_what_there_was():
    own, journal = records()
    own.put(value(DAY), T0)
    own.put(value(DAY, subkey=b"sub"), T0)
    own.provides([b"key"], T0 + 5)
    rows = [row for row_id in journal.rows if (row := own.row(row_id)) is not None]
    assert {row.row_id.kind for row in rows} == set(KINDS)
    assert set(own.row_ids()) == {row.row_id for row in rows}
    again, _ = records()
    for row in rows:
        again.load(row, T0 + 10)
    assert again.value(KEY, b"sub") == value(DAY, subkey=b"sub")
    assert again.oldest_provided() == T0 + 5
    assert due(again, T0 + HOUR) == 2


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x91\xa1x"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_damaged_are_left_out(kind, data):
    own, _ = records()
    own.load(Row(RowId(kind, b"\x00\x01k"), data), T0)
    assert own.provided == 0
    assert due(own, T0 + DAY) == 0


def test_a_value_of_somebody_else_is_no_own_one():
    theirs, journal = records()
    theirs.put(value(DAY, by=OTHER), T0)
    own, _ = records()
    for row_id in journal.rows:
        row = theirs.row(row_id)
        assert row is not None
        assert row.row_id.kind is Kind.OWN_VALUE
        own.load(row, T0)
    assert own.value(KEY, b"") is None
