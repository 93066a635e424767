"""What :mod:`lattica.doctor.findings` judges: plain facts, and how a node that runs knows them.

Nobody is asked anything but the relays and bootstrap peers that were configured, and the router on
the local network.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from lattica.doctor.distributions import has_original
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import (
    DIRECT_KINDS,
    Kind,
    ip_of,
    kind_of,
    parse_multiaddr,
    split_peer,
    to_endpoint,
)
from lattica.nat.base.net.interfaces import Interface, local_interfaces
from lattica.nat.base.net.ip import is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses.nat_report import NatReport
from lattica.nat.traversal.autonat.client_core import Reachability
from lattica.nat.traversal.portmap.commands import MethodState
from lattica.nat.traversal.portmap.mapping import Mapping
from lattica.nat.traversal.portmap.service import PortMappingStatus
from lattica.nat.traversal.relay.messages import HOP
from lattica.nat.traversal.stun.behaviour import Responder, choose
from lattica.nat.traversal.stun.codec import Endpoint
from lattica.nat.traversal.stun.lifetime import MappingLifetime, measure_mapping_lifetime
from lattica.nat.traversal.stun.measurement import is_mapped_after
from lattica.nat.traversal.stun.transaction import StunTiming

if TYPE_CHECKING:
    from lattica.node import Node

PATIENCE = 20.0
"""Seconds in which a node that has just started may find out how things stand."""
_POLL = 0.2
"""Seconds between two looks whether it has."""


@dataclass(frozen=True, slots=True)
class AddressFact:
    """What AutoNAT says of one address: `agreeing` of the `asked` servers say `state`."""

    addr: Multiaddr
    state: Reachability
    agreeing: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class RelayFact:
    """One relay."""

    relay: str
    addrs: tuple[Multiaddr, ...] = ()
    """Where it is."""
    path: str = ""
    """How it is reached, as `Connection.path`; empty if it is not."""
    rtt: float | None = None
    """Seconds."""
    chosen: bool = True
    """Whether a place is wanted there."""
    reserved: bool = False
    """Whether there is one, through which others reach this node."""
    error: str = ""
    """What went wrong last."""
    clock_offset: float | None = None
    """Seconds by which its clock is ahead of this machine's, as far as that is known."""


@dataclass(frozen=True, slots=True)
class DoctorFacts:
    """All that the findings are drawn from."""

    listen: tuple[Multiaddr, ...] = ()
    """Addresses as bound."""
    fixed_ports: bool = True
    """Whether they were configured, and will be the same the next time."""
    interfaces: tuple[Interface, ...] = ()
    """Of this machine."""
    nat4: NatReport = field(default_factory=NatReport)
    """What STUN responders see by IPv4."""
    nat6: NatReport = field(default_factory=NatReport)
    """The same by IPv6."""
    lifetime: MappingLifetime | None = None
    """How long an idle UDP mapping lives, if that was measured."""
    addresses: tuple[AddressFact, ...] = ()
    port_mapping: PortMappingStatus | None = None
    relays: tuple[RelayFact, ...] = ()
    servers: int = 0
    """How many relays and bootstrap peers are configured."""
    unfinished: tuple[str, ...] = ()
    """What of this node is still being found out, for people."""
    gave_up: bool = False
    """Whether not everything was known when time was over."""

    own_key: bool = True
    """Whether it was asked with a key that stays, and not with one for this once."""
    has_original: bool = False
    """The original `lattica` is installed, too."""

    @property
    def ports(self) -> str:
        """As a person says it to a firewall: "UDP 4001 and TCP 4001"; those of IPv4 if any."""
        found = []
        v4 = [addr for addr in self.listen if (ip := ip_of(addr)) is not None and ip.version == 4]
        for addr in v4 or self.listen:
            if kind_of(addr) in DIRECT_KINDS:
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
            if fact.state is Reachability.REACHABLE and is_public_address(fact.addr)
        )

    @property
    def is_open(self) -> bool:
        """Anybody can connect to this node: it was tried, or a router opened a port."""
        return bool(self.reachable or self.useful_mappings)


def is_public_address(addr: Multiaddr) -> bool:
    """Whether it begins with a public IP address."""
    ip = ip_of(addr)
    return ip is not None and is_public_host(ip)


# --- gathering ---


def waiting_for(facts: DoctorFacts) -> tuple[str, ...]:
    """What is still being found out, for people. Empty: waiting would hardly bring more.

    What cannot be found out with the relays that there are, is not waited for.
    """
    found = ["the router"] if _asks_router(facts.port_mapping) else []
    for relay in facts.relays:
        if not relay.error and (not relay.path or (relay.chosen and not relay.reserved)):
            found.append(f"relay {relay.relay}")
    return (*found, *facts.unfinished)


def _asks_router(status: PortMappingStatus | None) -> bool:
    if status is None or not status.enabled:
        return False
    for family in status.families:
        if family.idle is not None:
            continue
        states = {one.state for one in family.methods if one.reason is None}
        if MethodState.SEARCHING in states:
            return True
        if MethodState.FOUND in states and not family.mappings:
            return True
    return not status.families


def _unfinished(node: Node) -> tuple[str, ...]:
    """Measurements that go on, or that can begin."""
    traversal = node.traversal
    found = []
    if _awaits_bootstrap(node):
        found.append("bootstrap peers")
    if not all(traversal.prober.has_measured(version) for version in (4, 6)):
        found.append("the kind of NAT")
    if node.config.nat.autonat.client.enabled and not traversal.autonat.is_idle():
        found.append("which addresses can be reached")
    return tuple(found)


def _awaits_bootstrap(node: Node) -> bool:
    """A bootstrap peer has not said what it speaks, or is a relay that is not in use yet."""
    used = {status.relay for status in node.traversal.relays.status()}
    asked = node.config.nat.relay
    for text in node.config.bootstrap:
        _, peer_id = split_peer(parse_multiaddr(text))
        if peer_id == node.peer_id:
            continue
        known = [
            connection
            for connection in node.swarm.registry
            if connection.agent and peer_id in (None, connection.peer_id)
        ]
        if not known:
            return True
        relays = {each.peer_id for each in known if HOP in each.known_protocols}
        if asked.use_bootstrap and asked.reservations and peer_id is not None and relays - used:
            return True
    return False


def _avoided(node: Node, peer: PeerId) -> str:
    """Which addresses of a peer connect and do not carry."""
    doubts = node.swarm.doubtful.of(peer)
    return "; ".join(f"{d.addr} connects but does not carry: {d.reason}" for d in doubts)


def snapshot(node: Node, *, gave_up: bool = False) -> DoctorFacts:
    """The facts as a node that runs knows them now."""
    traversal = node.traversal
    config = node.config
    off = "" if config.nat.relay.reservations else "not asked, since `reservations` is 0"
    relays = tuple(
        RelayFact(
            relay=str(status.relay),
            addrs=status.addrs,
            path=status.path,
            rtt=status.rtt,
            chosen=status.chosen,
            reserved=status.reserved_until is not None,
            error=status.last_error or _avoided(node, status.relay) or off,
            clock_offset=status.clock_offset,
        )
        for status in traversal.relays.status()
    )
    unfinished = _unfinished(node)
    addresses = tuple(
        AddressFact(each.addr, each.reachability, each.agreeing, each.asked)
        for each in traversal.autonat.results.values()
    )
    return DoctorFacts(
        listen=node.swarm.listen_addrs,
        fixed_ports=all(to_endpoint(parse_multiaddr(text)).port for text in config.swarm.listen),
        interfaces=local_interfaces(),
        nat4=traversal.prober.report(4),
        nat6=traversal.prober.report(6),
        addresses=addresses,
        port_mapping=PortMappingStatus(enabled=False)
        if traversal.port_mapping is None
        else traversal.port_mapping.status(),
        relays=relays,
        servers=len(config.nat.relay.relays) + len(config.bootstrap),
        unfinished=unfinished,
        gave_up=gave_up,
        own_key=config.identity_path is not None,
        has_original=has_original(),
    )


async def gather(node: Node, patience_s: float = PATIENCE) -> DoctorFacts:
    """The facts once they are complete, or after so many seconds. May be cancelled."""
    with trio.move_on_after(patience_s):
        settled = 0
        while True:
            facts = snapshot(node)
            # Twice: what belongs together, such as a second port, may follow at once.
            settled = 0 if waiting_for(facts) else settled + 1
            if settled == 2:
                return facts
            await trio.sleep(_POLL)
    return snapshot(node, gave_up=True)


# --- the lifetime of mappings ---

Measure = Callable[..., Awaitable[MappingLifetime]]
Helps = Callable[[Endpoint, str], Awaitable[bool]]


async def _helps(server: Endpoint, host: str) -> bool:
    return await is_mapped_after(0.0, server, host, StunTiming()) is not None


async def measure_lifetime(
    node: Node,
    report: Callable[[str], None],
    *,
    measure: Measure = measure_mapping_lifetime,
    helps: Helps = _helps,
) -> MappingLifetime | None:
    """How long an idle UDP mapping lives, with the help of a relay that the node is connected to.

    Takes as long as the answer is, and some minutes where mappings live long. None if no relay
    helps, which only those of Lattica do.

    Args:
        report: gets lines for a person, about the progress.
    """
    responders = [
        Responder(endpoint.host, endpoint.port, status.relay)
        for status in node.traversal.relays.status()
        for addr in status.addrs
        if status.path and kind_of(addr) is Kind.QUIC
        if not (endpoint := to_endpoint(addr)).is_name
    ]

    def on_progress(found: MappingLifetime) -> None:
        alive = "" if found.alive_s is None else f", still there after {found.alive_s:g} s"
        dead = "" if found.dead_s is None else f", gone after {found.dead_s:g} s"
        report(f"an idle UDP mapping is{(alive + dead)[1:]}")

    for version, host in ((4, "0.0.0.0"), (6, "::")):
        for responder in choose(responders, version):
            try:
                if not await helps(responder.endpoint, host):
                    continue
                report("measuring how long idle UDP mappings live: takes up to ten minutes…")
                return await measure(responder.endpoint, host, on_progress=on_progress)
            except OSError as error:
                report(f"how long idle UDP mappings live cannot be measured: {error}")
                return None
    report("how long idle UDP mappings live cannot be measured: no relay helps with that over UDP")
    return None
