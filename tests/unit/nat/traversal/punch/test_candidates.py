"""Which addresses peers are told, and which of theirs are dialed: no scanning for liars."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.net.addresses import Kind, ip_of
from lattica.nat.base.net.ip import is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.punch.candidates import (
    MAX_CLAIMED,
    MAX_DIALED,
    MAX_LOOKED_AT,
    MAX_PUBLIC_HOSTS,
    predicted,
    public_ips,
    to_advertise,
    to_dial,
)
from tests.support.pairs.connected import ALICE, BOB

TCP = [Kind.TCP]
OUTSIDE = Multiaddr("/ip4/8.8.8.8/tcp/2000")
"""Where others see us."""
HOME = tuple(
    ipaddress.ip_interface(text)
    for text in ("192.168.1.2/24", "2a00:1450:4001:81b::1/64", "127.0.0.1/8", "::1/128")
)
LISTENING = [Multiaddr("/ip4/0.0.0.0/tcp/4001"), Multiaddr("/ip4/0.0.0.0/udp/4001/quic-v1/noise")]
PEER_ID = BOB.peer_id


def told(**changes) -> list[str]:
    arguments = {"outside": [OUTSIDE], "listening": LISTENING, "kinds": TCP, "interfaces": HOME}
    return [str(addr) for addr in to_advertise(**{**arguments, **changes})]


def dialed(*claimed: str, **changes) -> list[str]:
    arguments = {
        "kinds": TCP,
        "ours": [OUTSIDE, Multiaddr("/ip4/192.168.1.2/tcp/4001")],
        "interfaces": HOME,
    }
    addrs = [Multiaddr(text) for text in claimed]
    return [str(addr) for addr in to_dial(addrs, PEER_ID, **{**arguments, **changes})]


# --- what is told ---


def test_public_addresses_come_first():
    assert told() == ["/ip4/8.8.8.8/tcp/2000", "/ip4/192.168.1.2/tcp/4001"]


def test_private_addresses_are_for_neighbours():
    here, elsewhere = ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("9.9.9.9")
    assert told(peer_ips=frozenset({elsewhere})) == ["/ip4/8.8.8.8/tcp/2000"]
    assert len(told(peer_ips=frozenset({elsewhere, here}))) == 2
    assert told(peer_ips=frozenset(), outside=[]) == []


def test_only_the_kinds_that_are_meant_and_nothing_local():
    kinds = [Kind.QUIC]
    assert told(kinds=kinds) == ["/ip4/192.168.1.2/udp/4001/quic-v1/noise"]
    assert "/ip4/127.0.0.1/tcp/4001" in told(allow_loopback=True)
    v6 = [Multiaddr("/ip6/::/tcp/4001")]
    assert told(listening=v6, outside=[]) == ["/ip6/2a00:1450:4001:81b::1/tcp/4001"]


def test_not_more_than_a_message_holds():
    many = [Multiaddr(f"/ip4/8.8.8.8/tcp/{port}") for port in range(1, 100)]
    assert len(told(outside=many)) < 16


# --- what is dialed ---


def test_what_a_good_peer_names():
    assert dialed(f"/ip4/9.9.9.9/tcp/4001/p2p/{PEER_ID}", "/ip6/2620:fe::9/tcp/1") == [
        "/ip4/9.9.9.9/tcp/4001",
        "/ip6/2620:fe::9/tcp/1",
    ]


@pytest.mark.parametrize(
    "addr",
    [
        "/ip4/127.0.0.1/tcp/22",
        "/ip6/::1/tcp/22",
        "/ip4/0.0.0.0/tcp/22",
        "/ip4/224.0.0.1/tcp/22",
        "/ip4/255.255.255.255/tcp/22",
        "/ip4/169.254.169.254/tcp/80",
        "/ip6/fe80::1/tcp/22",
        "/ip6/ff02::1/tcp/22",
        "/ip6/::ffff:127.0.0.1/tcp/22",
        "/ip6/::ffff:10.0.0.1/tcp/22",
        "/ip6/2002:a00:1::1/tcp/22",
        "/ip6/64:ff9b::a00:1/tcp/22",
        "/ip6/fec0::1/tcp/22",
        "/ip4/10.1.2.3/tcp/22",
        "/ip4/100.64.0.1/tcp/22",
        "/dns4/localhost/tcp/22",
        "/ip4/9.9.9.9/tcp/0",
        "/ip4/9.9.9.9/udp/53/quic-v1/noise",
        "/ip4/9.9.9.9/tcp/80/ws",
        f"/ip4/9.9.9.9/tcp/4001/p2p/{ALICE.peer_id}",
        f"/ip4/9.9.9.9/tcp/4001/p2p/{ALICE.peer_id}/p2p-circuit/p2p/{PEER_ID}",
        "/ip4/8.8.8.8/tcp/2000",
        "/ip4/192.168.1.2/tcp/4001",
    ],
)
def test_what_is_never_dialed(addr):
    """Local ones, foreign private ones, names, other kinds, other peers, and ourselves."""
    assert dialed(addr) == []


def test_neighbours():
    """In a network of ours, or behind the same NAT; such a one comes first."""
    assert dialed("/ip4/192.168.1.9/tcp/4001") == ["/ip4/192.168.1.9/tcp/4001"]
    assert dialed("/ip4/8.8.8.8/tcp/999", "/ip4/10.9.9.9/tcp/4001") == [
        "/ip4/10.9.9.9/tcp/4001",
        "/ip4/8.8.8.8/tcp/999",
    ]


def test_another_node_on_this_machine():
    assert dialed("/ip4/192.168.1.2/tcp/4002") == ["/ip4/192.168.1.2/tcp/4002"]
    assert dialed("/ip4/127.0.0.1/tcp/1", allow_loopback=True) == ["/ip4/127.0.0.1/tcp/1"]


def test_where_the_peer_has_been_met_it_is_believed_no_other_place():
    proven = frozenset({ipaddress.ip_address("9.9.9.9")})
    claims = ("/ip4/9.9.9.9/tcp/1", "/ip4/9.9.9.10/tcp/1", "/ip4/192.168.1.9/tcp/4001")
    assert dialed(*claims, proven_ips=proven) == [
        "/ip4/192.168.1.9/tcp/4001",
        "/ip4/9.9.9.9/tcp/1",
    ]


def test_ten_thousand_addresses():
    claims = [f"/ip4/9.9.{n // 250}.{n % 250}/tcp/4001" for n in range(300)]
    assert len(dialed(*claims)) == MAX_PUBLIC_HOSTS
    ports = [f"/ip4/9.9.9.9/tcp/{port}" for port in range(1, 300)]
    assert len(dialed(*ports)) == MAX_DIALED
    near = [f"/ip4/192.168.1.{n}/tcp/22" for n in range(10, 200)]
    assert len(dialed(*near)) == MAX_DIALED
    mixed = dialed(*near[: MAX_LOOKED_AT - 1], "/ip4/9.9.9.9/tcp/1")
    assert len(mixed) == MAX_DIALED
    assert mixed[-1] == "/ip4/9.9.9.9/tcp/1"


ips = st.one_of(
    st.ip_addresses(),
    st.sampled_from(["192.168.1.7", "8.8.8.8", "9.9.9.9", "::1", "fe80::2"]).map(
        ipaddress.ip_address
    ),
)
anything = st.builds(
    lambda ip, port: Multiaddr(f"/ip{ip.version}/{ip}/tcp/{port}"), ips, st.integers(0, 65535)
)


@given(st.lists(anything, max_size=40))
def test_whatever_a_peer_claims(claimed):
    found = to_dial(claimed, PEER_ID, kinds=TCP, ours=[OUTSIDE], interfaces=HOME)
    assert len(found) == len(set(found)) <= MAX_DIALED
    assert len(public_ips(found)) <= MAX_PUBLIC_HOSTS
    for addr in found:
        ip = ip_of(addr)
        assert ip is not None
        assert addr in claimed[:MAX_CLAIMED]
        assert not any((ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_unspecified))
        assert (
            is_public_host(ip)
            or OUTSIDE in claimed
            or "192.168.1." in str(ip)
            or same_site(claimed)
        )


def same_site(claimed) -> bool:
    return ipaddress.ip_address("8.8.8.8") in public_ips(claimed)


# --- what is guessed ---


def test_the_port_that_a_peer_listens_on():
    claimed = [Multiaddr("/ip4/9.9.9.9/tcp/51234"), Multiaddr("/ip4/192.168.1.4/tcp/51234")]
    listening = [Multiaddr("/ip4/192.168.1.4/tcp/4001"), Multiaddr("/ip4/10.0.0.1/udp/4001")]
    assert [str(addr) for addr in predicted(claimed, listening)] == ["/ip4/9.9.9.9/tcp/4001"]


@given(st.lists(anything, max_size=40), st.lists(anything, max_size=40))
def test_guesses_are_few_and_at_the_peers_own_hosts(claimed, listening):
    found = predicted(claimed, listening)
    assert len(found) <= 4
    assert public_ips(found) <= public_ips(claimed)
