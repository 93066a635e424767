"""The services that others expect of every node of libp2p."""

from __future__ import annotations

from lattica.nat.services.identify.service import IdentifyService
from lattica.nat.services.ping import PING, PingService
from lattica.nat.swarm.swarm import Swarm


def serve_standard(swarm: Swarm) -> IdentifyService:
    """Have a swarm, which does not run yet, identify peers, say who it is, and answer pings."""
    identify = IdentifyService(swarm)
    swarm.protocols.handle_all(identify.handlers, owner="identify")
    swarm.protocols.handle(PING, PingService().answer, owner="ping")
    return identify
