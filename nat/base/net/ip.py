"""IP addresses: whose they can be, and IPv4 within IPv6. Pure.

Source: IANA's registries of special-purpose addresses (RFC 6890, as of October 2025):
https://www.iana.org/assignments/iana-ipv4-special-registry and
https://www.iana.org/assignments/iana-ipv6-special-registry. The `is_global` of the standard
library is another one in each release, and knows nothing of IPv4 within IPv6.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TypeAlias

from lattica.nat.base.errors import AddressError

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[IpNetwork, ...]:
    return tuple(map(ipaddress.ip_network, texts))


CARRIER_NAT = ipaddress.IPv4Network("100.64.0.0/10")
"""Between a provider's NAT and its customers (RFC 6598)."""

_UNICAST = _networks("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3", "2000::/3")
"""Where the internet's hosts are: without multicast, and what was never assigned."""
_ELSEWHERE = _networks("fc00::/7", "fec0::/10")
"""Where there are hosts, too: those of private networks."""
_PRIVATE = _networks(
    "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"
)  # fmt: skip
_NO_HOST = _networks("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16")
"""This host, loopback, one link (those of IPv6 are in no unicast space)."""
_SPECIAL = _networks(
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24",
    "2001::/23", "2001:db8::/32", "3fff::/20",
    "2002::/16",  # 6to4 (RFC 3056); Teredo is in 2001::/23
)  # fmt: skip
"""What the registries do not call globally reachable, as far as it is in :data:`_UNICAST`."""
_REACHABLE = _networks(
    "192.0.0.9/32", "192.0.0.10/32",
    "2001:1::1/128", "2001:1::2/128", "2001:1::3/128",
    "2001:3::/32", "2001:4:112::/48", "2001:20::/28", "2001:30::/28",
)  # fmt: skip
"""What the registries do call so, within one of :data:`_SPECIAL`."""


def parse_ip(text: str | IpAddress) -> IpAddress:
    """An IP address without its zone, and IPv4-mapped IPv6 as the IPv4 that it is.

    Raises:
        AddressError: not an IP address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise AddressError(f"{text!r} is not an IP address") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            return ipaddress.IPv6Address(int(address))
    return address


@lru_cache(maxsize=1024)
def is_public_host(ip: IpAddress) -> bool:
    """Whether it can be one host's on the internet.

    It is unicast, and globally reachable by the registries. An IPv6 address that carries an IPv4
    address (mapped, NAT64, 6to4, Teredo) is none: whom it leads to is said by the other one, which
    may be private, and a peer that is there has an address without the disguise.
    """
    if not _is_in(ip, _UNICAST):
        return False
    return not _is_in(ip, _SPECIAL) or _is_in(ip, _REACHABLE)


@lru_cache(maxsize=1024)
def is_host(ip: IpAddress) -> bool:
    """Whether it can be one host's, on the internet or in a network of its own.

    Not loopback, link-local, unspecified, multicast or reserved ones, nor those that stand for an
    IPv4 address (mapped, NAT64).
    """
    return _is_in(ip, _UNICAST + _ELSEWHERE) and not _is_in(ip, _NO_HOST)


@lru_cache(maxsize=1024)
def is_private_host(ip: IpAddress) -> bool:
    """Whether it can be one host's in a private network: RFC 1918, 4193, 6598, and site-local.

    Not what is for tests and documentation, and not IPv6 that carries an IPv4 address.
    """
    return _is_in(ip, _PRIVATE)


def _is_in(ip: IpAddress, networks: tuple[IpNetwork, ...]) -> bool:
    return any(ip in network for network in networks)
