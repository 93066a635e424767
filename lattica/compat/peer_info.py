"""What `get_peer_info` returns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from lattica.nat.swarm.status import PeerStatus


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A connected peer, with the fields that the original has."""

    peer_id: str
    protocol_version: str
    agent_version: str
    protocols: tuple[str, ...]
    listen_addresses: tuple[str, ...]
    """Without the peer's ID."""
    addresses: tuple[str, ...]
    """With it."""
    last_seen: float
    """Wall clock, seconds: now, as it is connected."""
    rtt_ms: float | None
    """Milliseconds."""
    decay_3: float | None
    """Mean of the last round trips there; here the shortest, as `rtt_ms`."""
    decay_10: float | None
    failures: int = 0
    failure_rate: float = 0.0

    @classmethod
    def of(cls, status: PeerStatus, addrs: Sequence[str], protocols: Sequence[str]) -> Self:
        """From what the node knows."""
        rtts = [each.rtt for each in status.connections if each.rtt is not None]
        rtt_ms = min(rtts) * 1000 if rtts else None
        return cls(
            peer_id=str(status.peer_id),
            protocol_version=status.protocol_version,
            agent_version=status.agent,
            protocols=tuple(protocols),
            listen_addresses=tuple(addr.rpartition("/p2p/")[0] for addr in addrs),
            addresses=tuple(addrs),
            last_seen=time.time(),
            rtt_ms=rtt_ms,
            decay_3=rtt_ms,
            decay_10=rtt_ms,
        )
