"""What there is to be told of the connections of ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from lattica.nat.base.keys.identity import PeerId


class Side(Enum):
    """At which end of a connection this node is."""

    EXPOSE = "expose"
    """It has the service."""
    FORWARD = "forward"
    """It has the client."""


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """A client is connected with a service."""

    side: Side
    id: int
    """Counted from 1, for this process; :class:`ConnectionClosed` has the same."""
    port: str
    """The port's name."""
    peer_id: PeerId
    local: str
    """The client's address, or that of the service."""
    path: str
    """How the peer is reached: "relayed", or "direct-" and tcp, quic, ws or wss."""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """Such a connection is over."""

    side: Side
    id: int
    port: str
    peer_id: PeerId
    local: str
    path: str
    bytes_to_peer: int
    bytes_from_peer: int
    seconds: float
    """How long it lasted."""
    reason: str
    """In words: "closed" when both sides had ended it in good order."""


@dataclass(frozen=True, slots=True)
class ConnectionRefused:
    """A client, here or at a peer, could not be connected with a service."""

    side: Side
    port: str
    peer_id: PeerId
    reason: str
    """In words."""


PortEvent: TypeAlias = ConnectionOpened | ConnectionClosed | ConnectionRefused
PortCallback: TypeAlias = Callable[[PortEvent], object]
