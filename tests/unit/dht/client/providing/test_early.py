"""A record will be found when enough of its likely nearest have it, and not only its Sybils."""

from __future__ import annotations

import random

from lattica.dht.client.providing.early import ENOUGH, EarlyProvide
from lattica.dht.kademlia.contact import KEY_BITS
from lattica.dht.kademlia.network_size import SizeEstimator

PEERS = 2000


def known(rng: random.Random) -> tuple[list[int], SizeEstimator]:
    peers = [rng.getrandbits(KEY_BITS) for _ in range(PEERS)]
    sizes = SizeEstimator(20)
    for _ in range(12):
        target = rng.getrandbits(KEY_BITS)
        near = sorted(peers, key=lambda key: key ^ target)[:20]
        sizes.learned(target, near, is_drawn=True)
    return peers, sizes


def test_it_is_enough_when_some_of_the_nearest_have_it():
    rng = random.Random(1)
    peers, sizes = known(rng)
    for _ in range(20):
        target = rng.getrandbits(KEY_BITS)
        early = EarlyProvide(target, sizes)
        near = sorted(peers, key=lambda key: key ^ target)
        places = [key for key in near if early.is_place(key)]
        assert 5 <= len(places) <= 40
        assert not early.is_place(near[100])
        early.has_it(near[100])  # far away: it is not looked for there
        for number, key in enumerate(places[:ENOUGH], 1):
            assert not early.is_enough
            early.has_it(key)
            early.has_it(key)
            assert early.is_enough == (number == ENOUGH)


def test_peers_that_are_nearer_than_chance_has_it_do_not_suffice():
    rng = random.Random(2)
    peers, sizes = known(rng)
    target = rng.getrandbits(KEY_BITS)
    early = EarlyProvide(target, sizes)
    nearest = min(key ^ target for key in peers)
    for number in range(1, 30):
        early.has_it(target ^ (nearest // 64 + number))
    assert not early.is_enough


def test_where_the_size_is_not_known_nothing_is_early():
    early = EarlyProvide(5, SizeEstimator(20))
    assert not early.is_place(6)
    for key in range(6, 30):
        early.has_it(key)
    assert not early.is_enough
