"""Who is connected to whom, by what path: a view of the mesh from its nodes' events. Pure.

It understands what `lattica node --json` says: `ready` (peer_id, addrs), `addresses_changed`
(addrs), `peer_connected` (peer_id, addr, direction), `path_changed` (peer_id, path, addr,
previous) and `peer_disconnected` (peer_id, reason); and of what `lattica relay --json` says
`reservation_made` and `reservation_ended` (peer_id).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Path:
    """A connection as one of its ends sees it. `t`: seconds after the lab's start."""

    source: str
    target: str
    """Names of programs."""
    kind: str
    """"relayed", or "direct-" and the transport."""
    addr: str
    t: float


def path_kind(addr: str) -> str:
    """The path that a multiaddr stands for."""
    if "/p2p-circuit" in addr:
        return RELAYED
    for part, kind in (
        ("/quic", "direct-quic"),
        ("/webrtc", "direct-webrtc"),
        ("/wss", "direct-wss"),
        ("/ws", "direct-ws"),
        ("/udp/", "direct-udp"),
    ):
        if part in addr:
            return kind
    return "direct-tcp"


def is_reachable_from_elsewhere(addr: str) -> bool:
    """Whether a multiaddr can be of use to another machine: no loopback, no wildcard."""
    parts = addr.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return True
    try:
        ip = ipaddress.ip_address(parts[2])
    except ValueError:
        return False
    return not (ip.is_loopback or ip.is_unspecified or ip.is_link_local)


@dataclass(slots=True)
class _Member:
    peer_id: str = ""
    own: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    links: dict[str, Path] = field(default_factory=dict)
    """By the other's peer ID."""
    reserved: set[str] = field(default_factory=set)
    """IDs of those that can be reached through it."""
    tells: bool = False
    """It has said something of a connection."""


class Mesh:
    """Fed with the events of all nodes.

    reticent: programs that may say nothing of their connections, as relays do; until one says
        something, others are believed that they are connected to it.
    """

    def __init__(self, reticent: Collection[str] = ()) -> None:
        self._reticent = frozenset(reticent)
        self._members: dict[str, _Member] = {}
        self._names: dict[str, str] = {}
        self._observed: dict[str, list[str]] = {}
        self.paths: list[Path] = []
        """Every connection there was, in the order of appearance."""
        self.complaints: list[str] = []
        """Events that contradict each other."""

    def feed(self, program: str, event: Event) -> None:
        """Take note of an event; others than those above are ignored."""
        member = self._members.setdefault(program, _Member())
        match event.get("event"):
            case "ready":
                member.peer_id = str(event.get("peer_id", ""))
                member.own = [str(addr) for addr in event.get("addrs", ())]
                self._names[member.peer_id] = program
            case "addresses_changed":
                addrs = event.get("addrs")
                if isinstance(addrs, list):
                    member.own = [str(addr) for addr in addrs]
            case "reservation_made":
                member.reserved.add(str(event.get("peer_id", "")))
            case "reservation_ended":
                member.reserved.discard(str(event.get("peer_id", "")))
            case "peer_connected":
                self._connected(program, member, event)
            case "path_changed":
                self._path_changed(program, member, event)
            case "peer_disconnected":
                peer = str(event.get("peer_id", ""))
                member.tells = True
                if member.links.pop(peer, None) is None:
                    self.complaints.append(f"{program}: lost {self.name(peer)}, which it had not")

    def _connected(self, program: str, member: _Member, event: Event) -> None:
        peer, addr = str(event.get("peer_id", "")), str(event.get("addr", ""))
        if peer in member.links:
            self.complaints.append(f"{program}: connected to {self.name(peer)} twice")
        member.tells = True
        path = Path(program, peer, path_kind(addr), addr, float(event.get("t", 0.0)))
        member.links[peer] = path
        self.paths.append(path)
        if event.get("direction") == "inbound" and path.kind.startswith("direct"):
            observed = self._observed.setdefault(peer, [])
            plain = addr.split("/p2p/")[0]
            if plain not in observed:
                observed.append(plain)

    def _path_changed(self, program: str, member: _Member, event: Event) -> None:
        """Another of the connections to a peer is the best now."""
        peer, addr = str(event.get("peer_id", "")), str(event.get("addr", ""))
        if peer not in member.links:
            self.complaints.append(f"{program}: another path to {self.name(peer)}, without one")
        kind = str(event.get("path", "")) or path_kind(addr)
        path = Path(program, peer, kind, addr, float(event.get("t", 0.0)))
        member.links[peer] = path
        self.paths.append(path)

    def forget(self, program: str) -> None:
        """The program has ended: it is connected to nobody, and says nothing of it."""
        if program in self._members:
            self._members[program].links.clear()
            self._members[program].reserved.clear()

    def name(self, peer_id: str) -> str:
        """The program with this peer ID; the ID if it is unknown."""
        return self._names.get(peer_id, peer_id)

    def named(self, text: str) -> str:
        """A text with the names of programs in place of their peer IDs."""
        for peer_id, name in self._names.items():
            if peer_id:
                text = text.replace(peer_id, name)
        return text

    def peer_id(self, program: str) -> str | None:
        member = self._members.get(program)
        return member.peer_id or None if member else None

    def addresses(self, program: str) -> list[str]:
        """Addresses to give to others: its own, and those at which others saw it, each with
        `/p2p/` and its ID."""
        member = self._members.get(program)
        if member is None or not member.peer_id:
            return []
        found = [addr for addr in member.own if is_reachable_from_elsewhere(addr)]
        found += self._observed.get(member.peer_id, ())
        suffix = f"/p2p/{member.peer_id}"
        return list(dict.fromkeys(addr.removesuffix(suffix) + suffix for addr in found))

    def relayed_addresses(self, program: str, relays: Iterable[str]) -> list[str]:
        """Addresses of a program through relays."""
        peer_id = self.peer_id(program)
        return [
            f"{addr}/p2p-circuit/p2p/{peer_id}"
            for relay in relays
            for addr in self.addresses(relay)
            if peer_id is not None and path_kind(addr) != RELAYED
        ]

    def has_reservation(self, program: str, relay: str) -> bool:
        """Whether the relay says that the program can be reached through it."""
        member = self._members.get(relay)
        return member is not None and self.peer_id(program) in member.reserved

    def link(self, program: str, other: str) -> Path | None:
        """The connection to `other` that `program` says it has now.

        What only the other end says may be over before it is there at this one: of connections that
        are raced all but one are given up. It is believed where a reticent one says nothing.
        """
        member = self._members.get(program)
        told = program not in self._reticent or (member is not None and member.tells)
        one, two = (program, other) if told else (other, program)
        member, peer = self._members.get(one), self.peer_id(two)
        return member.links.get(peer) if member is not None and peer is not None else None

    def first_paths(self, program: str, other: str) -> dict[str, float]:
        """When the two were first connected, by kind of path, as either of them said."""
        ends = {(program, self.peer_id(other)), (other, self.peer_id(program))}
        first: dict[str, float] = {}
        for path in self.paths:
            if (path.source, path.target) in ends:
                first[path.kind] = min(path.t, first.get(path.kind, path.t))
        return first

    def is_mutual(self, program: str, other: str) -> bool:
        """Whether both say that they are connected."""
        return self._is_sure(program, other) and self._is_sure(other, program)

    def _is_sure(self, program: str, other: str) -> bool:
        """Whether `program` says so, or at least says nothing else."""
        member = self._members.get(program)
        if program in self._reticent and member is not None and not member.tells:
            return True
        return other in self.neighbours(program)

    def neighbours(self, program: str) -> set[str]:
        """The names of those that `program` says it is connected to."""
        member = self._members.get(program)
        return {self.name(peer) for peer in member.links} if member else set()

    def used_paths(self) -> list[Path]:
        """Every pair's latest connection of each kind, with names of programs."""
        latest: dict[tuple[str, str, str], Path] = {}
        for path in self.paths:
            target = self.name(path.target)
            one, two = sorted((path.source, target))
            latest[one, two, path.kind] = Path(one, two, path.kind, path.addr, path.t)
        return list(latest.values())
