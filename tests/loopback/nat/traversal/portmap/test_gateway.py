"""Reading the default gateway out of what the system says."""

from __future__ import annotations

import ipaddress
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.traversal.portmap.gateway import (
    Gateway,
    default_gateway,
    parse_bsd_route,
    parse_ipv6_route,
    parse_route,
)

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def number(ip: str) -> str:
    """As the kernel prints an address, whatever the byte order of this machine."""
    return f"{int.from_bytes(ipaddress.IPv4Address(ip).packed, sys.byteorder):08X}"


def line(interface: str, to: str, via: str, flags: str, metric: int, mask: str) -> str:
    fields = (interface, number(to), number(via), flags, "0", "0", str(metric), number(mask))
    return "\t".join((*fields, "0", "0", "0")) + "\n"


def test_linux_ipv4_takes_the_lowest_metric():
    text = (
        HEAD
        + line("wlan0", "0.0.0.0", "10.0.0.1", "0003", 600, "0.0.0.0")
        + line("eth0", "0.0.0.0", "192.168.1.1", "0003", 100, "0.0.0.0")
        + line("eth0", "192.168.1.0", "0.0.0.0", "0001", 100, "255.255.255.0")
        + line("vpn0", "0.0.0.0", "10.8.0.1", "0003", 0, "128.0.0.0")
        + line("ppp0", "0.0.0.0", "0.0.0.0", "0001", 0, "0.0.0.0")
    )
    assert parse_route(text) == (ipaddress.IPv4Address("192.168.1.1"), "eth0")
    assert parse_route(HEAD) is None
    assert parse_route("") is None


def test_linux_ipv6():
    zero = "0" * 32
    via = ipaddress.IPv6Address("fe80::1")
    default = f"{zero} 00 {zero} 00 {via.packed.hex()} 00000400 00000001 00000000 00000003 eth0\n"
    refused = f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
    assert parse_ipv6_route(refused + default) == (via, "eth0")
    assert parse_ipv6_route(refused) is None


def test_bsd():
    text = "   route to: default\n    gateway: fe80::1%en0\n  interface: en0\n      flags: <UP>\n"
    assert parse_bsd_route(text) == (ipaddress.IPv6Address("fe80::1"), "en0")
    assert parse_bsd_route("route: not in table\n") is None


@given(st.text())
@pytest.mark.parametrize("parse", [parse_route, parse_ipv6_route, parse_bsd_route])
def test_any_text(parse, text):
    parse(text)
    parse(HEAD + text)


@given(st.lists(st.text("0123456789abcdefF ", max_size=40), min_size=8, max_size=11))
def test_lines_of_odd_fields(fields):
    parse_route(HEAD + "\t".join(fields))
    parse_ipv6_route(" ".join(fields))


def test_this_machine():
    for family in (4, 6):
        found = default_gateway(family)
        assert found is None or found.local_ip.version == found.address.version == family


def test_link_local_gateways_have_a_scope():
    local = ipaddress.IPv6Address("2001:db8::2")
    assert Gateway(ipaddress.IPv6Address("fe80::1"), "eth0", local).scoped == "fe80::1%eth0"
    assert Gateway(ipaddress.IPv6Address("2001:db8::1"), "eth0", local).scoped == "2001:db8::1"
