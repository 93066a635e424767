"""What happens at a relay, for those who run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.traversal.relay.messages import Status


@dataclass(frozen=True, slots=True)
class ReservationMade:
    """A peer can be reached through this relay, or goes on to be (`renewed`)."""

    peer_id: PeerId
    lifetime: float
    """Seconds."""
    renewed: bool


@dataclass(frozen=True, slots=True)
class ReservationEnded:
    """A peer can be reached through this relay no more."""

    peer_id: PeerId
    reason: str
    is_withdrawn: bool = False
    """It is not served any more, which nobody has told it."""


@dataclass(frozen=True, slots=True)
class CircuitOpened:
    """`source` is connected to `target` through this relay."""

    source: PeerId
    target: PeerId


@dataclass(frozen=True, slots=True)
class CircuitClosed:
    """A circuit that was open has ended."""

    source: PeerId
    target: PeerId
    bytes_from_source: int
    bytes_from_target: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer did not get what it asked for; `target` is set if that was a circuit."""

    peer_id: PeerId
    target: PeerId | None
    status: Status
    reason: str
    limit: str = ""
    """The setting whose limit was hit; empty if it was none."""


RelayEvent: TypeAlias = ReservationMade | ReservationEnded | CircuitOpened | CircuitClosed | Refused
