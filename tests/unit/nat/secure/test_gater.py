"""Allow- and deny-lists by peer and by network."""

from __future__ import annotations

import ipaddress

import pytest

from lattica.errors import AccessDeniedError, AddressError, ConfigError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules
from lattica.nat.secure.gater import Gater

ALICE = Identity.generate().peer_id
BOB = Identity.generate().peer_id


def test_no_rules_allow_everybody() -> None:
    gater = Gater(AccessRules())
    gater.check_peer(ALICE)
    gater.check_address("203.0.113.1")
    gater.check_address("2001:db8::1")


def test_denied_peers() -> None:
    gater = Gater(AccessRules(deny_peers=(str(ALICE),)))
    gater.check_peer(BOB)
    with pytest.raises(AccessDeniedError, match="deny_peers"):
        gater.check_peer(ALICE)


def test_allowed_peers() -> None:
    gater = Gater(AccessRules(allow_peers=(str(ALICE),)))
    gater.check_peer(ALICE)
    with pytest.raises(AccessDeniedError, match="allow_peers"):
        gater.check_peer(BOB)


def test_rules_that_change() -> None:
    gater = Gater(AccessRules(deny_peers=(str(ALICE),), deny_networks=("10.0.0.0/8",)))
    with pytest.raises(ConfigError):
        gater.change(AccessRules(deny_peers=(str(BOB),), deny_networks=("everywhere",)))
    gater.check_peer(BOB)
    with pytest.raises(AccessDeniedError):
        gater.check_peer(ALICE)
    gater.change(AccessRules(deny_peers=(str(BOB),)))
    gater.check_peer(ALICE)
    gater.check_address("10.0.0.1")
    with pytest.raises(AccessDeniedError):
        gater.check_peer(BOB)


def test_a_denial_wins() -> None:
    gater = Gater(
        AccessRules(
            allow_peers=(str(ALICE),),
            deny_peers=(str(ALICE),),
            allow_networks=("10.0.0.0/8",),
            deny_networks=("10.1.0.0/16",),
        )
    )
    with pytest.raises(AccessDeniedError, match="deny_peers"):
        gater.check_peer(ALICE)
    with pytest.raises(AccessDeniedError, match=r"10\.1\.0\.0/16"):
        gater.check_address("10.1.2.3")
    gater.check_address("10.2.0.1")


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "10.255.255.255", "::ffff:10.0.0.1", "2001:db8::1", "fe80::1%eth0", "192.0.2.7"],
)
def test_denied_networks(address: str) -> None:
    gater = Gater(
        AccessRules(deny_networks=("10.0.0.0/8", "2001:db8::/32", "fe80::/10", "192.0.2.7"))
    )
    with pytest.raises(AccessDeniedError, match="deny_networks"):
        gater.check_address(address)
    gater.check_address("11.0.0.1")
    gater.check_address("2001:db9::1")
    gater.check_address(ipaddress.ip_address("192.0.2.8"))


def test_allowed_networks() -> None:
    gater = Gater(AccessRules(allow_networks=("10.0.0.0/8", "::1")))
    gater.check_address("10.9.9.9")
    gater.check_address("::1")
    gater.check_address(ipaddress.ip_address("::ffff:10.9.9.9"))
    for stranger in ("127.0.0.1", "::2", "2001:db8::1"):
        with pytest.raises(AccessDeniedError, match="allow_networks"):
            gater.check_address(stranger)


def test_a_rule_for_mapped_addresses_is_one_for_ipv4() -> None:
    gater = Gater(AccessRules(deny_networks=("::ffff:10.0.0.0/104",)))
    with pytest.raises(AccessDeniedError, match="::ffff:"):
        gater.check_address("10.1.1.1")
    gater.check_address("11.1.1.1")


def test_everything_can_be_denied_by_family() -> None:
    gater = Gater(AccessRules(deny_networks=("0.0.0.0/0",)))
    with pytest.raises(AccessDeniedError):
        gater.check_address("203.0.113.1")
    gater.check_address("2001:db8::1")
    gater = Gater(AccessRules(deny_networks=("::/0",)))
    gater.check_address("::ffff:203.0.113.1")  # IPv4, whatever the spelling
    with pytest.raises(AccessDeniedError):
        gater.check_address("2001:db8::1")


def test_bad_peer_rules_are_named() -> None:
    with pytest.raises(ConfigError, match=r"access\.allow_peers.*'nobody'"):
        Gater(AccessRules(allow_peers=("nobody",)))


def test_not_an_address() -> None:
    with pytest.raises(AddressError, match="example"):
        Gater(AccessRules(deny_networks=("10.0.0.0/8",))).check_address("example.org")


def test_multiaddrs_are_judged_by_their_first_hop() -> None:
    gater = Gater(AccessRules(deny_networks=("10.0.0.0/8", "2001:db8::/32")))
    for denied in ("/ip4/10.0.0.1/tcp/1/ws", "/ip6/2001:db8::1/tcp/1", "/ip6/::ffff:a00:1/tcp/1"):
        with pytest.raises(AccessDeniedError):
            gater.check_address(Multiaddr(denied))
    gater.check_address(Multiaddr("/ip4/11.0.0.1/tcp/1"))
    gater.check_address(Multiaddr("/dns4/example.org/tcp/1"))
    gater = Gater(AccessRules(allow_networks=("10.0.0.0/8",)))
    gater.check_address(Multiaddr("/ip4/10.0.0.1/tcp/1"))
    with pytest.raises(AccessDeniedError, match="no IP address"):
        gater.check_address(Multiaddr("/dns4/example.org/tcp/1"))


RELAY_ADDR = "/ip4/192.0.2.1/tcp/4001"
RELAY_NAME = "/dns4/relay.example/udp/4001/quic-v1/noise"


def relay_only() -> Gater:
    gater = Gater(AccessRules())
    gater.only_dial({ALICE: frozenset({Multiaddr(RELAY_ADDR), Multiaddr(RELAY_NAME)})})
    return gater


@pytest.mark.parametrize(
    "addr",
    [
        RELAY_ADDR,
        RELAY_NAME,
        f"{RELAY_ADDR}/p2p/{ALICE}",
        f"/p2p/{ALICE}/p2p-circuit",
        f"/ip4/203.0.113.9/tcp/1/p2p/{ALICE}/p2p-circuit/p2p/{BOB}",  # once Alice is connected
    ],
)
def test_where_only_relays_are_dialed_they_are_and_others_through_them(addr: str) -> None:
    relay_only().check_dial(BOB if "circuit" in addr else ALICE, Multiaddr(addr))


@pytest.mark.parametrize(
    ("peer", "addr"),
    [
        (BOB, RELAY_ADDR),
        (None, RELAY_ADDR),
        (BOB, f"{RELAY_ADDR}/p2p/{ALICE}"),
        (ALICE, "/ip4/203.0.113.9/tcp/1"),
        (None, f"/ip4/203.0.113.9/tcp/1/p2p/{ALICE}"),
        (ALICE, "/ip4/192.0.2.1/tcp/4002"),
        (ALICE, "/dns4/other.example/udp/4001/quic-v1/noise"),
        (ALICE, f"{RELAY_ADDR}/p2p/{BOB}/p2p-circuit"),
        (ALICE, f"/p2p/{BOB}/p2p-circuit/p2p/{ALICE}"),
        (BOB, "/p2p-circuit"),
    ],
)
def test_where_only_relays_are_dialed_nobody_else_is(peer: PeerId | None, addr: str) -> None:
    with pytest.raises(AccessDeniedError, match=r"nat\.relay_only"):
        relay_only().check_dial(peer, Multiaddr(addr))
    Gater(AccessRules()).check_dial(peer, Multiaddr(addr))
