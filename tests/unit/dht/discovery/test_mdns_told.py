"""What senders on the local network say of peers: shares, and who is heard first."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.discovery.mdns import told
from lattica.dht.discovery.mdns.told import ToldPeers
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr

LIAR, HONEST, THIRD = (ip_address(f"192.168.1.{n}") for n in (66, 5, 7))


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def at(ip: object, port: int = 1) -> Multiaddr:
    return Multiaddr(f"/ip4/{ip}/tcp/{port}")


def test_whoever_names_thousands_forgets_its_own_and_nobody_elses():
    peers = ToldPeers()
    peers.add(HONEST, peer(0), (at(HONEST),), 0.0, 120.0)
    for number in range(1, 5000):
        peers.add(LIAR, peer(number), (at(LIAR),), 1.0, 120.0)
    for number in range(5000, 5100):  # who comes after the flood has room, too
        peers.add(THIRD, peer(number), (at(THIRD),), 2.0, 120.0)
    assert len(peers) == told.MOST
    found = dict(peers.peers(3.0))
    assert found[peer(0)] == (at(HONEST),)
    assert sum(addrs == (at(THIRD),) for addrs in found.values()) == 100
    assert peer(4999) in found
    assert peer(1) not in found


def test_nobody_replaces_what_another_has_said():
    peers = ToldPeers()
    peers.add(LIAR, peer(1), tuple(at("192.168.1.200", port) for port in range(1, 33)), 0.0, 120.0)
    peers.add(HONEST, peer(1), (at(HONEST), at("10.0.0.5")), 1.0, 120.0)
    peers.add(LIAR, peer(1), tuple(at("192.168.1.201", port) for port in range(1, 33)), 2.0, 120.0)
    ((_, addrs),) = peers.peers(3.0)
    # Who speaks of itself comes first, and what the other has said before is gone.
    assert addrs[0] == at(HONEST)
    assert at("10.0.0.5") in addrs[:4]
    assert at("192.168.1.200") not in addrs
    assert len(addrs) == 32


def test_of_those_who_speak_of_others_whoever_names_fewest_comes_first_and_then_the_first():
    peers = ToldPeers()
    for number in range(5):
        peers.add(LIAR, peer(number), (at("192.168.1.200"),), 0.0, 120.0)
    peers.add(THIRD, peer(0), (at("192.168.1.201"),), 1.0, 120.0)
    peers.add(HONEST, peer(0), (at("192.168.1.202"),), 2.0, 120.0)
    peers.add(THIRD, peer(0), (at("192.168.1.203"),), 3.0, 120.0)
    found = dict(peers.peers(4.0))
    assert found[peer(0)] == (at("192.168.1.203"), at("192.168.1.202"), at("192.168.1.200"))


def test_what_one_has_said_ends_while_another_goes_on():
    peers = ToldPeers()
    peers.add(LIAR, peer(0), (at(LIAR),), 0.0, 120.0)
    peers.add(HONEST, peer(0), (at(HONEST),), 60.0, 120.0)
    assert dict(peers.peers(130.0)) == {peer(0): (at(HONEST),)}
    assert dict(peers.peers(190.0)) == {}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30), st.integers(0, 50)), max_size=80))
def test_the_books_agree_whatever_is_said(steps):
    told_before, told.MOST = told.MOST, 16
    try:
        peers, now = ToldPeers(), 0.0
        for host, number, passed in steps:
            now += passed
            peers.add(ip_address(f"10.0.0.{host}"), peer(number), (at("10.0.0.1"),), now, 120.0)
            held = {(s, p) for s, claims in peers._of.items() for p in claims}
            assert held == {(s, p) for p, senders in peers._senders.items() for s in senders}
            assert len(peers) == len(held) <= 16
            assert peer(number) in dict(peers.peers(now))
    finally:
        told.MOST = told_before
