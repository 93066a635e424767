"""What kind of NAT it is, from what was seen. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tools.netlab.packets.stun import Endpoint
from tools.netlab.spec.nat import Behaviour, PortAllocation

# The longest step between ports that still looks like a sequence: others may take some between.
LONGEST_STEP: Final = 32


@dataclass(frozen=True, slots=True)
class UdpResult:
    """What a NAT does to UDP; None is "could not be found out".

    local, mapped: the endpoint of one socket, inside and as the responder saw it.
    translated: whether they differ. hairpin: None if nothing is translated.
    alive_s, dead_s: the longest idle time after which a mapping was still there, and the
    shortest after which it was not (None: none of those tried).
    """

    local: Endpoint
    mapped: Endpoint
    translated: bool
    mapping: Behaviour | None
    filtering: Behaviour
    port: PortAllocation
    hairpin: bool | None
    alive_s: float | None
    dead_s: float | None


@dataclass(frozen=True, slots=True)
class TcpResult:
    """What a NAT does to TCP; fields as in :class:`UdpResult`."""

    local: Endpoint
    mapped: Endpoint
    translated: bool
    mapping: Behaviour | None
    filtering: Behaviour
    port: PortAllocation


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result for both protocols; None where the responder cannot be reached."""

    udp: UdpResult | None
    tcp: TcpResult | None


def mapping_behaviour(
    first: Endpoint | None, other_ip: Endpoint | None, other_both: Endpoint | None
) -> Behaviour | None:
    """From where one socket seemed to be, seen by the responder's endpoints (address 1, port 1),
    (address 2, port 1) and (address 2, port 2) (RFC 5780 section 4.3); None if one saw nothing.
    """
    if first is None or other_ip is None or other_both is None:
        return None
    if first == other_ip == other_both:
        return "endpoint-independent"
    return "address-dependent" if other_ip == other_both else "address-and-port-dependent"


def filtering_behaviour(from_other_ip: bool, from_other_port: bool) -> Behaviour:
    """From what came in from endpoints never sent to: another address, or another port of an
    address that was sent to (RFC 5780 section 4.4)."""
    if from_other_ip:
        return "endpoint-independent"
    return "address-dependent" if from_other_port else "address-and-port-dependent"


def port_allocation(pairs: Sequence[tuple[int, int]]) -> PortAllocation:
    """From (inside port, external port) of several sockets, in the order they were mapped."""
    if all(inside == external for inside, external in pairs):
        return "preserving"
    externals = [external for _, external in pairs]
    steps = [after - before for before, after in pairwise(externals)]
    # One step may lead from the end of the range back to its beginning.
    back = sum(step < 0 for step in steps)
    short = sum(0 < step <= LONGEST_STEP for step in steps)
    return "sequential" if back <= 1 and short and short + back == len(steps) else "random"
