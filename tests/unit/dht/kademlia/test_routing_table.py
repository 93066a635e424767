"""Who is in a table, who is not, and who goes."""

from __future__ import annotations

import random

from lattica.dht.kademlia.config import TableConfig
from lattica.dht.kademlia.contact import common_prefix, key_of
from lattica.dht.kademlia.routing_table import RoutingTable, find_preimage, random_key
from tests.support.dht.kademlia import at, contact

SMALL = TableConfig(bucket=3, spares=2, group_in_bucket=2, group_in_table=3)


def table(config: TableConfig = SMALL) -> RoutingTable:
    return RoutingTable(0, config, 0.0)


def test_a_full_bucket_keeps_who_has_been_there_for_long():
    known = table()
    old = [contact(at("1") + n) for n in range(3)]
    assert all(known.answered(c, None, 0.0) for c in old)
    late = contact(at("1") + 9)
    assert not known.is_wanted(late.key)
    assert not known.answered(late, None, 1.0)
    assert list(known) == old
    assert known.is_wanted(at("01"))


def test_who_fails_is_told_to_nobody_and_replaced_by_who_has_answered_before():
    known = table()
    old = [contact(at("1") + n) for n in range(3)]
    for one in old:
        known.answered(one, None, 0.0)
    known.failed(old[0].key)
    assert known.closest(at("1"), 5) == old[1:]
    assert old[0].key in known
    assert known.is_wanted(at("1") + 8)
    spare = contact(at("1") + 9)
    assert known.answered(spare, None, 1.0)
    assert old[0].key not in known
    waiting = contact(at("1") + 10)
    assert not known.answered(waiting, None, 2.0)
    known.failed(old[1].key)
    assert known.closest(at("1"), 5) == [old[2], spare, waiting]


def test_without_a_spare_three_failures_in_a_row_are_the_end():
    known, one = table(), contact(at("1"))
    known.answered(one, None, 0.0)
    for _ in range(2):
        known.failed(one.key)
    known.answered(one, None, 1.0)
    assert known.closest(0, 5) == [one]
    for _ in range(3):
        known.failed(one.key)
    assert len(known) == 0
    assert one.key not in known


def test_few_of_one_network():
    known, net = table(), "1.2.3.0/24"
    assert known.answered(contact(at("1") + 1), net, 0.0)
    assert known.answered(contact(at("1") + 2), net, 0.0)
    assert not known.is_wanted(at("1") + 3, net)
    assert not known.answered(contact(at("1") + 3), net, 0.0)
    assert known.answered(contact(at("1") + 4), "5.6.7.0/24", 0.0)
    assert known.answered(contact(at("01")), net, 0.0)
    assert not known.is_wanted(at("001"), net)
    assert not known.answered(contact(at("001")), net, 0.0)
    # One goes, and its place is free.
    known.remove(at("01"))
    assert known.answered(contact(at("001")), net, 0.0)


def test_who_moves_into_a_full_network_leaves():
    known, net = table(), "1.2.3.0/24"
    moving = contact(at("1"))
    known.answered(moving, "5.6.7.0/24", 0.0)
    for key in (at("01"), at("01") + 1, at("001")):
        assert known.answered(contact(key), net, 0.0)
    assert not known.answered(moving, net, 1.0)
    assert moving.key not in known
    assert len(known) == 3


def test_this_node_is_never_in_it():
    known = table()
    assert not known.is_wanted(0)
    assert not known.answered(contact(0), None, 0.0)


def test_new_addresses_take_the_place_of_the_old():
    known = table()
    known.answered(contact(at("1"), "/ip4/1.2.3.4/tcp/1"), None, 0.0)
    moved = contact(at("1"), "/ip4/1.2.3.4/tcp/2")
    known.answered(moved, None, 0.0)
    assert list(known) == [moved]


def test_who_is_to_be_checked_and_what_refreshed():
    known = table(TableConfig(check_after=10.0, refresh_after=20.0))
    first, second = contact(at("1")), contact(at("001"))
    known.answered(first, None, 0.0)
    known.answered(second, None, 5.0)
    assert known.to_check(9.0) == []
    assert known.to_check(15.0) == [first, second]
    known.answered(first, None, 15.0)
    known.failed(second.key)
    assert known.to_check(15.5) == [second]
    assert known.to_refresh(19.0) == []
    assert known.to_refresh(20.0) == [0, 1, 2, 3]
    known.looked_up(at("1"), 20.0)
    assert known.to_refresh(20.0) == [1, 2, 3]


def test_keys_to_refresh_a_bucket_with():
    rng = random.Random(1)
    own = rng.getrandbits(256)
    for prefix in (0, 1, 7):
        assert common_prefix(own, random_key(own, prefix, rng)) == prefix
        assert common_prefix(own, key_of(find_preimage(own, prefix, rng))) == prefix
