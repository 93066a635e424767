"""Where services and clients are, as people write it."""

from __future__ import annotations

import pytest

from lattica.errors import AddressError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.rpc.ports.endpoints import Endpoint, parse_endpoint, parse_local, split_named
from lattica.rpc.ports.ports import parse_remote


@pytest.mark.parametrize(
    ("given", "expected", "shown"),
    [
        (8000, Endpoint("127.0.0.1", 8000), "127.0.0.1:8000"),
        (" 8000 ", Endpoint("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("db.local:5432", Endpoint("db.local", 5432), "db.local:5432"),
        ("[::1]:80", Endpoint("::1", 80), "[::1]:80"),
        ("[fe80::1%eth0]:80", Endpoint("fe80::1%eth0", 80), "[fe80::1%eth0]:80"),
        ("unix:/run/s", Endpoint("", 0, "/run/s"), "unix:/run/s"),
    ],
)
def test_endpoints(given: int | str, expected: Endpoint, shown: str) -> None:
    assert parse_endpoint(given) == expected
    assert str(expected) == shown
    assert parse_endpoint(shown) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "x", 0, "0", -1, 65536, "²", "1:2:3", "a:", ":80", "a b:80", "a:000080"),
        *("::1:80", "[::1]", "http://a:80", "unix:", "unix:/" + 107 * "x", "unix:/a\0b"),
    ],
)
def test_what_is_none(wrong: int | str) -> None:
    with pytest.raises(AddressError):
        parse_endpoint(wrong)


def test_a_name_ends_at_the_first_sign() -> None:
    assert split_named("8000") == (None, "8000")
    assert split_named("web=8000") == ("web", "8000")
    assert split_named("db=unix:/a=b") == ("db", "unix:/a=b")


def test_any_free_port_only_for_listening() -> None:
    assert parse_local(0) == Endpoint("127.0.0.1", 0)
    assert parse_local("0.0.0.0:0") == Endpoint("0.0.0.0", 0)


def test_peers() -> None:
    peer, other = (Identity.generate().peer_id for _ in range(2))
    one, two = f"/ip4/192.0.2.1/tcp/1/p2p/{peer}", f"/ip6/::1/udp/1/quic-v1/noise/p2p/{peer}"
    both = (Multiaddr(one), Multiaddr(two))
    assert parse_remote(peer) == parse_remote(str(peer)) == (peer, ())
    assert parse_remote(f"{one}, {two}") == parse_remote([one, two]) == (peer, both)
    assert parse_remote(both) == (peer, both)
    assert parse_remote(both[0]) == (peer, both[:1])
    several = f"{one},/ip4/192.0.2.1/tcp/1/p2p/{other}"
    none: list[str | list[str]] = ["", "x", "/ip4/192.0.2.1/tcp/1", several, []]
    for wrong in none:
        with pytest.raises(AddressError):
            parse_remote(wrong)
