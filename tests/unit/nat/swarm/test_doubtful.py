"""Addresses that connect and do not carry: for how long they are in doubt, and which."""

from __future__ import annotations

import pytest

from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses import doubtful
from lattica.nat.swarm.addresses.doubtful import DoubtfulAddresses
from tests.support.clock import Clock

PEER, OTHER = (Identity.generate().peer_id for _ in range(2))
TCP = Multiaddr("/ip4/192.0.2.1/tcp/4001")
FROM_ELSEWHERE = Multiaddr("/ip4/192.0.2.1/tcp/51234")
WS = Multiaddr("/ip4/192.0.2.1/tcp/443/ws")
QUIC = Multiaddr("/ip4/192.0.2.1/udp/4001/quic-v1/noise")
ELSEWHERE = Multiaddr("/ip4/192.0.2.2/tcp/4001")
RELAYED = Multiaddr(f"/ip4/192.0.2.9/tcp/4001/p2p/{OTHER}/p2p-circuit")


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def doubts(clock: Clock) -> DoubtfulAddresses:
    return DoubtfulAddresses(clock)


def test_what_shares_a_fate(doubts):
    # Seen from the accepting side, the port is the other's own.
    doubts.add(PEER, FROM_ELSEWHERE, "why")
    assert doubts.get(PEER, TCP)
    assert doubts.get(PEER, WS)
    assert not doubts.get(PEER, QUIC)
    assert not doubts.get(PEER, ELSEWHERE)
    assert not doubts.get(PEER, RELAYED)
    assert not doubts.get(OTHER, TCP)
    doubts.add(PEER, RELAYED, "why")
    assert doubts.get(PEER, Multiaddr(f"/ip4/192.0.2.8/tcp/1/p2p/{OTHER}/p2p-circuit"))
    assert len(doubts.of(PEER)) == 2
    doubts.clear()
    assert not doubts.of(PEER)


def test_it_heals_and_relapses(doubts, clock):
    assert doubts.add(PEER, TCP, "why").until == clock.now + 30
    clock.now += 29.9
    assert doubts.get(PEER, TCP)
    clock.now += 0.2
    assert not doubts.get(PEER, TCP)
    clock.now += 15  # tried again, and in vain
    again = doubts.add(PEER, TCP, "why")
    assert (again.times, again.until) == (2, clock.now + 60)
    assert again.max_segment < 1160
    clock.now += 1000  # it was well for long
    assert doubts.add(PEER, TCP, "why").times == 1


def test_both_ends_of_one_event_count_once(doubts, clock):
    doubts.add(PEER, TCP, "why")
    clock.now += 0.3
    assert doubts.add(PEER, FROM_ELSEWHERE, "why").times == 1


def test_the_longest_doubt_is_an_hour(doubts, clock):
    for times in range(1, 20):
        doubt = doubts.add(PEER, TCP, "why")
        assert doubt.times == times
        clock.now = doubt.until + 1
    assert doubts.add(PEER, TCP, "why").until == clock.now + 3600


def test_what_another_network_did_not_carry_says_nothing(doubts, clock):
    established, clock.now = clock.now, clock.now + 10
    doubts.clear()
    assert doubts.add(PEER, TCP, "why", since=established) is None
    assert not doubts.get(PEER, TCP)
    assert doubts.add(PEER, TCP, "why", since=clock.now)


def test_it_is_bounded(doubts, monkeypatch):
    monkeypatch.setattr(doubtful, "MAX_DOUBTS", 3)
    for number in range(9):
        doubts.add(PEER, Multiaddr(f"/ip4/192.0.2.{number + 1}/tcp/1"), "why")
    assert len(doubts.of(PEER)) == 3
