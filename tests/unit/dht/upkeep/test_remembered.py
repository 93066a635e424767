"""What a node remembers of its network over a restart."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.kademlia.contact import KEY_BITS, Contact
from lattica.dht.kademlia.network_size import SizeEstimator
from lattica.dht.store.rows import Kind, Row, RowId, pack
from lattica.dht.upkeep.remembered import Remembered
from lattica.nat.base.keys.peer_id import PeerId

COUNT = 20


class Journal:
    def __init__(self) -> None:
        self.rows: dict[RowId, None] = {}

    def changed(self, row_id: RowId) -> None:
        self.rows[row_id] = None


class Node:
    """One that keeps what it knows in `rows`."""

    def __init__(self, rows: tuple[Row, ...] = ()) -> None:
        self.table: list[Contact] = []
        self.sizes = SizeEstimator(COUNT)
        self.journal = Journal()
        self.remembered = Remembered(lambda: self.table, self.sizes, self.journal)
        for row in rows:
            self.remembered.load(row)

    def file(self) -> tuple[Row, ...]:
        self.remembered.save()
        assert set(self.remembered.row_ids()) >= self.journal.rows.keys()
        rows = map(self.remembered.row, self.journal.rows)
        return tuple(row for row in rows if row is not None)


def learn(sizes: SizeEstimator, peers: int, times: int, rng: random.Random) -> None:
    keys = [rng.getrandbits(KEY_BITS) for _ in range(peers)]
    for _ in range(times):
        target = rng.getrandbits(KEY_BITS)
        nearest = sorted(keys, key=lambda key: key ^ target)[:COUNT]
        sizes.learned(target, nearest, is_drawn=True)


def contact(number: int) -> Contact:
    return Contact.of(PeerId(b"\x12\x20" + number.to_bytes(32, "big")))


def test_the_size_and_its_error_are_the_same_after_a_restart():
    node = Node()
    learn(node.sizes, 1000, 20, random.Random(1))
    back = Node(node.file())
    assert node.sizes.size is not None
    assert back.sizes.size == node.sizes.size
    assert back.sizes.reach == node.sizes.reach > 0
    assert back.sizes.drawn == 0  # so it draws anew
    assert Node(back.file()).sizes.size is None  # nothing has changed: nothing is written


def test_what_was_remembered_yields_to_what_is_seen():
    node = Node()
    learn(node.sizes, 2000, 40, random.Random(1))
    back = Node(node.file())
    learn(back.sizes, 200, 12, random.Random(2))
    fresh = SizeEstimator(COUNT)
    learn(fresh, 200, 12, random.Random(2))
    assert back.sizes.size == fresh.size


def test_it_outlives_two_restarts_in_a_row():
    node = Node()
    learn(node.sizes, 1000, 20, random.Random(1))
    back = Node(node.file())
    learn(back.sizes, 1000, 1, random.Random(2))
    again = Node(back.file())
    assert again.sizes.size == back.sizes.size


def test_peers_are_kept_while_most_are_gone():
    node = Node()
    node.table = [contact(number) for number in range(10)]
    node.remembered.save()
    node.table = node.table[:2]  # cut off
    node.remembered.save()
    assert len(node.remembered.contacts) == 10
    node.table = [contact(number) for number in range(5, 13)]
    node.remembered.save()
    assert set(node.remembered.contacts) == set(node.table)


def test_peers_that_are_kept_are_bounded():
    node = Node()
    for turn in range(30):
        few = 5 if turn % 2 else 200
        node.table = [contact(turn * 1000 + number) for number in range(few)]
        node.remembered.save()
        assert len(node.remembered.contacts) <= 400


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.binary(max_size=40) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    )
)
def test_a_file_of_something_else_is_no_estimate(data):
    try:
        packed = pack(data)
    except OverflowError:
        return
    for kind in (Kind.STATE, Kind.CONTACT):
        for row_id in (b"network-size", b"x"):
            Node((Row(RowId(kind, row_id), packed),))


@pytest.mark.parametrize("peers", [0.0, -1.0, float("nan"), float("inf")])
def test_no_size_is_taken_that_cannot_be(peers):
    fields = [(bytes(32), bytes(32), peers)]
    node = Node((Row(RowId(Kind.STATE, b"network-size"), pack(fields)),))
    assert node.sizes.size is None
