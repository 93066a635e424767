"""ICE agents against each other over a simulated network with the NATs of the netlab."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import Any

from lattica.nat.traversal.punch.ice.agent import (
    Credentials,
    Failed,
    IceAgent,
    IceEvent,
    Nominated,
    PairValid,
)
from lattica.nat.traversal.punch.ice.candidates import (
    Candidate,
    CandidateType,
    TargetPolicy,
    local_candidate,
)
from lattica.nat.traversal.punch.ice.config import IceConfig
from tests.support.packets.nat_packets import udp_packet
from tools.netlab.packets.codec import packed, read_header, unpacked
from tools.netlab.packets.nat_table import FORWARD, TURN, NatTable
from tools.netlab.spec.nat import NAMES, NatSpec

STUN_SERVERS = (("11.99.0.1", 3478), ("11.99.0.2", 3478))
PORT = 4001
LAN_DELAY = 0.0005
STEP = 0.001
Address = tuple[str, int]


class Site:
    """A home: hosts on one LAN behind a NAT, or on the internet if it has none."""

    def __init__(self, net: IceNet, number: int, nat: NatSpec | str | None) -> None:
        spec = NAMES[nat] if isinstance(nat, str) else nat
        self.external = f"11.0.{number}.1"
        self.prefix = f"192.168.{number}." if spec else f"11.1.{number}."
        self.nat = (
            NatTable(spec, [self.external], lambda: net.now, net.rng) if spec is not None else None
        )


@dataclass
class Peer:
    """A host with one socket and, once there is one, an agent."""

    name: str
    net: IceNet
    site: Site
    address: Address
    mute: bool = False
    """What it sends is lost."""
    lan_loss: bool = False
    """The next packet that it sends on its own network is lost."""
    mapped: list[Address] = field(default_factory=list)
    sent: list[tuple[Address, bytes]] = field(default_factory=list)
    events: list[IceEvent] = field(default_factory=list)
    agent: IceAgent | None = None
    credentials: Credentials = field(init=False)

    def __post_init__(self) -> None:
        self.credentials = Credentials(f"{self.name}frag", f"{self.name}password".ljust(24, "x"))

    @property
    def interface(self) -> IPv4Interface:
        return IPv4Interface(f"{self.address[0]}/24")

    def candidates(self) -> list[Candidate]:
        found = [local_candidate(CandidateType.HOST, *self.address, base=0, rank=0)]
        for rank, mapped in enumerate(dict.fromkeys(self.mapped), 1):
            if mapped != self.address:
                found.append(
                    local_candidate(CandidateType.SERVER_REFLEXIVE, *mapped, base=0, rank=rank)
                )
        return found

    @property
    def policy(self) -> TargetPolicy:
        return TargetPolicy([self.interface], frozenset(host for host, _ in self.mapped))

    @property
    def result(self) -> IceEvent | None:
        return next((e for e in self.events if not isinstance(e, PairValid)), None)


class IceNet:
    """Time, wires and NATs. `delay` is one way between sites, in seconds."""

    def __init__(self, *, delay: float = 0.025, loss: float = 0.0, seed: int = 7) -> None:
        self.now = 1000.0
        self.delay = delay
        self.loss = loss
        self.rng = random.Random(seed)
        self.peers: list[Peer] = []
        self._sites: list[Site] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def site(self, nat: NatSpec | str | None) -> Site:
        site = Site(self, len(self._sites) + 1, nat)
        self._sites.append(site)
        return site

    def peer(self, name: str, site: Site) -> Peer:
        number = 10 + sum(peer.site is site for peer in self.peers)
        peer = Peer(name, self, site, (f"{site.prefix}{number}", PORT))
        peer.mapped = [self._mapped(peer, server) for server in STUN_SERVERS]
        self.peers.append(peer)
        return peer

    def pair(self, nat_a: NatSpec | str | None, nat_b: NatSpec | str | None) -> tuple[Peer, Peer]:
        return self.peer("anna", self.site(nat_a)), self.peer("bert", self.site(nat_b))

    def _mapped(self, peer: Peer, server: Address) -> Address:
        """Where a STUN server sees a socket."""
        packet = _packet(peer.address, server, b"?")
        if peer.site.nat is not None and peer.site.nat.outbound(packet) != FORWARD:
            return peer.address  # nobody sees it at all
        return _endpoints(packet)[0]

    # --- packets ---

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), action))

    def send(self, peer: Peer, destination: Address, data: bytes) -> None:
        peer.sent.append((destination, data))
        if peer.mute or self.rng.random() < self.loss:
            return
        packet = _packet(peer.address, destination, data)
        if destination[0].startswith(peer.site.prefix):
            if peer.lan_loss:
                peer.lan_loss = False
                return
            self.at(self.now + LAN_DELAY, lambda: self._deliver(packet))
            return
        if peer.site.nat is not None:
            match peer.site.nat.outbound(packet):
                case verdict if verdict == TURN:
                    self.at(self.now + LAN_DELAY, lambda: self._deliver(packet))
                    return
                case verdict if verdict != FORWARD:
                    return
        self.at(self.now + self.delay, lambda: self._arrive(packet))

    def _arrive(self, packet: bytearray) -> None:
        host = _endpoints(packet)[1][0]
        site = next((site for site in self._sites if site.nat and site.external == host), None)
        if site is None or (site.nat is not None and site.nat.inbound(packet) == FORWARD):
            self._deliver(packet)

    def _deliver(self, packet: bytearray) -> None:
        source, destination = _endpoints(packet)
        for peer in self.peers:
            if peer.address == destination and peer.agent is not None:
                peer.agent.receive(bytes(packet[28:]), 0, source)
                self.collect(peer)

    # --- agents ---

    def agent(
        self,
        peer: Peer,
        other: Peer,
        *,
        controlling: bool,
        remote: Iterable[Candidate] | None = None,
        **changes: Any,
    ) -> IceAgent:
        """Give `peer` an agent that knows what `other` offers."""
        claims = other.candidates() if remote is None else remote
        peer.agent = IceAgent(
            peer.candidates(),
            peer.policy.choose(claims, [peer.address]),
            own=peer.credentials,
            peer=other.credentials,
            controlling=controlling,
            policy=peer.policy,
            clock=lambda: self.now,
            random_bytes=self.rng.randbytes,
            config=IceConfig(**changes),
        )
        return peer.agent

    def collect(self, peer: Peer) -> None:
        """Send and note what an agent wants."""
        assert peer.agent is not None
        peer.events += peer.agent.events()
        for outgoing in peer.agent.datagrams_to_send():
            assert outgoing.base == 0
            self.send(peer, outgoing.destination, outgoing.data)

    def start(self, peer: Peer, after: float = 0.0) -> None:
        def begin() -> None:
            assert peer.agent is not None
            peer.agent.start()
            self.collect(peer)

        self.at(self.now + after, begin)

    def run(self, seconds: float = 30.0) -> None:
        """Until nothing more will happen, or for so long."""
        end = self.now + seconds
        while True:
            timers = [
                (due, peer)
                for peer in self.peers
                if peer.agent is not None and (due := peer.agent.next_timer()) is not None
            ]
            timer = min(timers, key=lambda item: item[0], default=None)
            due = self._heap[0][0] if self._heap else None
            if timer is not None and (due is None or timer[0] < due):
                if timer[0] > end:
                    return
                before = timer[1].agent
                assert before is not None
                self.now = max(self.now, timer[0])
                before.on_timer()
                self.collect(timer[1])
                again = before.next_timer()
                assert again is None or again > self.now - 1e-9 or timer[1].sent, "busy loop"
            elif due is not None and due <= end:
                self.now = max(self.now, due)
                heapq.heappop(self._heap)[2]()
            else:
                return

    def punch(self, a: Peer, b: Peer, *, skew: float = 0.0, **changes: Any) -> float:
        """An attempt of two peers, `a` controlling, `b` late by `skew`; how long it took."""
        self.agent(a, b, controlling=True, **changes)
        self.agent(b, a, controlling=False, **changes)
        began = self.now
        self.start(a)
        self.start(b, skew)
        while not (a.result and b.result):
            self.run(STEP)
            self.now = round(self.now + STEP, 6)
            assert self.now < began + 60
        return self.now - began


def nominated(peer: Peer) -> Nominated:
    assert isinstance(peer.result, Nominated), peer.events
    return peer.result


def failure(peer: Peer) -> str:
    assert isinstance(peer.result, Failed), peer.events
    return peer.result.reason


def _packet(source: Address, destination: Address, data: bytes) -> bytearray:
    return bytearray(
        udp_packet(packed(source[0]), source[1], packed(destination[0]), destination[1], data)
    )


def _endpoints(packet: bytearray) -> tuple[Address, Address]:
    ip = read_header(packet)
    assert ip is not None
    at = ip.header
    return (
        (unpacked(ip.source), int.from_bytes(packet[at : at + 2], "big")),
        (unpacked(ip.destination), int.from_bytes(packet[at + 2 : at + 4], "big")),
    )
