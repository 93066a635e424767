"""Whose an IP address can be: every entry of IANA's registries, and IPv4 within IPv6."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.errors import AddressError
from lattica.nat.base.net.ip import IpAddress, is_host, is_public_host, parse_ip

YES, NO, NOT_APPLICABLE = True, False, None
REGISTRIES: dict[str, bool | None] = {
    # https://www.iana.org/assignments/iana-ipv4-special-registry: "Globally Reachable"
    "0.0.0.0/8": NO,
    "0.0.0.0/32": NO,
    "10.0.0.0/8": NO,
    "100.64.0.0/10": NO,
    "127.0.0.0/8": NO,
    "169.254.0.0/16": NO,
    "172.16.0.0/12": NO,
    "192.0.0.0/24": NO,
    "192.0.0.0/29": NO,
    "192.0.0.8/32": NO,
    "192.0.0.9/32": YES,
    "192.0.0.10/32": YES,
    "192.0.0.170/32": NO,
    "192.0.0.171/32": NO,
    "192.0.2.0/24": NO,
    "192.31.196.0/24": YES,
    "192.52.193.0/24": YES,
    "192.88.99.0/24": NOT_APPLICABLE,
    "192.88.99.2/32": NO,
    "192.168.0.0/16": NO,
    "192.175.48.0/24": YES,
    "198.18.0.0/15": NO,
    "198.51.100.0/24": NO,
    "203.0.113.0/24": NO,
    "240.0.0.0/4": NO,
    "255.255.255.255/32": NO,
    # https://www.iana.org/assignments/iana-ipv6-special-registry
    "::1/128": NO,
    "::/128": NO,
    "::ffff:0:0/96": NO,
    # It is reachable as far as the IPv4 address in it is: ours judges by that address alone.
    "64:ff9b::/96": NOT_APPLICABLE,
    "64:ff9b:1::/48": NO,
    "100::/64": NO,
    "100:0:0:1::/64": NO,
    "2001::/23": NO,
    "2001::/32": NOT_APPLICABLE,
    "2001:1::1/128": YES,
    "2001:1::2/128": YES,
    "2001:1::3/128": YES,
    "2001:2::/48": NO,
    "2001:3::/32": YES,
    "2001:4:112::/48": YES,
    "2001:10::/28": NOT_APPLICABLE,
    "2001:20::/28": YES,
    "2001:30::/28": YES,
    "2001:db8::/32": NO,
    "2002::/16": NOT_APPLICABLE,
    "2620:4f:8000::/48": YES,
    "3fff::/20": NO,
    "5f00::/16": NO,
    "fc00::/7": NO,
    "fe80::/10": NO,
    # No special purposes, but of no host: multicast, what is reserved, what was (RFC 3879, 4291).
    "224.0.0.0/4": NO,
    "ff00::/8": NO,
    "fec0::/10": NO,
    "::/96": NO,
    "4000::/3": NO,
}
NETWORKS = {ipaddress.ip_network(text): answer for text, answer in REGISTRIES.items()}


def expected(ip: IpAddress) -> bool:
    """As the entry says that is about the fewest addresses; what none is about is public."""
    about = [network for network in NETWORKS if ip in network]
    if about:
        return NETWORKS[max(about, key=lambda network: network.prefixlen)] is YES
    return ip.version == 4 or ip in ipaddress.ip_network("2000::/3")


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_each_entry_of_the_registries(network):
    first, last = network.network_address, network.broadcast_address
    for ip in (first, last, network[network.num_addresses // 2]):
        assert is_public_host(ip) == expected(ip), ip
    for number in (int(first) - 1, int(last) + 1):
        if 0 <= number < 1 << network.max_prefixlen:
            ip = type(first)(number)
            assert is_public_host(ip) == expected(ip), ip


@given(st.ip_addresses())
def test_any_address(ip):
    assert is_public_host(ip) == expected(ip)
    assert is_host(ip) >= is_public_host(ip)


@pytest.mark.parametrize("text", ["8.8.8.8", "11.0.0.1", "2a00:1450::1", "2b00::1", "3ffe::1"])
def test_hosts_of_the_internet(text):
    assert is_public_host(ipaddress.ip_address(text))


@pytest.mark.parametrize("v4", ["10.0.0.1", "127.0.0.1", "8.8.8.8"])
@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::", "2002:", "2001:0:", "2001::", "::"])
def test_ipv4_in_disguise_is_never_public(prefix, v4):
    number = int(ipaddress.IPv4Address(v4))
    hextets = f"{number >> 16:x}:{number & 0xFFFF:x}"
    inverted = f"{number >> 16 ^ 0xFFFF:x}:{number & 0xFFFF ^ 0xFFFF:x}"
    text = {
        "2002:": f"2002:{hextets}::1",
        "2001:0:": f"2001:0:{hextets}::1",  # the Teredo server
        "2001::": f"2001:0:808:808:0:0:{inverted}",  # its client
    }.get(prefix, prefix + hextets)
    assert not is_public_host(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("8.8.8.8", True),
        ("10.0.0.1", True),
        ("100.64.0.1", True),
        ("192.0.2.1", True),
        ("fd00::1", True),
        ("fec0::1", True),
        ("2001:db8::1", True),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("127.0.0.1", False),
        ("169.254.1.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("fe80::1", False),
        ("ff02::1", False),
        ("4000::1", False),
    ],
)
def test_hosts_of_any_network(text, answer):
    assert is_host(ipaddress.ip_address(text)) == answer


def test_parse_ip() -> None:
    assert str(parse_ip("::ffff:192.0.2.1")) == "192.0.2.1"
    assert str(parse_ip("fe80::1%eth0")) == "fe80::1"
    with pytest.raises(AddressError):
        parse_ip("nonsense")
