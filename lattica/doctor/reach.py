"""How peers behind each kind of NAT and a node get connected. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lattica.doctor.facts import DoctorFacts
from lattica.nat.base.net.addresses import Kind, kind_of, to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses.nat_report import Behaviour
from lattica.nat.traversal.portmap.mapping import Transport


class Peer(Enum):
    """What a peer is behind; the value is for people."""

    OPEN = "a public address or an open port"
    CONE = "a NAT with endpoint-independent mapping and filtering by address or none"
    PORT_RESTRICTED = "a NAT with endpoint-independent mapping and filtering by port"
    SYMMETRIC = "a NAT with another mapping for each peer (symmetric)"
    NO_UDP = "a firewall without UDP"
    WEB_ONLY = "a firewall that lets out TCP port 443 only"


class How(Enum):
    DIRECT = "direct"
    DIRECT_TCP = "direct over TCP, if the NATs allow it"
    BIRTHDAY = "direct after a search for ports"
    RELAYED = "relayed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Reach:
    """How peers of one kind and this node get connected."""

    peer: Peer
    how: How


def reach_table(facts: DoctorFacts) -> tuple[Reach, ...]:
    """One row for each kind of peer."""
    return tuple(Reach(peer, how_reached(facts, peer)) for peer in Peer)


def how_reached(facts: DoctorFacts, peer: Peer) -> How:
    """How a peer and this node get connected, in IPv4.

    Where the filtering is not known the strictest is assumed, as most routers have it.
    """
    if facts.is_open:
        has_443 = any(
            to_endpoint(addr).port == 443 for addr in facts.reachable if _speaks_tcp(addr)
        ) or any(
            mapping.external_port == 443 and mapping.port.transport is Transport.TCP
            for mapping in facts.useful_mappings
        )
        if peer is Peer.WEB_ONLY:
            return How.DIRECT if has_443 else How.RELAYED
        if peer is Peer.NO_UDP:
            return How.DIRECT if _has_open_tcp(facts) else How.DIRECT_TCP
        return How.DIRECT
    report = facts.nat4
    if report.udp_works is False:
        return _without_udp(peer)
    if report.mapping is None:
        # Whoever is open can be dialed from anywhere, and that is all that is sure.
        return How.DIRECT if peer is Peer.OPEN and facts.listen else How.UNKNOWN
    if peer is Peer.OPEN:
        return How.DIRECT
    if peer is Peer.WEB_ONLY:
        return How.RELAYED
    if peer is Peer.NO_UDP:
        return How.RELAYED if report.is_hard else How.DIRECT_TCP
    if not report.is_hard:
        by_port = report.filtering in (None, Behaviour.ADDRESS_AND_PORT_DEPENDENT)
        return How.BIRTHDAY if peer is Peer.SYMMETRIC and by_port else How.DIRECT
    return {
        Peer.CONE: How.DIRECT,
        Peer.PORT_RESTRICTED: How.BIRTHDAY,
        Peer.SYMMETRIC: How.RELAYED,
    }[peer]


def _without_udp(peer: Peer) -> How:
    if peer is Peer.OPEN:
        return How.DIRECT
    if peer in (Peer.SYMMETRIC, Peer.WEB_ONLY):
        return How.RELAYED
    return How.DIRECT_TCP


def _speaks_tcp(addr: Multiaddr) -> bool:
    return kind_of(addr) in (Kind.TCP, Kind.WEBSOCKET, Kind.SECURE_WEBSOCKET)


def _has_open_tcp(facts: DoctorFacts) -> bool:
    return any(map(_speaks_tcp, facts.reachable)) or any(
        mapping.port.transport is Transport.TCP for mapping in facts.useful_mappings
    )
