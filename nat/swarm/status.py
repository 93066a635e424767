"""How peers are reached, as plain data for whoever asks a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr

if TYPE_CHECKING:
    from lattica.nat.mux.connection import Connection, Direction


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One connection to a peer."""

    path: str
    """"relayed", or "direct-" and tcp, quic, ws or wss."""
    addr: Multiaddr
    direction: Direction
    age: float
    """Seconds since it was established."""
    rtt: float | None
    """Shortest round trip seen, seconds; None before the first is measured."""
    streams: int
    cipher: str
    """What encrypts it: "chacha20-poly1305", "aes-256-gcm", or "tls-1.3" of QUIC's choice."""

    @classmethod
    def of(cls, connection: Connection) -> ConnectionStatus:
        """A connection as it is now."""
        return cls(
            connection.path,
            connection.remote_addr,
            connection.direction,
            connection.age,
            connection.rtt,
            connection.stream_count,
            connection.cipher,
        )


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A connected peer; the first connection is the one in use."""

    peer_id: PeerId
    agent: str
    """What it says it runs; empty until it has been identified."""
    connections: tuple[ConnectionStatus, ...]
    protocol_version: str = ""
    """The family of networks that it says it belongs to; empty until it has been identified."""

    @classmethod
    def of(cls, peer_id: PeerId, connections: Sequence[Connection]) -> PeerStatus:
        """A peer with these connections, as they are now."""
        return cls(
            peer_id,
            next((each.agent for each in connections if each.agent), ""),
            tuple(map(ConnectionStatus.of, connections)),
            next((each.protocol_version for each in connections if each.protocol_version), ""),
        )


@dataclass(frozen=True, slots=True)
class StrategyReport:
    """What came of one strategy for a direct connection, the last time it was tried."""

    name: str
    ok: bool
    reason: str
    """Why not; empty if it worked."""
    applicable: bool = True
    """Whether it can work for this pair of peers at all."""


@dataclass(frozen=True, slots=True)
class AvoidedPath:
    """An address of a peer at which a connection came about and then carried nothing."""

    addr: Multiaddr
    reason: str
    times: int
    """How often in a row."""
    seconds_left: float
    """For which it is tried last."""


@dataclass(frozen=True, slots=True)
class PathStatus:
    """How a connected peer is reached, and why not in a better way."""

    path: str
    """"relayed", or "direct-" and tcp, quic, ws or wss."""
    addr: Multiaddr
    relay: PeerId | None
    """In the middle of a relayed path."""
    age: float
    """Seconds since it was established."""
    rtt: float | None
    """Shortest round trip seen, seconds."""
    ways: tuple[StrategyReport, ...]
    """What the last attempt at a direct path came to; empty where none was needed."""
    next_attempt: float | None
    """Seconds until the next one; None if there is none unless something changes."""
    avoided: tuple[AvoidedPath, ...] = ()
    """What connects and does not carry, so that it is tried last."""
