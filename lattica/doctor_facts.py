"""What :mod:`lattica.doctor` judges: plain facts, and how a node that runs knows them.

Nobody is asked anything but the relays and bootstrap peers that were configured, and the router on
the local network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from multiaddr.multiaddr import Multiaddr

from lattica.nat.addresses import (
    Interface,
    Kind,
    ip_of,
    kind_of,
    local_interfaces,
    parse_multiaddr,
    to_endpoint,
)
from lattica.nat.portmap.commands import MethodState
from lattica.nat.portmap.mapping import Mapping
from lattica.nat.portmap.port_mapping_service import PortMappingStatus
from lattica.nat.reachability.autonat_client import Reachability
from lattica.nat.reachability.mapping_lifetime import MappingLifetime
from lattica.nat.reachability.nat_report import NatReport

if TYPE_CHECKING:
    from lattica.node import Node

PATIENCE_S = 20.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class AddressFact:
    """What AutoNAT says of one address: `agreeing` of the `asked` servers say `state`."""

    addr: Multiaddr
    state: Reachability
    agreeing: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class RelayFact:
    """One relay.

    addrs: where it is. path: how it is reached, as `Connection.path`; empty if it is not.
    rtt: seconds. reserved: others reach this node through it. error: what went wrong last.
    """

    relay: str
    addrs: tuple[Multiaddr, ...] = ()
    path: str = ""
    rtt: float | None = None
    reserved: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class DoctorFacts:
    """All that the findings are drawn from.

    listen: addresses as bound. fixed_ports: whether they were configured, and will be the same
    the next time. interfaces: of this machine. nat4, nat6: what STUN responders see, per family.
    lifetime: how long an idle UDP mapping lives, if that was measured. servers: how many relays
    and bootstrap peers are configured. gave_up: not everything was known when time was over.
    """

    listen: tuple[Multiaddr, ...] = ()
    fixed_ports: bool = True
    interfaces: tuple[Interface, ...] = ()
    nat4: NatReport = field(default_factory=NatReport)
    nat6: NatReport = field(default_factory=NatReport)
    lifetime: MappingLifetime | None = None
    addresses: tuple[AddressFact, ...] = ()
    port_mapping: PortMappingStatus | None = None
    relays: tuple[RelayFact, ...] = ()
    servers: int = 0
    gave_up: bool = False

    @property
    def ports(self) -> str:
        """As a person says it to a firewall: "UDP 4001 and TCP 4001"; those of IPv4 if any."""
        found = []
        v4 = [addr for addr in self.listen if (ip := ip_of(addr)) is not None and ip.version == 4]
        for addr in v4 or self.listen:
            if kind_of(addr) in (Kind.QUIC, Kind.TCP, Kind.WEBSOCKET, Kind.SECURE_WEBSOCKET):
                name = "UDP" if kind_of(addr) is Kind.QUIC else "TCP"
                found.append(f"{name} {to_endpoint(addr).port}")
        return " and ".join(sorted(set(found), reverse=True)) or "the listening ports"

    @property
    def useful_mappings(self) -> tuple[Mapping, ...]:
        status = self.port_mapping
        return () if status is None else tuple(m for m in status.mappings if m.useless is None)

    @property
    def reachable(self) -> tuple[Multiaddr, ...]:
        """Public addresses to which servers could connect that were asked to try."""
        return tuple(
            fact.addr
            for fact in self.addresses
            if fact.state is Reachability.REACHABLE and is_global(fact.addr)
        )

    @property
    def is_open(self) -> bool:
        """Anybody can connect to this node: it was tried, or a router opened a port."""
        return bool(self.reachable or self.useful_mappings)


def is_global(addr: Multiaddr) -> bool:
    """Whether it begins with a public IP address."""
    ip = ip_of(addr)
    return ip is not None and ip.is_global


# --- gathering ---


def is_settled(facts: DoctorFacts) -> bool:
    """Whether waiting would hardly bring more."""
    status = facts.port_mapping
    if status is not None and status.enabled:
        for family in status.families:
            if family.idle is not None:
                continue
            states = {one.state for one in family.methods if one.reason is None}
            if MethodState.SEARCHING in states:
                return False
            if MethodState.FOUND in states and not family.mappings:
                return False
        if not status.families:
            return False
    if not facts.servers:
        return True
    nat = facts.nat4
    if nat.udp_works is None or (nat.udp_works and nat.filtering is None):
        return False
    if not any(relay.reserved or relay.error for relay in facts.relays):
        return False
    public = [fact for fact in facts.addresses if is_global(fact.addr)]
    return all(fact.state is not Reachability.UNKNOWN for fact in public)


def snapshot(node: Node, *, gave_up: bool = False) -> DoctorFacts:
    """The facts as a node that runs knows them now."""
    traversal = node.traversal
    relays = tuple(
        RelayFact(
            relay=str(status.relay),
            addrs=status.addrs,
            path=status.path,
            rtt=status.rtt,
            reserved=status.reserved_until is not None,
            error=status.last_error,
        )
        for status in traversal.relays.status()
    )
    addresses = tuple(
        AddressFact(each.addr, each.reachability, each.agreeing, each.asked)
        for each in traversal.autonat.results.values()
    )
    config = node.config
    return DoctorFacts(
        listen=node.swarm.listen_addrs,
        fixed_ports=all(to_endpoint(parse_multiaddr(text)).port for text in config.swarm.listen),
        interfaces=local_interfaces(),
        nat4=traversal.prober.report(4),
        nat6=traversal.prober.report(6),
        addresses=addresses,
        port_mapping=traversal.port_mapping.status(),
        relays=relays,
        servers=len(config.nat.relay.relays) + len(config.bootstrap),
        gave_up=gave_up,
    )


async def gather(node: Node, patience_s: float = PATIENCE_S) -> DoctorFacts:
    """The facts once they are complete, or after so many seconds. May be cancelled."""
    with trio.move_on_after(patience_s):
        settled = 0
        while True:
            facts = snapshot(node)
            # Twice: what belongs together, such as a second port, may follow at once.
            settled = settled + 1 if is_settled(facts) else 0
            if settled == 2:
                return facts
            await trio.sleep(_POLL_S)
    return snapshot(node, gave_up=True)
