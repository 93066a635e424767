"""The sweep finds for every key who is nearest, with few lookups."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.client.providing.sweep import Covered, Sweep
from lattica.dht.kademlia.contact import KEY_BITS, key_of
from tests.support.dht.kademlia import contact


def run(peers: int, keys: int, count: int = 20, seed: int = 1):
    rng = random.Random(seed)
    contacts = [contact(rng.getrandbits(KEY_BITS)) for _ in range(peers)]
    wire = [rng.randbytes(34) for _ in range(keys)]
    sweep = Sweep(wire, count)
    found = {}

    def nearest(target):
        return sorted(contacts, key=lambda c: c.key ^ target)[:count]

    while (key := sweep.next_key()) is not None:
        found.update(sweep.learned(key, nearest(key_of(key)), are_all=peers < count))
    assert sweep.pending == 0
    assert found == {key: nearest(key_of(key)) for key in wire}
    return sweep.lookups


@pytest.mark.parametrize(("peers", "keys", "most"), [(3, 50, 1), (50, 500, 8), (1000, 3000, 160)])
def test_many_keys_take_about_a_lookup_for_a_region(peers, keys, most):
    assert run(peers, keys) <= most


def test_few_keys_take_no_more_lookups_than_keys():
    assert run(2000, 10) <= 10
    assert run(100, 0) == 0


@given(st.integers(0, 60), st.integers(0, 40), st.integers(1, 8), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_what_is_found_is_right_whatever_there_is(peers, keys, count, seed):
    assert run(peers, keys, count, seed) <= max(keys, 1)


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 4)), max_size=12), st.integers(0, 15))
@settings(max_examples=100)
def test_regions_grow_together(added, start):
    covered, truth = Covered(), set()
    for key, bits in added:
        covered.add(key << 252, bits)
        truth |= {n for n in range(16) if n >> (4 - bits) == key >> (4 - bits)}
    for bits in range(5):
        region = {n for n in range(16) if n >> (4 - bits) == start >> (4 - bits)}
        assert covered.has(start << 252, bits) == (region <= truth)
        if not region <= truth:
            part, depth = covered.missing(start << 252, bits)
            assert (part >> 252) in region - truth
            assert depth >= bits


def test_a_key_next_to_which_it_is_crowded_is_looked_up_for_itself():
    rng = random.Random(4)
    contacts = [contact(rng.getrandbits(KEY_BITS)) for _ in range(300)]
    wire = [rng.randbytes(34) for _ in range(400)]
    attacked = key_of(wire[7])
    sybils = [contact(attacked ^ n) for n in range(1, 21)]
    everybody = contacts + sybils

    def is_crowded(target, nearest):
        return nearest[-1] ^ target < 1000

    sweep = Sweep(wire, 20, is_crowded)
    looked_up, found = [], {}
    while (key := sweep.next_key()) is not None:
        looked_up.append(key)
        near = sorted(everybody, key=lambda c: c.key ^ key_of(key))
        # The lookup finds the region around it, too.
        found.update(sweep.learned(key, near[:60] if key == wire[7] else near[:20]))
    assert wire[7] in looked_up
    assert len(looked_up) == len(set(looked_up)) == sweep.lookups <= 80
    assert found.keys() == set(wire)
    assert set(found[wire[7]]) > set(sybils)
    assert len(found[wire[7]]) == 60


def test_a_lookup_that_finds_few_does_not_say_that_there_are_no_more():
    rng = random.Random(5)
    contacts = [contact(rng.getrandbits(KEY_BITS)) for _ in range(1000)]
    wire = [rng.randbytes(34) for _ in range(500)]
    sweep = Sweep(wire, 20)
    right = 0
    while (key := sweep.next_key()) is not None:
        near = sorted(contacts, key=lambda c: c.key ^ key_of(key))[:20]
        # Some have not answered.
        found = near if sweep.lookups % 4 else near[:13]
        for other, holders in sweep.learned(key, found).items():
            truth = sorted(contacts, key=lambda c: c.key ^ key_of(other))[:20]
            right += len(set(holders) & set(truth)) >= 12
    assert right >= 450
    assert sweep.lookups <= 200
