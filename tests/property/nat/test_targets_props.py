"""Every claim through every door: nothing is sent where it may not reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import Kind
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.targets import Claim, TargetBudget, Vantage, may_reach
from lattica.nat.swarm.addresses.address_book import GIVEN_TTL, AddressBook
from lattica.nat.swarm.dialing import known
from lattica.nat.swarm.dialing.known import MAX_TOLD, KnownAddresses
from lattica.nat.traversal.autonat.server_core import may_dial
from lattica.nat.traversal.punch.birthday.core import check_target
from lattica.nat.traversal.punch.candidates import to_dial
from lattica.nat.traversal.punch.ice.candidates import (
    Candidate,
    CandidateType,
    TargetPolicy,
    local_candidate,
)
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.relay.client.addresses import own_addrs_of

PEER, RELAY = (PeerId(b"\x12\x20" + bytes((number,)) * 32) for number in (1, 2))
INTERFACES = tuple(
    map(
        ipaddress.ip_interface,
        ["192.168.1.5/24", "198.18.0.1/15", "2001:0:1::5/64", "fd00:1::5/64", "127.0.0.1/8"],
    )
)
HOME = tuple(map(ipaddress.ip_network, ["192.168.1.0/24", "fd00:1::/64"]))
NOWHERE = tuple(
    map(
        ipaddress.ip_network,
        [
            "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/29", "192.0.2.0/24",
            "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
            "192.168.1.255/32",
            "::/127", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32",
            "2001:db8::/32", "2002::/16", "fe80::/10", "ff00::/8",
        ],
    )
)  # fmt: skip
"""Where no stranger may have anything sent: IANA's registries, and the home's broadcast address."""
PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10"],
    )
)
PUBLIC = tuple(map(ipaddress.ip_network, ["8.8.0.0/16", "1.1.1.0/24", "2a00:1::/32"]))


def hosts(*networks: ipaddress.IPv4Network | ipaddress.IPv6Network) -> st.SearchStrategy[IpAddress]:
    def within(
        network: ipaddress.IPv4Network | ipaddress.IPv6Network,
    ) -> st.SearchStrategy[IpAddress]:
        return st.integers(0, network.num_addresses - 1).map(lambda n: network[n])

    return st.sampled_from(networks).flatmap(within)


addresses = hosts(*NOWHERE, *PRIVATE, *PUBLIC, *HOME)


def allowed(claim: Claim, ip: IpAddress) -> bool:
    """By the lists above, not by what is tested."""
    if any(ip in network for network in NOWHERE):
        return False
    if any(ip in network for network in PRIVATE):
        return claim is Claim.PEER and any(ip in network for network in HOME)
    return True


def addr(ip: IpAddress) -> Multiaddr:
    return Multiaddr(f"/ip{ip.version}/{ip}/tcp/4001")


def by_hole_punching(ip: IpAddress) -> bool:
    found = to_dial([addr(ip)], PEER, kinds=[Kind.TCP], ours=[], interfaces=INTERFACES)
    return bool(found)


def by_ice(ip: IpAddress) -> bool:
    candidate: Candidate = local_candidate(CandidateType.HOST, str(ip), 4001, base=0, rank=0)
    return bool(TargetPolicy(INTERFACES).choose([candidate]))


def by_birthday(ip: IpAddress) -> bool:
    try:
        check_target(ip, frozenset())
    except NotApplicable:
        return False
    return True


def by_autonat(ip: IpAddress) -> bool:
    return may_dial(addr(ip), (*INTERFACES, ipaddress.ip_interface("2a00:2::1/64")))


def by_relay(ip: IpAddress) -> bool:
    return bool(own_addrs_of(RELAY, [addr(ip)], []))


def by_reconnecting(ip: IpAddress) -> bool:
    return bool(reconnect([addr(ip)]))


def by_relayed_address(ip: IpAddress) -> bool:
    return bool(reconnect([Multiaddr(f"{addr(ip)}/p2p/{RELAY}/p2p-circuit")]))


def reconnect(addrs: list[Multiaddr]) -> list[Multiaddr]:
    book = AddressBook(8, lambda: 0.0)
    book.add(PEER, addrs, 60.0)
    return trio.run(KnownAddresses(book, lambda: (), lambda: 0.0).of, PEER)


DOORS: dict[Callable[[IpAddress], bool], Claim] = {
    by_hole_punching: Claim.PEER,
    by_ice: Claim.PEER,
    by_reconnecting: Claim.PEER,
    by_relay: Claim.RELAY,
    by_birthday: Claim.OTHERS,
    by_autonat: Claim.OTHERS,
    by_relayed_address: Claim.OTHERS,
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "local_interfaces", lambda: INTERFACES)


@pytest.mark.parametrize(
    ("door", "claim"), DOORS.items(), ids=lambda each: getattr(each, "__name__", each)
)
def test_every_claim_through_every_door(door: Callable[[IpAddress], bool], claim: Claim) -> None:
    passed = 0

    @given(addresses)
    def check(ip: IpAddress) -> None:
        nonlocal passed
        if door(ip):
            passed += 1
            assert allowed(claim, ip)

    check()
    assert passed
    assert door(ipaddress.ip_address("8.8.8.8"))
    assert door(ipaddress.ip_address("192.168.1.77")) == (claim is Claim.PEER)


@given(addresses)
def test_who_answers_from_there_is_answered_on_the_internet_and_in_private_networks(
    ip: IpAddress,
) -> None:
    if TargetPolicy(INTERFACES).may_answer(str(ip)):
        assert not any(ip in network for network in NOWHERE)


@given(addresses, st.sampled_from(Claim))
def test_the_rule(ip: IpAddress, claim: Claim) -> None:
    assert may_reach(Claim.USER, ip, Vantage())
    assert may_reach(claim, ip, Vantage(met_at=[ip]))
    if claim is not Claim.USER:
        assert may_reach(claim, ip, Vantage(INTERFACES)) == allowed(claim, ip)


def test_what_a_peer_names_is_dialed_now_and_then() -> None:
    now = 0.0
    book = AddressBook(8, lambda: 0.0)
    names = [Multiaddr(f"/ip4/8.8.8.{n // 10}/tcp/{n + 1}") for n in range(83)]
    book.add(PEER, names, 60.0)
    tested = KnownAddresses(book, lambda: (), lambda: now)
    dialed: list[Multiaddr] = []
    for _ in range(120):
        found = trio.run(tested.of, PEER)
        assert len(found) <= MAX_TOLD
        dialed += found
        now += 0.5
    assert TargetBudget.BURST <= len(dialed) <= TargetBudget.BURST + 60 / TargetBudget.INTERVAL
    # What the application has given is not counted, and goes first.
    book.add(PEER, names[-1:], GIVEN_TTL)
    assert all(trio.run(tested.of, PEER)[0] == names[-1] for _ in range(50))
