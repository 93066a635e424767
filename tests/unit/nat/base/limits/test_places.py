"""Shared places: whose they are, and who yields."""

from __future__ import annotations

from typing import Any

import pytest

from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.limits.places import Held, Places, Source, source_at, source_of, yielding
from lattica.nat.base.net.multiaddr import Multiaddr


def test_sources_are_peers_in_networks():
    peer = Identity.generate().peer_id
    assert source_at("192.0.2.7", peer) == Source(peer, "192.0.2.0/24")
    assert source_at("::ffff:192.0.2.7", peer) == Source(peer, "192.0.2.0/24")
    assert source_at("2001:db8:1:2::3", peer) == Source(peer, "2001:db8:1::/48")
    assert source_at("192.0.2.7") == Source("192.0.2.7", "192.0.2.0/24")
    assert source_at("2001:db8:1:2::3") == Source("2001:db8:1:2::/64", "2001:db8:1::/48")
    assert source_at(None, peer) == Source(peer, "")


def test_behind_a_relay_the_relay_is_the_network():
    relay, peer = Identity.generate().peer_id, Identity.generate().peer_id
    addr = Multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit")
    assert source_of(addr, peer) == Source(peer, relay)
    assert source_of(Multiaddr("/ip4/192.0.2.1/tcp/1"), peer) == Source(peer, "192.0.2.0/24")


def enemy(number: int) -> Source:
    return Source(f"enemy {number}", "enemies")


def filled(limit: int, **options: Any) -> Places[str]:
    """All places are one network's, and each another peer's."""
    places = Places[str](limit, **options)
    for number in range(limit):
        assert places.enter(f"e{number}", enemy(number), 0.0) == []
    return places


@pytest.mark.parametrize("proven", [True, False])
def test_who_comes_from_elsewhere_displaces_the_network_that_has_most(proven):
    places = filled(10)
    if proven:
        for number in range(10):
            places.progress(f"e{number}", 1.0)
    assert places.enter("honest", Source("h", "home"), 1.0) == ["e0"]
    # And stays there, whatever the others do.
    for number in range(10, 200):
        dropped = places.enter(f"e{number}", enemy(number), 1.0)
        assert dropped is None or "honest" not in dropped
    assert "honest" in places


def test_the_unproven_yield_first_and_then_who_has_made_no_progress_for_longest():
    places = filled(4)
    places.progress("e0", 1.0)
    places.progress("e1", 2.0)
    places.progress("e3", 3.0)
    order = [places.enter(f"h{n}", Source(n, f"home {n}"), 4.0) for n in range(3)]
    assert order == [["e2"], ["e0"], ["e1"]]


def test_within_a_network_the_peer_that_has_most_yields():
    places = Places[str](5)
    for name in ("a1", "a2", "a3", "b1", "b2"):
        places.enter(name, Source(name[0], "one"), 0.0, proven=True)
    assert places.enter("c1", Source("c", "one"), 0.0, proven=True) == ["a1"]
    assert places.enter("c2", Source("c", "one"), 0.0, proven=True) is None
    assert places.enter("d1", Source("d", "one"), 0.0, proven=True) == ["a2"]


def test_whoever_has_as_much_is_refused():
    places = Places[str](3)
    for name in "abc":
        places.enter(name, Source(name, name), 0.0, proven=True)
    assert places.enter("d", Source("d", "d"), 100.0) is None
    assert len(places) == 3


def test_of_one_network_the_oldest_handshake_yields():
    assert filled(3).enter("e3", enemy(3), 0.0) is None
    places = filled(3, newest_first=True)
    assert places.enter("e3", enemy(3), 0.0) == ["e0"]
    assert places.enter("e4", enemy(4), 0.0) == ["e1"]


def test_what_is_idle_yields_to_anybody():
    places = Places[str](2, idle_after=10, unproven_after=2)
    places.enter("a", Source("a", "a"), 0.0)
    places.enter("b", Source("b", "b"), 0.0)
    places.progress("b", 0.0)
    assert places.enter("c", Source("c", "c"), 1.9) is None
    assert places.enter("c", Source("c", "c"), 2.0) == ["a"]
    places.progress("c", 2.0)
    assert places.enter("d", Source("d", "d"), 9.9) is None
    assert places.enter("d", Source("d", "d"), 10.0) == ["b"]


def test_a_slow_handshake_from_elsewhere_outlasts_a_flood():
    places = Places[str](10, unproven_after=2, newest_first=True)
    places.enter("honest", Source("h", "home"), 0.0)
    for number in range(1000):
        places.enter(f"e{number}", enemy(number), 0.01 * number)
    assert "honest" in places


def test_leaving_twice_and_progress_after_it_are_nothing():
    places = filled(2)
    places.leave("e0")
    places.leave("e0")
    places.progress("e0", 1.0)
    assert len(places) == 1
    assert places.share_of(enemy(0)) == 0
    assert list(places) == ["e1"]


def test_no_places_at_all():
    assert Places[str](0).enter("a", Source("a", "a"), 0.0) is None


def test_what_is_held_yields_from_the_largest_share_on():
    held = [
        Held("h", Source("h", "home"), 30, 0),
        Held("a1", Source("a", "enemies"), 10, 2),
        Held("a2", Source("a", "enemies"), 10, 1),
        Held("b1", Source("b", "enemies"), 15, 0),
    ]
    # 35 against 30: a has 20 and b 15; then 25 against 30; then 25 against 0.
    assert [item.holder for item in yielding(held)] == ["a2", "h", "b1", "a1"]
