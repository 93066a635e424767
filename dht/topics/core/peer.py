"""What is known of a connected peer and of a topic."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import IntEnum

from lattica.nat.base.keys.peer_id import PeerId

MAX_BACKOFFS = 4096
"""Peers of a topic whose backoff is remembered."""


class Version(IntEnum):
    """What a peer speaks, oldest first."""

    V10 = 10
    V11 = 11
    V12 = 12


@dataclass(slots=True)
class TopicStats:
    """How a peer behaves in one of our topics. Counters decay; see :class:`ScoreConfig`."""

    mesh_since: float | None = None
    first: float = 0.0
    delivered: float = 0.0
    """Messages of others, while it is in the mesh."""
    own: float = 0.0
    failures: float = 0.0
    invalid: float = 0.0


@dataclass(slots=True, eq=False)
class PeerState:
    """A connected peer. Everything in it is bounded."""

    peer_id: PeerId
    version: Version
    outbound: bool
    """This node has dialed it."""
    network: Hashable
    """What is counted as one network; None: not counted."""
    key: bytes = b""
    """Its ID as it is in messages."""
    topics: set[str] = field(default_factory=set)
    stats: dict[str, TopicStats] = field(default_factory=dict)
    """By topic of ours."""
    breaches: float = 0.0
    app: float = 0.0
    score: float = 0.0
    """As of the last time it was computed."""
    vouched: int = 0
    """Messages of its own that it has brought and that were signed by it."""
    ihaves: int = 0
    """RPCs with IHAVE in this heartbeat, as those that follow."""
    asked: int = 0
    idontwants: int = 0
    answered: int = 0
    nuisance: float = 0.0
    """What it has cost to read what it says of subscriptions, messages and the mesh, in frames that
    carry nothing; whoever reads it takes it."""
    unwanted: dict[bytes, None] = field(default_factory=dict)
    """IDs that it has and does not want."""
    unwanted_before: dict[bytes, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = self.peer_id.to_bytes()

    def wants(self, message_id: bytes) -> bool:
        """Whether it has not said that it has the message."""
        return message_id not in self.unwanted and message_id not in self.unwanted_before


@dataclass(slots=True, eq=False)
class TopicState:
    """A topic that this node has subscribed to, or publishes to."""

    name: str
    raw: bytes
    subscribed: bool = False
    validating: bool = False
    """Its messages go through a validator."""
    fleeting: bool = False
    """Its messages are true for a moment only: who was away is not told of those of others."""
    peers: dict[PeerId, PeerState] = field(default_factory=dict)
    """Connected peers that have subscribed."""
    mesh: dict[PeerId, PeerState] = field(default_factory=dict)
    fanout: dict[PeerId, PeerState] = field(default_factory=dict)
    """To whom messages of ours go while it is not subscribed to."""
    published_at: float = 0.0
    backoff: dict[PeerId, float] = field(default_factory=dict)
    """Until when a peer is not grafted."""
    activity: float = 0.0
    """Messages, counted with a decay."""

    def set_backoff(self, peer_id: PeerId, until: float) -> None:
        """Keep the later time; of more than :data:`MAX_BACKOFFS` the oldest is forgotten."""
        until = max(until, self.backoff.pop(peer_id, 0.0))
        self.backoff[peer_id] = until
        if len(self.backoff) > MAX_BACKOFFS:
            del self.backoff[next(iter(self.backoff))]
