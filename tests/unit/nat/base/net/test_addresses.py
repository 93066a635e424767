"""Multiaddrs: parsing, kinds, wildcards, the order of dialing, and names."""

from __future__ import annotations

import ipaddress
import socket
from typing import ClassVar

import pytest
import trio
from trio.testing import MockClock

from lattica.errors import AddressError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import (
    Endpoint,
    Kind,
    decode_multiaddr,
    interface_addresses,
    ip_of,
    kind_of,
    order_addresses,
    parse_multiaddr,
    path_rank,
    relay_of,
    split_peer,
    to_endpoint,
    with_peer,
)
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.names import MAX_IPS_PER_NAME, MAX_NAMES, needs_resolving, resolve

PEER = Identity.generate().peer_id
RELAY = Identity.generate().peer_id
INTERFACES = tuple(
    map(ipaddress.ip_interface, ["192.168.1.5/24", "fd00:1::5/64", "127.0.0.1/8", "::1/128"])
)


def addrs(*texts: str) -> list[Multiaddr]:
    return [Multiaddr(text) for text in texts]


# --- parsing ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "an address looks like /ip4/192.0.2.1/tcp/4001"),
        ("/", "an address looks like"),
        ("ip4/192.0.2.1/tcp/1", "an address looks like"),
        ("192.0.2.1:4001", "write it as /ip4/192.0.2.1/tcp/4001"),
        ("[2001:db8::1]:4001", "write it as /ip6/2001:db8::1/tcp/4001"),
        ("example.org:4001", "write it as /dns/example.org/tcp/4001"),
        ("ws://example.org:80/", "write it as /dns/example.org/tcp/80"),
        ("[fe80::1%eth0]:4001", "write it as /ip6zone/eth0/ip6/fe80::1/tcp/4001"),
        ("/ip6/fe80::1%eth0/tcp/1", "write it as /ip6zone/eth0/ip6/fe80::1/tcp/1"),
        ("/dns/a.example/tcp/1/ws/http-path/a%0d%0ab", "not a path"),
        ("/dns/a.example/tcp/1/ws/http-path/\udc80", "not a path"),
        ("/dns/a.example/tcp/1/ws/http-path/" + "a" * 300, "not a path"),
        ("/ip4/192.0.2/tcp/1", "not IPv4"),
        ("/ip4/192.0.2.1/tcp", "missing value"),
        ("/ip4/192.0.2.1/tcp/65536", "not in range"),
        ("/nonsense/1", "unknown protocol"),
        ("/ip4/192.0.2.1/tcp/1/p2p/nobody", "not a peer ID"),
        ("/" + "ws/" * 1000, "an address looks like"),
    ],
)
def test_bad_text_is_explained(text: str, says: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_multiaddr(text)
    assert says in str(caught.value)


def test_parse() -> None:
    assert str(parse_multiaddr(" /ip4/192.0.2.1/tcp/4001/ ")) == "/ip4/192.0.2.1/tcp/4001"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04\x01\x02\x03",  # /ip4 with three bytes
        b"\x04",
        b"\xff",
        b"\xff" * 12,
        b"\x84\x00\x01\x02\x03\x04",  # protocol code not in its shortest form
        b"\x04\x01\x02\x03\x04\x06\x0f",  # half a port
        b"\xa5\x03\x22\x12",  # a peer ID cut short
        b"\xa5\x03\x02\xff\xff",  # no peer ID
        b"\x36\x02\xff\xfe",  # a name that is not UTF-8
        b"\x36\x00",  # no name
        b"\xf0\x7f",  # unknown protocol
        bytes(Multiaddr("/ip4/192.0.2.1/tcp/1")) * 200,
        bytes(Multiaddr("/ip4/192.0.2.1")) * 11,  # too many parts
        bytes(Multiaddr(f"/dns4/{'a' * 120}.example/tcp/1")) * 3,  # too long
    ],
)
def test_bad_bytes_are_the_peers_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_multiaddr(data)


# --- peers ---


def test_split_peer() -> None:
    direct = Multiaddr("/ip4/192.0.2.1/tcp/4001/ws")
    assert split_peer(direct) == (direct, None)
    assert split_peer(with_peer(direct, PEER)) == (direct, PEER)
    assert split_peer(Multiaddr(f"/p2p/{PEER}")) == (Multiaddr(""), PEER)


def test_split_peer_of_a_relayed_address_is_the_target() -> None:
    circuit = Multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit")
    assert split_peer(circuit) == (circuit, None)
    assert split_peer(with_peer(circuit, PEER)) == (circuit, PEER)


def test_with_peer_replaces() -> None:
    addr = with_peer(Multiaddr("/ip4/192.0.2.1/tcp/1"), RELAY)
    assert str(with_peer(addr, PEER)) == f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"


# --- kinds ---


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/ip4/192.0.2.1/tcp/1", Kind.TCP),
        (f"/dns6/example.org/tcp/1/p2p/{PEER}", Kind.TCP),
        ("/ip6/::1/tcp/1/ws", Kind.WEBSOCKET),
        ("/dns4/example.org/tcp/443/wss", Kind.SECURE_WEBSOCKET),
        ("/ip4/192.0.2.1/tcp/443/tls/ws", Kind.SECURE_WEBSOCKET),
        ("/ip4/192.0.2.1/tcp/443/tls/sni/example.org/ws", Kind.SECURE_WEBSOCKET),
        ("/ip4/192.0.2.1/udp/1/quic-v1/noise", Kind.QUIC),
        ("/ip4/192.0.2.1/udp/1/quic-v1", Kind.OTHER),  # libp2p's
        (f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", Kind.CIRCUIT),
        (f"/p2p/{RELAY}/p2p-circuit", Kind.CIRCUIT),
        ("/ip4/192.0.2.1/udp/1", Kind.OTHER),
        ("/ip4/192.0.2.1/udp/1/quic-v1/webtransport", Kind.OTHER),
        ("/dnsaddr/example.org", Kind.OTHER),
        (f"/p2p/{PEER}", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_kinds(text: str, kind: Kind) -> None:
    assert kind_of(Multiaddr(text)) is kind


def test_endpoints() -> None:
    assert to_endpoint(Multiaddr("/ip4/192.0.2.1/tcp/1/ws")) == Endpoint(
        socket.AF_INET, "192.0.2.1", 1
    )
    name = to_endpoint(Multiaddr("/dns/example.org/udp/2"))
    assert name == Endpoint(socket.AF_UNSPEC, "example.org", 2)
    assert name.is_name
    assert not to_endpoint(Multiaddr("/ip6/::1/tcp/3")).is_name


@pytest.mark.parametrize(
    "text", ["", f"/p2p/{PEER}", "/ip4/192.0.2.1", "/dnsaddr/a.example", "/ws/tcp/1"]
)
def test_no_endpoint(text: str) -> None:
    with pytest.raises(AddressError):
        to_endpoint(Multiaddr(text))


def test_ip_of() -> None:
    assert ip_of(Multiaddr("/ip6/2001:db8::1/tcp/1")) == ipaddress.ip_address("2001:db8::1")
    assert ip_of(Multiaddr("/dns/example.org/tcp/1")) is None
    assert ip_of(Multiaddr("")) is None


# --- our own addresses ---


def test_wildcards_become_interfaces() -> None:
    result = interface_addresses(
        addrs(
            "/ip4/0.0.0.0/tcp/4001",
            "/ip6/::/tcp/4002/ws",
            "/ip4/127.0.0.1/tcp/4001",
            "/dns4/example.org/tcp/443/wss",
        ),
        interfaces=INTERFACES,
    )
    assert list(map(str, result)) == [
        "/ip4/192.168.1.5/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip6/fd00:1::5/tcp/4002/ws",
        "/ip6/::1/tcp/4002/ws",
        "/dns4/example.org/tcp/443/wss",
    ]


# --- order ---


def order(*texts: str, limit: int = 32) -> list[str]:
    return list(map(str, order_addresses(addrs(*texts), interfaces=INTERFACES, limit=limit)))


def test_order_by_reach() -> None:
    relayed = f"/ip4/198.51.100.1/tcp/1/p2p/{RELAY}/p2p-circuit"
    assert order(
        relayed,
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/8.8.8.8/tcp/1",
        "/ip4/192.168.1.9/tcp/1",
        "/ip4/192.168.1.5/tcp/1",  # ours too: by chance, or the peer is here
    ) == [
        "/ip4/192.168.1.9/tcp/1",
        "/ip4/8.8.8.8/tcp/1",
        relayed,  # soon, but not first
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/192.168.1.5/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
    ]


def test_ranks_and_relays() -> None:
    relayed = Multiaddr(f"/ip4/198.51.100.1/tcp/1/p2p/{RELAY}/p2p-circuit")
    ranked = addrs(
        "/ip4/8.8.8.8/udp/1/quic-v1/noise", "/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/tcp/1/ws"
    )
    ranked.append(relayed)
    ranks = [path_rank(addr) for addr in ranked]
    assert ranks == sorted(set(ranks), reverse=True)
    near = addrs("/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/1/quic-v1/noise")
    assert path_rank(near[0]) > path_rank(near[1])
    assert relay_of(relayed) == RELAY
    assert relay_of(ranked[0].encapsulate(Multiaddr(f"/p2p/{RELAY}"))) is None


def test_families_take_turns() -> None:
    assert order(
        "/ip4/8.8.8.1/tcp/1",
        "/ip4/8.8.8.2/tcp/1",
        "/ip6/2600::1/tcp/1",
        "/ip6/2600::2/tcp/1",
        "/ip6/2600::3/tcp/1",
    ) == [
        "/ip6/2600::1/tcp/1",
        "/ip4/8.8.8.1/tcp/1",
        "/ip6/2600::2/tcp/1",
        "/ip4/8.8.8.2/tcp/1",
        "/ip6/2600::3/tcp/1",
    ]


def test_transports_have_their_order() -> None:
    for host, kinds in (
        ("8.8.8.8", ["udp/1/quic-v1/noise", "tcp/1", "tcp/2/ws"]),
        ("127.0.0.1", ["tcp/1", "tcp/2/ws", "udp/1/quic-v1/noise"]),
        ("172.16.0.1", ["tcp/1", "tcp/2/ws", "udp/1/quic-v1/noise"]),
    ):
        best_first = [f"/ip4/{host}/{kind}" for kind in kinds]
        assert order(*reversed(best_first)) == best_first


def test_duplicates_go() -> None:
    assert order(*["/ip4/8.8.8.8/tcp/1"] * 3) == ["/ip4/8.8.8.8/tcp/1"]
    assert order(*["/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/tcp/2"] * 2) == [
        "/ip4/8.8.8.8/tcp/1",
        "/ip4/8.8.8.8/tcp/2",
    ]
    assert order() == []


def test_relays_keep_their_places() -> None:
    direct = [f"/ip4/8.8.8.{n}/tcp/1" for n in range(20)]
    relayed = [f"/ip4/8.8.4.{n}/tcp/1/p2p/{RELAY}/p2p-circuit" for n in range(20)]
    assert order(*direct, *relayed, limit=8) == [
        *direct[:2],
        relayed[0],
        direct[2],
        relayed[1],
        *direct[3:6],
    ]
    assert order(*direct[:2], *relayed, limit=8) == direct[:2] + relayed[:6]
    assert order(*direct, limit=8) == direct[:8]


# --- names ---


class Resolver(trio.abc.HostnameResolver):
    """Answers from a table; names not in it do not exist, and `slow` ones take for ever."""

    table: ClassVar = {
        ("both.example", socket.AF_UNSPEC): ["2001:db8::7", "192.0.2.7"],
        ("both.example", socket.AF_INET): ["192.0.2.7"],
        ("both.example", socket.AF_INET6): ["2001:db8::7"],
        ("many.example", socket.AF_INET): [f"192.0.2.{n}" for n in range(100)],
        ("zone.example", socket.AF_INET6): ["fe80::1%2", "fe80::2", "2001:db8::8"],
    }

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        self.asked.append(host.decode())
        if host.startswith(b"slow"):
            await trio.sleep_forever()
        if host.startswith(b"odd"):
            raise UnicodeError("label too long")
        await trio.sleep(0.1)
        ips = self.table.get((host.decode(), family))
        if ips is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in ip else socket.AF_INET, type, proto, "", (ip, port))
            for ip in ips
        ]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


async def resolved(resolver: Resolver, *texts: str, timeout: float = 5) -> list[str]:
    trio.socket.set_custom_hostname_resolver(resolver)
    return list(map(str, await resolve(addrs(*texts), timeout=timeout)))


async def test_names_become_addresses(resolver: Resolver, autojump_clock: MockClock) -> None:
    assert await resolved(
        resolver,
        "/ip4/192.0.2.1/tcp/1",
        f"/dns/both.example/tcp/2/p2p/{PEER}",
        "/dns4/both.example/tcp/3/ws",
        "/dns6/both.example/tcp/4",
    ) == [
        "/ip4/192.0.2.1/tcp/1",
        f"/ip6/2001:db8::7/tcp/2/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/2/p2p/{PEER}",
        "/ip4/192.0.2.7/tcp/3/sni/both.example/ws",
        "/ip6/2001:db8::7/tcp/4",
    ]
    assert trio.current_time() == pytest.approx(0.1)  # all at once


@pytest.mark.parametrize("tail", ["wss", "tls/ws"])
async def test_tls_keeps_the_name(resolver: Resolver, autojump_clock: MockClock, tail: str) -> None:
    assert await resolved(resolver, f"/dns4/both.example/tcp/443/{tail}/p2p/{PEER}") == [
        f"/ip4/192.0.2.7/tcp/443/tls/sni/both.example/ws/p2p/{PEER}"
    ]


async def test_a_name_for_tls_that_is_there_stays(
    resolver: Resolver, autojump_clock: MockClock
) -> None:
    assert await resolved(resolver, "/dns4/both.example/tcp/443/tls/sni/other.example/ws") == [
        "/ip4/192.0.2.7/tcp/443/tls/sni/other.example/ws"
    ]


async def test_what_cannot_be_resolved_stays(
    resolver: Resolver, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    names = [f"/dns4/{name}.example/tcp/1" for name in ("none", "odd", "slow")]
    assert await resolved(resolver, *names, "/dns4/both.example/tcp/1", timeout=2) == [
        *names,
        "/ip4/192.0.2.7/tcp/1",
    ]
    assert trio.current_time() == 2
    assert "cannot resolve none.example: " in caplog.text
    assert "cannot resolve within 2 s: /dns4/slow.example/tcp/1" in caplog.text
    assert all(map(needs_resolving, addrs(*names)))


async def test_look_ups_are_bounded(resolver: Resolver, autojump_clock: MockClock) -> None:
    assert len(await resolved(resolver, "/dns4/many.example/tcp/1")) == MAX_IPS_PER_NAME
    names = [f"/dns4/none{n}.example/tcp/1" for n in range(100)]
    resolver.asked.clear()
    assert await resolved(resolver, *names) == names
    assert len(resolver.asked) == MAX_NAMES


async def test_a_zone_stays(resolver: Resolver, autojump_clock: MockClock) -> None:
    assert await resolved(resolver, "/dns6/zone.example/tcp/1") == [
        "/ip6zone/2/ip6/fe80::1/tcp/1",
        "/ip6/2001:db8::8/tcp/1",
    ]


async def test_cancelling_a_look_up(resolver: Resolver, autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await resolved(resolver, "/dns4/slow.example/tcp/1")
    assert scope.cancelled_caught


async def test_nothing_to_resolve(resolver: Resolver) -> None:
    assert await resolved(resolver, "/ip4/192.0.2.1/tcp/1") == ["/ip4/192.0.2.1/tcp/1"]
    assert resolver.asked == []
