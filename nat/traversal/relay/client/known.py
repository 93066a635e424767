"""What the client knows of a relay."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.backoff import Backoff
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection
from lattica.nat.traversal.relay.client.reservations import Reserving
from lattica.nat.traversal.relay.client.status import Source
from lattica.nat.traversal.relay.messages import Limit


@dataclass(slots=True, eq=False)
class KnownRelay:
    """A relay that could be used, and what is going on with it."""

    relay: PeerId
    source: Source
    reserving: Reserving
    dialing: Backoff
    tcp: Backoff
    addrs: list[Multiaddr] = field(default_factory=list)
    """Where to dial it; empty if that is the business of others."""
    connection: Connection | None = None
    """The direct one, when last looked at."""
    leaving: Connection | None = None
    """That on which it has said that it is about to stop."""
    chosen: bool = False
    advertised: tuple[Multiaddr, ...] = ()
    """Its addresses, as it says."""
    limit: Limit | None = None
    clock_offset: float | None = None
    """Seconds by which its clock is ahead of ours, as far as that is known."""
    dial_error: str = ""
    hurry_until: float = -math.inf
    """Until when it is dialed often, as a place there was lost."""
    turns_away: bool = False
    """It was reached when last tried, and did not keep the connection; or another peer was."""
    jobs: set[str] = field(default_factory=set)
    """What is being done just now."""

    @property
    def rtt(self) -> float | None:
        """Seconds, as far as it is known."""
        return None if self.connection is None else self.connection.session.rtt
