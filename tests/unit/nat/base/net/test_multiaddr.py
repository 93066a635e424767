"""Multiaddrs: one text and one form of bytes each, the same as the multiaddr package has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr.multiaddr import Multiaddr as Theirs

from lattica.errors import AddressError
from lattica.nat.base.net.multiaddr import Multiaddr

PEER = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
DNS_PATH = "/dns/a.example/tcp/443/wss/http-path/{}"
TEXTS = [
    "/ip4/192.0.2.1/tcp/4001",
    "/ip4/0.0.0.0/udp/65535/quic-v1/noise",
    "/ip6/2001:db8::1/tcp/0/ws",
    "/ip6/::/udp/1/quic",
    "/ip6zone/eth0/ip6/fe80::1/tcp/1",
    "/dns/example.org/tcp/443/wss",
    "/dns4/a.example/tcp/443/tls/sni/b.example/ws",
    "/dns6/b.example/tcp/1",
    "/dnsaddr/bootstrap.example",
    "/dns/bücher.example/tcp/1",
    f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "/ip4/192.0.2.1/udp/1/quic-v1/webtransport/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ",
    "/ip4/192.0.2.1/udp/1/webrtc-direct",
    "/ip4/192.0.2.1/tcp/80/http",
    "/ip4/192.0.2.1/sctp/80",
    "/ip4/192.0.2.1/dccp/80",
    "/ip4/192.0.2.1/tcp/443/https",
    "/webrtc",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_bytes_are_those_of_the_multiaddr_package(text):
    addr = Multiaddr(text)
    assert str(addr) == text
    assert addr.to_bytes() == bytes(addr) == Theirs(text).to_bytes()
    assert Multiaddr(addr.to_bytes()) == addr
    assert str(Multiaddr(addr.to_bytes())) == str(Theirs(addr.to_bytes())) == text
    assert Multiaddr(memoryview(addr.to_bytes())).components == addr.components
    assert Multiaddr(addr) == addr
    assert hash(Multiaddr(text)) == hash(addr)
    assert repr(addr) == f"<Multiaddr {text}>"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("/ip4/192.0.2.1/tcp/1/", "/ip4/192.0.2.1/tcp/1"),
        ("/ip6/2001:0DB8:0:0::1/tcp/080", "/ip6/2001:db8::1/tcp/80"),
        (
            "/p2p/bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr57hu5tjodrypfm6yaq6dsc2r2pzyt6",
            "/p2p/12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
        ),
        (f"/ip4/192.0.2.1/tcp/1/ipfs/{PEER}", f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"),
        ("/dns/a.example/tcp/443/wss/http-path/a+b%2fc", DNS_PATH.format("a%20b%2Fc")),
        ("/dns/a.example/tcp/443/wss/http-path/%C3%BC", DNS_PATH.format("%C3%BC")),
        ("", ""),
        ("/", ""),
    ],
)
def test_an_address_has_one_text(text, canonical):
    addr = Multiaddr(text)
    assert str(addr) == canonical
    assert addr == Multiaddr(canonical)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ip4/192.0.2.1", "begin"),
        ("/ip6zone/../ip6/fe80::1/tcp/1", "not a name"),
        ("/ip6zone/./ip6/fe80::1/tcp/1", "not a name"),
        ("/dns/a..b/tcp/1", "not a name"),
        ("/dns4/.example/tcp/1", "not a name"),
        ("192.0.2.1", "begin"),
        ("//tcp/1", "unknown protocol"),
        ("/nonsense/1", "unknown protocol"),
        ("/IP4/192.0.2.1", "unknown protocol"),
        ("/ip4", "missing value"),
        ("/ip4//tcp/1", "missing value"),
        ("/ip4/192.0.2", "not IPv4"),
        ("/ip4/192.0.2.256", "not IPv4"),
        ("/ip4/::1", "not IPv4"),
        ("/ip4/1\0", "not IPv4"),
        ("/ip6/192.0.2.1", "not IPv6"),
        ("/ip6/fe80::1%eth0", "not IPv6"),
        ("/tcp/65536", "not in range"),
        ("/tcp/-1", "not in range"),
        ("/tcp/+1", "not in range"),
        ("/tcp/1_0", "not in range"),
        ("/tcp/٣", "not in range"),
        ("/tcp/000000001", "not in range"),
        ("/dns/a b", "not a name"),
        ("/dns/\x1b[31m", "not a name"),
        ("/dns/" + "a" * 254, "not a name"),
        ("/p2p/nobody", "not a peer ID"),
        ("/certhash/zQm", "not a hash"),
        ("/certhash/u", "not a hash"),
        ("/certhash/uAB=", "not a hash"),
        ("/ws/1", "unknown protocol"),
    ],
)
def test_bad_text(text, why):
    with pytest.raises(AddressError, match=why):
        Multiaddr(text)


def test_bad_bytes():
    good = Multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}").to_bytes()
    whole = {0, 5, 8, len(good)}
    for size in range(len(good) + 1):
        if size in whole:
            assert Multiaddr(good[:size]).to_bytes() == good[:size]
            continue
        with pytest.raises(AddressError):
            Multiaddr(good[:size])
    for data in (b"\x84\x00\x01\x02\x03\x04", b"\xf0\x7f", b"\xff" * 12, b"\x36\x00", b"\x36\x01 "):
        with pytest.raises(AddressError):
            Multiaddr(data)


def test_composing():
    addr = Multiaddr("/ip4/192.0.2.1/tcp/1")
    longer = addr.encapsulate(f"/p2p/{PEER}")
    assert str(longer) == f"{addr}/p2p/{PEER}"
    assert longer == addr.encapsulate(Multiaddr(f"/p2p/{PEER}")) == Multiaddr(str(longer))
    assert longer.components == Multiaddr(str(longer)).components
    assert longer.without_last() == addr
    assert longer.without_last().without_last() == Multiaddr("/ip4/192.0.2.1")
    assert addr.encapsulate("") == Multiaddr().encapsulate(addr) == addr
    assert Multiaddr("/ws").without_last() == Multiaddr().without_last() == Multiaddr("")
    assert addr != str(addr)


@given(st.lists(st.sampled_from(TEXTS), max_size=4))
def test_any_joined_address_is_read_again(texts):
    joined = Multiaddr()
    for text in texts:
        joined = joined.encapsulate(text)
    again = Multiaddr(joined.to_bytes())
    assert again == joined == Multiaddr(str(joined))
    assert again.components == joined.components
    assert again.without_last() == joined.without_last()


@given(st.binary(max_size=60))
def test_what_is_read_from_bytes_is_written_as_the_same(data):
    try:
        addr = Multiaddr(data)
    except AddressError:
        return
    assert addr.to_bytes() == data
    assert Multiaddr(str(addr)) == addr
    assert str(addr).isprintable()


@given(st.text(max_size=60) | st.text("/ip46tcpdns.:0123456789wsp2", max_size=60))
def test_what_is_read_from_text_survives(text):
    try:
        addr = Multiaddr(text)
    except AddressError:
        return
    assert Multiaddr(addr.to_bytes()).components == addr.components
    assert Multiaddr(str(addr)) == addr
