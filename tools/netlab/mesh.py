"""Who is connected to whom, by what path: a view of the mesh from its nodes' events. Pure.

It understands what `lattica node --json` says: `ready` (peer_id, addrs), `peer_connected`
(peer_id, addr, direction) and `peer_disconnected` (peer_id, reason).
"""

from __future__ import annotations

import ipaddress
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
    lost: int = 0


class Mesh:
    """Fed with the events of all nodes."""

    def __init__(self) -> None:
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
            case "peer_connected":
                self._connected(program, member, event)
            case "peer_disconnected":
                peer = str(event.get("peer_id", ""))
                if member.links.pop(peer, None) is None:
                    self.complaints.append(f"{program}: lost {self.name(peer)}, which it had not")
                member.lost += 1

    def _connected(self, program: str, member: _Member, event: Event) -> None:
        peer, addr = str(event.get("peer_id", "")), str(event.get("addr", ""))
        if peer in member.links:
            self.complaints.append(f"{program}: connected to {self.name(peer)} twice")
        path = Path(program, peer, path_kind(addr), addr, float(event.get("t", 0.0)))
        member.links[peer] = path
        self.paths.append(path)
        if event.get("direction") == "inbound" and path.kind.startswith("direct"):
            observed = self._observed.setdefault(peer, [])
            plain = addr.split("/p2p/")[0]
            if plain not in observed:
                observed.append(plain)

    def forget(self, program: str) -> None:
        """The program has ended: it is connected to nobody, and says nothing of it."""
        if program in self._members:
            self._members[program].links.clear()

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
        suffix = f"/p2p/{member.peer_id}"
        found += [addr + suffix for addr in self._observed.get(member.peer_id, ())]
        return list(dict.fromkeys(found))

    def link(self, program: str, other: str) -> Path | None:
        """The connection that `program` or `other` says they have now."""
        for one, two in ((program, other), (other, program)):
            member, peer = self._members.get(one), self.peer_id(two)
            if member is not None and peer is not None and peer in member.links:
                return member.links[peer]
        return None

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
        return other in self.neighbours(program) and program in self.neighbours(other)

    def neighbours(self, program: str) -> set[str]:
        """The names of those that `program` says it is connected to."""
        member = self._members.get(program)
        return {self.name(peer) for peer in member.links} if member else set()

    def losses(self, program: str) -> int:
        """How many connections it has lost so far."""
        member = self._members.get(program)
        return member.lost if member else 0

    def used_paths(self) -> list[Path]:
        """Every pair's latest connection of each kind, with names of programs."""
        latest: dict[tuple[str, str, str], Path] = {}
        for path in self.paths:
            target = self.name(path.target)
            one, two = sorted((path.source, target))
            latest[one, two, path.kind] = Path(one, two, path.kind, path.addr, path.t)
        return list(latest.values())
