"""What two nodes can have of each other, by what their NATs do. Pure.

The claims are those of RFC 5128 and of the figures that NAT traversal is measured by. They hold for
nodes that listen on TCP and UDP ports of their own (none below 1024), share a relay that listens on
443 as well, are told their external addresses by others, and dial at the same time.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from tools.netlab.spec.nat import NatSpec

Expected: TypeAlias = Literal["direct", "birthday", "relayed"]

_UDP_BLOCKED = ("udp", "all-but-tcp-443", "all-but-web")
_TCP_BLOCKED = ("tcp", "all-but-tcp-443", "all-but-web")
_DEPENDENT = "address-and-port-dependent"
_OPEN = NatSpec(translate="none", filtering="endpoint-independent")


def expected(a: NatSpec | None, b: NatSpec | None) -> Expected:
    """The best path between nodes behind these NATs; None: a public address of its own.

    "birthday": direct, but only by trying many ports, which may fail.
    """
    specs = a or _OPEN, b or _OPEN
    udp = all(spec.blocked not in _UDP_BLOCKED for spec in specs)
    tcp = all(spec.blocked not in _TCP_BLOCKED for spec in specs)
    if (udp or tcp) and _is_direct(*specs):
        return "direct"
    if udp and sum(_is_hard(spec) for spec in specs) == 1:
        return "birthday"
    return "relayed"


def _is_direct(a: NatSpec, b: NatSpec) -> bool:
    """Whether one can be reached, or both know where to send."""
    if _is_reachable(a) or _is_reachable(b):
        return True
    hard = [spec for spec in (a, b) if _is_hard(spec)]
    if len(hard) == 1:
        easy = b if hard[0] is a else a
        # What comes from an unknown port gets in where the easy side has written to the address.
        return easy.filtering != _DEPENDENT
    return not hard


def _is_reachable(spec: NatSpec) -> bool:
    """Whether anybody gets in, once the node has written to somebody or asked the router."""
    return spec.filtering == "endpoint-independent" or spec.upnp or spec.natpmp


def _is_hard(spec: NatSpec) -> bool:
    """Whether nobody can be told by which port a peer sees the node.

    A NAT that preserves and overloads ports gives a single inside host the same one always.
    """
    return spec.mapping != "endpoint-independent" and not (
        spec.overload and spec.port == "preserving"
    )
