"""What is made of what STUN responders say, whether they tell the truth or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.traversal.stun.behaviour import (
    Findings,
    Observation,
    Responder,
    believed,
    choose,
    filtering_behaviour,
    is_credible,
    judge,
)

EI, AD, APD = Behaviour
A, A2, B, B2, C, D = (
    Responder("8.8.8.1", 1),
    Responder("8.8.8.1", 2),
    Responder("8.8.8.2", 1),
    Responder("8.8.8.2", 2),
    Responder("8.8.8.3", 1),
    Responder("8.8.8.4", 1),
)
NAT = "9.9.9.9"
HOSTS = frozenset({"192.168.1.5", "127.0.0.1"})


def found(*seen: tuple[Responder, int | tuple[str, int]], **fields) -> Findings:
    """Findings of a socket on port 4001, mapped to these ports of the NAT (or elsewhere)."""
    observations = tuple(
        Observation(responder, mapped if isinstance(mapped, tuple) else (NAT, mapped))
        for responder, mapped in seen
    )
    asked = tuple(responder for responder, _ in seen)
    return Findings(4001, HOSTS, asked, observations, **fields)


def at(*ports: int) -> tuple[tuple[str, int], ...]:
    return tuple((NAT, port) for port in ports)


@pytest.mark.parametrize(
    ("seen", "mapping", "mapped"),
    [
        ([(A, 5), (B, 5)], EI, at(5)),
        ([(A, 5), (A2, 5), (B, 5), (B2, 5)], EI, at(5)),
        # One address cannot tell whether another would be the same.
        ([(A, 5)], None, at(5)),
        ([(A, 5), (A2, 5)], None, at(5)),
        ([(A, 5), (A2, 6)], APD, at(5, 6)),
        ([(A, 5), (A2, 6), (B, 7), (B2, 8)], APD, at(5, 6, 7, 8)),
        ([(A, 5), (A2, 5), (B, 6), (B2, 6)], AD, at(5, 6)),
        ([(A, 5), (A2, 5), (B, 6)], AD, at(5, 6)),
        # Nothing shows that it is not the worst.
        ([(A, 5), (B, 6)], APD, at(5, 6)),
    ],
)
def test_mapping(seen, mapping, mapped):
    report = judge(found(*seen))
    assert report.mapping is mapping
    assert report.mapped == mapped
    assert report.udp_works
    assert report.is_translated
    assert report.preserves_port is False
    assert report.is_hard is (mapping in (AD, APD))


def test_what_is_not_translated():
    seen = found((A, ("9.9.9.7", 4001)), hairpin=False)
    report = judge(replace(seen, local_hosts=frozenset({"9.9.9.7"})))
    assert report.mapping is EI
    assert report.is_translated is False
    assert report.preserves_port
    assert report.hairpin is None


def test_ports_are_preserved_only_if_all_are():
    seen = (A, 4001), (B, 4001)
    assert judge(found(*seen)).preserves_port
    assert judge(found(*seen, port_pairs=((7, 7),))).preserves_port
    assert judge(found(*seen, port_pairs=((7, 8),))).preserves_port is False


@pytest.mark.parametrize(
    ("other_address", "other_port", "filtering"),
    [
        (True, True, EI),
        (True, None, EI),
        (True, False, EI),
        (False, True, AD),
        (False, False, APD),
        (None, False, APD),
        (None, True, None),
        (False, None, None),
        (None, None, None),
    ],
)
def test_filtering(other_address, other_port, filtering):
    assert filtering_behaviour(other_address, other_port) is filtering
    report = judge(found((A, 5), (B, 5), other_address=other_address, other_port=other_port))
    assert report.filtering is filtering


def test_silence():
    nothing = Findings(4001, HOSTS)
    assert judge(nothing) == NatReport()
    assert judge(replace(nothing, asked=(A,))) == NatReport()
    # Two ports of one relay are one relay.
    assert judge(replace(nothing, asked=(A, A2))) == NatReport()
    assert judge(replace(nothing, asked=(A, B))) == NatReport(udp_works=False)


def test_nonsense_shows_at_least_that_udp_works():
    assert judge(found((A, ("127.0.0.1", 5)))) == NatReport(udp_works=True)


# --- whom to ask ---


def test_only_one_class_of_addresses_is_asked():
    on_internet, here = Responder("8.8.8.8", 1), Responder("127.0.0.1", 1)
    private = Responder("192.168.1.1", 1), Responder("100.64.0.1", 1)
    assert choose([here, *private, on_internet], 4) == (on_internet,)
    assert choose([here, *private], 4) == private
    assert choose([here], 4) == (here,)
    assert choose([here, Responder("::1", 7)], 6) == (Responder("::1", 7),)
    assert choose([], 4) == ()


def test_what_nobody_is_asked_at():
    nowhere = [
        "relay.example",
        "",
        "0.0.0.0",
        "224.0.0.1",
        "169.254.1.1",
        "fe80::1%eth0",
        "ff02::1",
    ]
    for host in nowhere:
        assert choose([Responder(host, 1)], 4) == choose([Responder(host, 1)], 6) == ()
    assert choose([Responder("8.8.8.8", 0), Responder("8.8.8.8", 1 << 16)], 4) == ()


def test_a_relay_that_claims_ten_thousand_addresses():
    claims = [Responder(f"8.{n // 256}.{n % 256}.1", 1, "one") for n in range(10_000)]
    honest = Responder("9.9.9.9", 1, "two")
    assert choose([*claims[:100], honest], 4) == (*claims[:4], honest)
    assert choose(claims, 4) == tuple(claims[:4])
    many = [Responder(f"8.8.{n}.1", 1) for n in range(99)]
    assert len(choose(many, 4)) == 16


def test_each_address_is_asked_once():
    twice = [Responder("2001:DB8:0::1", 1, "one"), Responder("2001:db8::1", 1, "two")]
    assert choose(twice, 6) == (Responder("2001:db8::1", 1, "one"),)


# --- lies ---


@pytest.mark.parametrize(
    ("responder", "mapped", "credible"),
    [
        ("8.8.8.1", ("9.9.9.9", 5), True),
        ("8.8.8.1", ("9.9.9.9", 0), False),
        ("8.8.8.1", ("2001:4860::1", 5), False),
        ("8.8.8.1", ("0.0.0.0", 5), False),
        ("8.8.8.1", ("224.0.0.1", 5), False),
        ("8.8.8.1", ("255.255.255.255", 5), False),
        ("8.8.8.1", ("127.0.0.1", 5), False),
        ("8.8.8.1", ("169.254.1.1", 5), False),
        ("8.8.8.1", ("192.168.1.77", 5), False),
        ("8.8.8.1", ("192.168.1.5", 5), False),  # ours, but who is outside cannot see it
        ("8.8.8.1", ("100.64.1.1", 5), False),
        ("8.8.8.1", ("8.8.8.1", 5), False),
        ("10.0.0.1", ("192.168.1.77", 5), True),
        ("10.0.0.1", ("192.168.1.5", 5), True),
        ("10.0.0.1", ("100.64.1.1", 5), True),
        ("10.0.0.1", ("127.0.0.1", 5), True),  # the relay is on this machine
        ("10.0.0.1", ("127.0.0.2", 5), False),
        ("127.0.0.1", ("127.0.0.1", 5), True),
        ("2001:4860::1", ("2001:4860::2", 5), True),
        ("2001:4860::1", ("fe80::1", 5), False),
        ("2001:4860::1", ("fd00::1", 5), False),
        ("2001:4860::1", ("::1", 5), False),
        ("2001:4860::1", ("ff02::1", 5), False),
        ("::1", ("::1", 5), True),
    ],
)
def test_what_can_be(responder, mapped, credible):
    assert is_credible((responder, 1), mapped, HOSTS | {"::1"}) is credible


def test_a_lie_about_the_host():
    lie = ("1.1.1.1", 5)
    report = judge(found((A, 5), (B, lie), (C, 5)))
    assert report.mapping is EI
    assert report.mapped == at(5)


def test_a_lie_about_the_port():
    report = judge(found((A, 5), (B, 6), (C, 5)))
    assert report.mapping is EI
    assert report.mapped == at(5)


def test_a_lie_where_the_nat_is_hard():
    report = judge(found((A, 5), (B, ("1.1.1.1", 6)), (C, 7), (D, 8)))
    assert report.mapping is APD
    assert report.mapped == at(5, 7, 8)


def test_one_against_one_makes_the_nat_look_hard_and_nothing_is_announced():
    report = judge(found((A, 5), (B, ("1.1.1.1", 5))))
    assert report.is_hard


def test_a_relay_with_many_addresses_has_one_voice():
    liar = [Responder(f"8.8.4.{n}", 1, "liar") for n in range(8)]
    truth = [replaced_owner(A, "one"), replaced_owner(B, "two")]
    seen = [Observation(each, ("1.1.1.1", 5)) for each in liar]
    seen += [Observation(each, (NAT, 5)) for each in truth]
    assert {each.mapped for each in believed(seen, HOSTS)} == {(NAT, 5)}


def test_agreement_at_one_address_is_none_where_the_mapping_depends_on_it():
    """Two relays on one machine, and a third elsewhere."""
    one, two, three = A._replace(owner=1), A2._replace(owner=2), B._replace(owner=3)
    report = judge(found((one, 5), (two, 5), (three, 6)))
    assert report.mapping is AD
    assert report.mapped == at(5, 6)


def replaced_owner(responder: Responder, owner: str) -> Responder:
    return responder._replace(owner=owner)
