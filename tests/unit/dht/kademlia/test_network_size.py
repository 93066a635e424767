"""How large a network is, by how near peers are to keys; and where they are nearer than that."""

from __future__ import annotations

import math
import random
from bisect import bisect_left

import pytest

from lattica.dht.kademlia.contact import KEY_BITS, common_prefix
from lattica.dht.kademlia.network_size import SizeEstimator

COUNT = 20


class Crowd:
    """Keys of peers at random, sorted."""

    def __init__(self, size: int, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.keys = sorted(self.rng.getrandbits(KEY_BITS) for _ in range(size))

    def nearest(self, target: int, count: int = COUNT) -> list[int]:
        bits = max(len(self.keys).bit_length() - 7, 0)
        rest = KEY_BITS - bits
        first = target >> rest << rest
        low, high = bisect_left(self.keys, first), bisect_left(self.keys, first + (1 << rest))
        return sorted(self.keys[low:high], key=lambda key: key ^ target)[:count]

    def learn(self, sizes: SizeEstimator, times: int, *, is_drawn: bool = True) -> None:
        for _ in range(times):
            target = self.rng.getrandbits(KEY_BITS)
            sizes.learned(target, self.nearest(target), is_drawn=is_drawn)

    def sybils(self, target: int, count: int = COUNT) -> list[int]:
        """Nearer than the nearest peer."""
        bits = (self.nearest(target, 1)[0] ^ target).bit_length() - 1
        found = [target ^ self.rng.getrandbits(bits) for _ in range(count)]
        return sorted(found, key=lambda key: key ^ target)


@pytest.mark.parametrize("size", [60, 500, 20_000])
def test_the_size_is_known_within_its_error(size):
    within = 0
    for seed in range(10):
        crowd, sizes = Crowd(size, seed), SizeEstimator(COUNT)
        crowd.learn(sizes, 16)
        found = sizes.size
        assert found is not None
        assert 0.05 <= found.error < 0.35
        assert found.least < found.peers < found.most
        within += abs(math.log(found.peers / size)) <= 2 * found.error
    assert within >= 9


def test_the_more_is_seen_the_smaller_is_the_error():
    crowd, sizes = Crowd(5000), SizeEstimator(COUNT)
    errors = []
    for _ in range(3):
        crowd.learn(sizes, 10)
        assert sizes.size is not None
        errors.append(sizes.size.error)
    assert errors == sorted(errors, reverse=True)
    crowd.learn(sizes, 500)
    assert sizes.size is not None
    assert sizes.size.samples <= 48  # it forgets what is old


def test_peers_that_are_all_found_are_counted():
    crowd, sizes = Crowd(7), SizeEstimator(COUNT)
    crowd.learn(sizes, 3)
    assert sizes.size is not None
    assert (sizes.size.peers, sizes.size.error) == (7, 0.0)
    assert sizes.reach == 0
    sizes.learned(5, [])  # nobody has answered: that says nothing
    assert sizes.size.peers == 7


def test_a_few_liars_do_not_change_it():
    crowd, sizes = Crowd(3000), SizeEstimator(COUNT)
    crowd.learn(sizes, 12)
    assert sizes.size is not None
    before = sizes.size.peers
    for _ in range(5):
        target = crowd.rng.getrandbits(KEY_BITS)
        sizes.learned(target, crowd.sybils(target), is_drawn=True)
    # And five Sybils among the twenty nearest are not even seen.
    for _ in range(5):
        target = crowd.rng.getrandbits(KEY_BITS)
        some = crowd.sybils(target, 5) + crowd.nearest(target, 15)
        sizes.learned(target, some, is_drawn=True)
    assert sizes.size.peers == pytest.approx(before, rel=0.4)
    assert sizes.size.peers == pytest.approx(3000, rel=0.4)


def test_keys_that_others_may_have_chosen_do_not_count_beside_drawn_ones():
    crowd, sizes = Crowd(3000), SizeEstimator(COUNT)
    for _ in range(40):
        target = crowd.rng.getrandbits(KEY_BITS)
        sizes.learned(target, crowd.sybils(target))
    crowd.learn(sizes, 8)
    assert sizes.size is not None
    assert sizes.size.peers == pytest.approx(3000, rel=0.4)


def test_attacked_keys_say_nothing_once_something_is_known():
    crowd, sizes = Crowd(3000), SizeEstimator(COUNT)
    crowd.learn(sizes, 1)
    for _ in range(40):
        target = crowd.rng.getrandbits(KEY_BITS)
        sizes.learned(target, crowd.sybils(target))
    assert sizes.size is not None
    assert sizes.size.samples == 1
    crowd.learn(sizes, 9, is_drawn=False)
    assert sizes.size.samples > 5
    assert sizes.size.peers == pytest.approx(3000, rel=0.4)


def test_one_part_of_the_space_counts_once_however_often_it_is_looked_up():
    crowd, sizes = Crowd(3000), SizeEstimator(COUNT)
    target = crowd.rng.getrandbits(KEY_BITS)
    for number in range(50):
        sizes.learned(target ^ number, crowd.nearest(target), is_drawn=True)
    assert sizes.size is not None
    assert sizes.size.samples == sizes.drawn == 1


@pytest.mark.parametrize("samples", [1, 3, 16])
def test_chance_is_hardly_ever_taken_for_an_attack_and_sybils_always_are(samples):
    wrong = attacks = 0
    for seed in range(20):
        crowd, sizes = Crowd(2000, seed), SizeEstimator(COUNT)
        crowd.learn(sizes, samples)
        for _ in range(20):
            target = crowd.rng.getrandbits(KEY_BITS)
            wrong += sizes.is_crowded(target, crowd.nearest(target))
            attacks += sizes.is_crowded(target, crowd.sybils(target))
    assert wrong <= 4
    assert attacks >= 396


def test_nothing_is_crowded_before_something_is_known():
    sizes = SizeEstimator(COUNT)
    assert not sizes.is_crowded(0, list(range(1, 21)))
    assert sizes.region(0, [1]) == []
    assert sizes.size is None
    assert sizes.reach == 0


@pytest.mark.parametrize("size", [50, 2000, 20_000])
def test_a_region_has_the_nearest_honest_peers(size):
    crowd, sizes = Crowd(size), SizeEstimator(COUNT)
    crowd.learn(sizes, 16)
    missed = 0
    for _ in range(30):
        target = crowd.rng.getrandbits(KEY_BITS)
        prefixes = sizes.region(target, crowd.sybils(target))
        assert len(prefixes) <= 12
        here = [k for k in crowd.keys if common_prefix(k, target) >= prefixes[0]]
        assert len(here) >= COUNT // 2
        assert len(here) <= 8 * COUNT
        missed += any(common_prefix(key, target) > prefixes[-1] for key in here)
    # Hardly ever is there anybody whom no part of it has.
    assert missed <= 2


def test_a_region_ends_where_the_crowd_begins():
    crowd, sizes = Crowd(2000), SizeEstimator(COUNT)
    crowd.learn(sizes, 16)
    target = crowd.rng.getrandbits(KEY_BITS)
    far = [target ^ (1 << (KEY_BITS - 11)), target ^ (1 << (KEY_BITS - 9))]
    assert sizes.region(target, far) == [5, 6, 7, 8]
    assert sizes.region(target, [target ^ (1 << (KEY_BITS - 2))]) == [5]
    assert sizes.region(target, [target ^ 1]) == list(range(5, 17))


def test_within_reach_are_about_as_many_as_are_looked_for():
    crowd, sizes = Crowd(5000), SizeEstimator(COUNT)
    crowd.learn(sizes, 30)
    near = []
    for _ in range(50):
        target = crowd.rng.getrandbits(KEY_BITS)
        near.append(sum(key ^ target <= sizes.reach for key in crowd.nearest(target, 60)))
    assert 10 <= sum(near) / len(near) <= 22
