"""What theory says of pairs of NATs: the figures of NAT traversal, case by case."""

from __future__ import annotations

from itertools import product

import pytest

from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.theory import expected

CONES = ("full-cone", "restricted-cone", "port-restricted", "port-restricted-random", "cgnat")
HARD = ("symmetric-sequential", "symmetric-random", "address-dependent")
APDF = ("port-restricted", "port-restricted-random", "firewall", "linux-masquerade")


def of(a: str, b: str) -> str:
    return expected(NAMES.get(a), NAMES.get(b))


@pytest.mark.parametrize("name", [*NAMES, "open"])
def test_it_does_not_matter_who_asks(name):
    assert all(of(name, other) == of(other, name) for other in NAMES)


@pytest.mark.parametrize(("a", "b"), list(product(CONES, CONES)))
def test_endpoint_independent_mapping_is_direct_whatever_the_filtering(a, b):
    assert of(a, b) == "direct"


@pytest.mark.parametrize(
    ("a", "b"), list(product(HARD, ("open", "full-cone", "restricted-cone", "cgnat", "one-to-one")))
)
def test_dependent_mapping_against_lenient_filtering_is_direct(a, b):
    assert of(a, b) == "direct"


@pytest.mark.parametrize(("a", "b"), list(product(HARD, APDF)))
def test_dependent_mapping_against_port_filtering_takes_the_birthday_method(a, b):
    assert of(a, b) == "birthday"


@pytest.mark.parametrize(("a", "b"), list(product(HARD, HARD)))
def test_two_dependent_mappings_need_the_relay(a, b):
    assert of(a, b) == "relayed"


def test_a_router_that_opens_ports_is_direct_for_all_but_those_who_may_not():
    assert {of("upnp", other) for other in (*CONES, *HARD, *APDF, "udp-blocked")} == {"direct"}
    assert of("upnp", "tcp-443-only") == "relayed"


def test_without_udp_there_is_tcp_but_no_birthday():
    assert of("udp-blocked", "port-restricted") == "direct"
    assert of("udp-blocked", "udp-blocked") == "direct"
    assert of("udp-blocked", "open") == "direct"
    assert of("udp-blocked", "symmetric-random") == "relayed"
    # Each protocol is blocked on one side.
    assert expected(NatSpec(blocked="udp"), NatSpec(blocked="tcp")) == "relayed"


@pytest.mark.parametrize("other", [*NAMES, "open"])
def test_only_443_leaves_the_relay(other):
    assert of("tcp-443-only", other) == "relayed"


def test_overloaded_ports_are_known_ones():
    assert of("linux-masquerade", "linux-masquerade") == "direct"
    random_ports = NatSpec(mapping="address-and-port-dependent", overload=True, port="random")
    assert expected(random_ports, NatSpec()) == "birthday"
