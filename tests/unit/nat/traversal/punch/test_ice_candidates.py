"""Which addresses of a peer are tried, and in which order."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import pytest

from lattica.nat.traversal.punch.ice.candidates import (
    MAX_PAIRS,
    MAX_PUBLIC_HOSTS,
    MAX_REMOTE_CANDIDATES,
    Candidate,
    CandidateType,
    TargetPolicy,
    form_pairs,
    local_candidate,
    pair_priority,
    peer_reflexive_priority,
    priority,
)

HOST, MAPPED = CandidateType.HOST, CandidateType.SERVER_REFLEXIVE
HOME = IPv4Interface("192.168.1.10/24")
POLICY = TargetPolicy([HOME, IPv6Interface("fd00::10/64")], frozenset({"11.0.0.1"}))


def candidate(host: str, port: int = 4001, type_: CandidateType = HOST, rank: int = 0) -> Candidate:
    return local_candidate(type_, host, port, base=0, rank=rank)


def test_priorities_are_those_of_the_rfc():
    assert priority(HOST) == 2130706431  # RFC 8839's examples have this very number
    assert priority(MAPPED) == 1694498815
    assert candidate("192.0.2.1", rank=3).priority == (126 << 24) + (65532 << 8) + 255
    assert peer_reflexive_priority(candidate("192.0.2.1", rank=3)) == (
        (110 << 24) + (65532 << 8) + 255
    )
    assert pair_priority(5, 3, controlling=True) == (3 << 32) + 10 + 1
    assert pair_priority(3, 5, controlling=False) == pair_priority(5, 3, controlling=True)


def test_foundations_tell_types_and_hosts_apart():
    same = candidate("192.168.1.10", 1), candidate("192.168.1.10", 2)
    assert same[0].foundation == same[1].foundation
    others = candidate("192.168.1.11"), candidate("192.168.1.10", type_=MAPPED)
    assert len({same[0].foundation, *(one.foundation for one in others)}) == 3


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "0.0.0.0", "0.1.2.3", "169.254.1.1", "224.0.0.1", "239.1.2.3",
        "255.255.255.255", "240.0.0.1", "192.168.1.255", "::1", "::", "fe80::1", "ff02::1",
        "::ffff:192.168.1.1", "::ffff:127.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_never_get_anything(host):
    near = candidate("11.0.0.1", type_=MAPPED)  # even from behind the same NAT
    assert POLICY.choose([near, candidate(host)]) == [near]
    assert not POLICY.may_answer(host)


def test_loopback_only_where_it_is_allowed():
    policy = TargetPolicy(allow_loopback=True)
    found = policy.choose([candidate("127.0.0.1"), candidate("::1"), candidate("0.0.0.0")])
    assert [one.host for one in found] == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("host", ["10.0.0.1", "172.16.0.1", "192.168.2.1", "100.64.0.1", "fd01::1"])
def test_private_addresses_of_other_networks_only_behind_the_same_nat(host):
    stranger = [candidate("11.0.0.2", type_=MAPPED), candidate(host)]
    assert POLICY.choose(stranger) == stranger[:1]
    neighbour = [candidate("11.0.0.1", type_=MAPPED), candidate(host)]
    assert POLICY.choose(neighbour) == neighbour
    # An interface of the peer's cannot have our public address.
    assert POLICY.choose([candidate("11.0.0.1"), candidate(host)]) == [candidate("11.0.0.1")]


def test_private_addresses_of_our_own_networks_are_tried():
    wanted = [candidate("192.168.1.11"), candidate("fd00::11")]
    assert POLICY.choose(wanted) == wanted


def test_our_own_sockets_are_not_the_peers():
    ours, theirs = candidate("192.168.1.10"), candidate("192.168.1.10", 4002)
    assert POLICY.choose([ours, theirs], {("192.168.1.10", 4001)}) == [theirs]


def test_ten_thousand_candidates_are_sixteen_and_few_hosts():
    claims = (candidate(f"11.{i >> 8}.{i & 255}.7") for i in range(1, 10_000))
    assert len(POLICY.choose(claims)) == MAX_PUBLIC_HOSTS
    assert sum(1 for _ in claims) >= 10_000 - 2 - MAX_REMOTE_CANDIDATES  # the rest is not read
    ports = [candidate("11.0.0.9", port) for port in range(1, 100)]
    assert POLICY.choose(ports) == ports[:MAX_REMOTE_CANDIDATES]


def test_each_socket_is_paired_with_each_address_once_the_best_first():
    local = [
        candidate("192.168.1.10", rank=0),
        candidate("11.0.0.1", type_=MAPPED, rank=1),
        local_candidate(HOST, "2001:db8::1", 4001, base=1, rank=2),
    ]
    remote = [
        candidate("11.0.0.2", type_=MAPPED),
        candidate("192.168.1.11", rank=1),
        candidate("2001:db8::2", rank=2),
    ]
    pairs = form_pairs(local, remote, controlling=True)
    assert [(ours.base, theirs.host) for ours, theirs in pairs] == [
        (0, "192.168.1.11"),
        (1, "2001:db8::2"),
        (0, "11.0.0.2"),
    ]
    assert {ours.type for ours, _ in pairs} == {HOST}  # a mapped one is sent from its base


def test_both_sides_have_the_same_order():
    ours = [candidate("11.0.0.1", rank=0), candidate("11.0.0.1", 4002, MAPPED, rank=1)]
    theirs = [candidate(f"11.0.1.{i}", rank=i) for i in range(5)]
    order = form_pairs(ours, theirs, controlling=True)
    mirrored = form_pairs(theirs[:1], ours, controlling=False)
    assert [theirs.host for _, theirs in order] == [f"11.0.1.{i}" for i in range(5)]
    assert [theirs.port for _, theirs in mirrored] == [4001, 4002]


def test_there_are_at_most_a_hundred_pairs():
    local = [local_candidate(HOST, f"11.0.0.{i}", 1, base=i, rank=i) for i in range(20)]
    remote = [candidate(f"11.0.1.{i}", rank=i) for i in range(20)]
    assert len(form_pairs(local, remote, controlling=True)) == MAX_PAIRS
