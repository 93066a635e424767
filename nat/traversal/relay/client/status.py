"""What is told about the relays that a node uses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.relay.messages import Limit


class Source(Enum):
    """How a relay became known."""

    CONFIGURED = "configured"
    BOOTSTRAP = "bootstrap"
    DISCOVERED = "discovered"


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """One relay, as things stand."""

    relay: PeerId
    source: Source
    addrs: tuple[Multiaddr, ...]
    """Where it is, as far as known; without `/p2p/ID`."""
    path: str
    """As :attr:`lattica.nat.mux.connection.Connection.path`; empty when not connected."""
    rtt: float | None
    """Shortest round trip, seconds; None where it is not measured."""
    chosen: bool
    """This node wants a reservation here; others are in reserve."""
    reserved_until: float | None
    """Unix time, seconds; None without a reservation."""
    limit: Limit | None
    """What the relay allows each circuit, as it says; None: no limit."""
    last_error: str
    """What went wrong last; empty when all is well."""
    clock_offset: float | None = None
    """Seconds by which its clock is ahead of this machine's, as far as that is known."""
