"""The compiled network rules say what `ipaddress` says."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import AccessDeniedError
from lattica.nat.config import AccessRules
from lattica.nat.secure.gater import Gater

# A small space, so that addresses fall into networks often.
v4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address) | st.integers(0, 255).map(
    lambda low: ipaddress.IPv4Address(0x0A000000 + low)
)
v6 = st.integers(1 << 100, 2**128 - 1).map(ipaddress.IPv6Address)
addresses = v4 | v6


@st.composite
def networks(draw: st.DrawFn) -> str:
    address = draw(addresses)
    prefix = draw(st.integers(0, address.max_prefixlen))
    return str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))


@given(addresses, st.lists(networks(), max_size=5), st.lists(networks(), max_size=5))
def test_same_verdict_as_ipaddress(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow: list[str], deny: list[str]
) -> None:
    def inside(rules: list[str]) -> bool:
        return any(address in ipaddress.ip_network(rule) for rule in rules)

    try:
        Gater(AccessRules(allow_networks=tuple(allow), deny_networks=tuple(deny))).check_address(
            address
        )
        allowed = True
    except AccessDeniedError:
        allowed = False
    assert allowed == (not inside(deny) and (not allow or inside(allow)))
