"""Multiaddrs: round trips, and garbage that fails only in the way it may."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import AddressError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import (
    decode_multiaddr,
    interface_addresses,
    kind_of,
    order_addresses,
    parse_multiaddr,
    split_peer,
    with_peer,
)
from lattica.nat.base.net.multiaddr import Multiaddr

ports = st.integers(0, 65535)
v4 = st.integers(0, 2**32 - 1).map(lambda n: f"/ip4/{ipaddress.IPv4Address(n)}")
v6 = st.integers(0, 2**128 - 1).map(lambda n: f"/ip6/{ipaddress.IPv6Address(n)}")
names = st.sampled_from(["/dns/example.org", "/dns4/a.example", "/dns6/b.example"])
peers = st.builds(Identity, st.binary(min_size=32, max_size=32)).map(lambda own: own.peer_id)
tails = st.sampled_from(["", "/ws", "/wss", "/tls/ws", "/tls/sni/example.org/ws"])
direct = st.builds("{}/tcp/{}{}".format, v4 | v6 | names, ports, tails) | st.builds(
    "{}/udp/{}/quic-v1/noise".format, v4 | v6, ports
)
relayed = st.builds("{}/p2p/{}/p2p-circuit".format, direct, peers)
texts = direct | relayed


@given(texts, peers)
def test_round_trips(text: str, peer: PeerId) -> None:
    addr = parse_multiaddr(text)
    assert decode_multiaddr(addr.to_bytes()) == addr
    assert parse_multiaddr(str(addr)) == addr
    assert split_peer(addr) == (addr, None)
    assert split_peer(with_peer(addr, peer)) == (addr, peer)
    assert kind_of(with_peer(addr, peer)) is kind_of(addr)


def uses(addr: Multiaddr) -> None:
    """What the rest of the code does with an address; none of it may fail."""
    str(addr)
    repr(addr.components)
    kind_of(addr)
    split_peer(addr)
    order_addresses([addr, Multiaddr("/ip4/192.0.2.1/tcp/1")], interfaces=())
    interface_addresses([addr], interfaces=())


@given(st.binary(max_size=60))
def test_garbage_bytes(data: bytes) -> None:
    try:
        addr = decode_multiaddr(data)
    except RemoteProtocolError:
        return
    assert addr.to_bytes() == data
    uses(addr)


@given(texts, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3), ports)
def test_damaged_bytes(text: str, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(Multiaddr(text).to_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    try:
        addr = decode_multiaddr(bytes(data[: 1 + cut % len(data)]))
    except RemoteProtocolError:
        return
    uses(addr)


@given(st.text(max_size=60) | st.text("/ip46tcpdns.:0123456789wsp2", max_size=60))
def test_garbage_text(text: str) -> None:
    try:
        addr = parse_multiaddr(text)
    except AddressError:
        return
    uses(addr)


@given(st.lists(texts, max_size=30), st.integers(1, 12))
def test_order_loses_and_invents_nothing(given_texts: list[str], limit: int) -> None:
    addrs = [Multiaddr(text) for text in given_texts]
    ordered = order_addresses(addrs, interfaces=(), limit=limit)
    assert len(ordered) == len(set(ordered)) == min(limit, len(set(addrs)))
    assert set(ordered) <= set(addrs)
