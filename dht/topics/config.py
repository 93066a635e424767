"""Settings of topics: the mesh, gossip, scores and limits. Times in seconds.

Sources: gossipsub-v1.0.md "Parameters", gossipsub-v1.1.md "Overview of New Parameters", v1.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lattica.nat.base.checks import require, require_seconds

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """How many peers a node exchanges whole messages with, for each topic."""

    size: int = 8
    """Peers in the mesh (D)."""
    low: int = 6
    """Fewer are added to (D_low)."""
    high: int = 12
    """More are pruned (D_high)."""
    best: int = 5
    """Of those that stay then, so many are the best by score (D_score)."""
    outbound: int = 2
    """Peers in the mesh that this node has dialed, so that strangers cannot fill it (D_out)."""
    heartbeat: float = 1.0
    """Between two looks at all that."""
    backoff: float = 60.0
    """For which a peer that was pruned is not grafted again, on either side."""
    unsubscribe_backoff: float = 10.0
    """The same after leaving the topic."""
    graft_flood: float = 10.0
    """A GRAFT so soon after a PRUNE counts twice as misbehaviour."""
    fanout: float = 60.0
    """How long it is remembered to whom messages go of a topic that is not subscribed to."""
    opportunistic_every: int = 60
    """Heartbeats after which peers of a mesh with a bad median score get better company."""
    opportunistic_peers: int = 2
    flood_publish: bool = True
    """One's own messages go to everybody in the topic with a good score, and not to the mesh
    alone."""
    exchanged_peers: int = 16
    """Peers named in a PRUNE (peer exchange), and taken from one."""

    def __post_init__(self) -> None:
        require(0 < self.low <= self.size <= self.high, "size", "`low` to `high`", self.size)
        require(0 <= self.best <= self.size, "best", "0 to `size`", self.best)
        holds = 0 <= self.outbound < self.low and self.outbound <= self.size // 2
        require(holds, "outbound", "below `low`, and at most half of `size`", self.outbound)
        for name in ("heartbeat", "backoff", "unsubscribe_backoff", "graft_flood", "fanout"):
            require_seconds(name, getattr(self, name))
        for name in ("opportunistic_every", "opportunistic_peers", "exchanged_peers"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))


@dataclass(frozen=True, slots=True)
class GossipConfig:
    """What is told of messages beside the mesh, and how long they are kept for those who ask."""

    lazy: int = 6
    """Peers outside the mesh that are told of recent messages at each heartbeat (D_lazy)."""
    factor: float = 0.25
    """If this part of them is more, so many are told."""
    window: float = 3.0
    """How recent."""
    history: float = 120.0
    """How long messages are kept for peers that ask for them: one that was away for a moment is
    told what it has missed."""
    history_bytes: int = 16 * MIB
    """Bytes of messages kept, of all topics; the oldest go first."""
    seen: float = 120.0
    """How long a message is recognized, at least; fewer when there are more than
    `seen_messages`."""
    seen_messages: int = 131072
    ids: int = 5000
    """Message IDs that are told to a peer, and asked of one, in a heartbeat."""
    ihaves: int = 10
    """IHAVEs of a peer that are read in a heartbeat."""
    idontwants: int = 1000
    """IDs of IDONTWANT that are taken of a peer in a heartbeat."""
    idontwant_size: int = KIB
    """Bytes of a message from which on others are told that it has arrived (IDONTWANT)."""
    retransmissions: int = 3
    """How often a message is sent to a peer that asks for it."""
    answer_bytes: int = 8 * MIB
    """Bytes that are sent to a peer that asks for messages, in a heartbeat."""
    follow_up: float = 3.0
    """A message that was asked for and has not come in this time is a broken promise."""
    ask_again: float = 0.6
    """A message is asked of one peer at a time; after this of another one that offers it."""

    def __post_init__(self) -> None:
        for name in ("window", "history", "seen", "follow_up", "ask_again"):
            require_seconds(name, getattr(self, name))
        for name in (
            "history_bytes",
            "seen_messages",
            "ids",
            "ihaves",
            "idontwants",
            "retransmissions",
            "answer_bytes",
        ):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.lazy >= 0, "lazy", "at least 0", self.lazy)
        require(0 <= self.factor <= 1, "factor", "0 to 1", self.factor)
        require(self.idontwant_size >= 0, "idontwant_size", "at least 0", self.idontwant_size)


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """What peers are judged by (P1 to P7 of gossipsub-v1.1.md "Peer Scoring"). Weights below 0 are
    penalties. Counters are multiplied with their decay each `interval`."""

    interval: float = 1.0
    forget_below: float = 0.01
    """A counter below it is 0."""
    retain: float = 600.0
    """How long the score of a peer that is gone is kept, if it is bad."""
    retained: int = 4096
    """Peers of which it is kept."""
    topic_cap: float = 100.0
    """The most that good conduct in topics is worth."""

    mesh_time_weight: float = 0.01
    """P1, for each second in the mesh."""
    mesh_time_cap: float = 300.0
    first_weight: float = 1.0
    """P2, for each message that a peer was the first to bring."""
    first_decay: float = 0.98
    first_cap: float = 50.0
    mesh_delivery_weight: float = -1.0
    """P3, for the square of what is missing of the messages that a peer in the mesh should have
    brought."""
    mesh_delivery_decay: float = 0.98
    mesh_delivery_share: float = 0.01
    """How many that are: this part of all messages of the topic, counted with the same decay, but
    at most `mesh_delivery_threshold`. Nothing is missing in a topic in which nothing happens."""
    mesh_delivery_threshold: float = 10.0
    mesh_delivery_cap: float = 200.0
    mesh_delivery_floor: float = -1.0
    """What a peer is worth at least that is merely silent (P3 and P3b): another takes its place in
    the mesh if there is one, and it is told of messages all the same."""
    mesh_delivery_window: float = 0.05
    """A message counts that comes this soon after the first copy of it."""
    mesh_delivery_activation: float = 10.0
    """How long a peer is in the mesh before it is judged by that."""
    failure_weight: float = -1.0
    """P3b, what was missing when a peer was pruned."""
    failure_decay: float = 0.98
    invalid_weight: float = -5.0
    """P4, for the square of the messages that were refused."""
    invalid_decay: float = 0.99
    app_weight: float = 1.0
    """P5, for the score that the application gives."""
    network_weight: float = -5.0
    """P6, for the square of how many more peers than `network_peers` come from one network."""
    network_peers: int = 32
    behaviour_weight: float = -10.0
    """P7, for the square of breaches of the protocol beyond `behaviour_threshold`."""
    behaviour_threshold: float = 6.0
    behaviour_decay: float = 0.99

    gossip_threshold: float = -10.0
    """Below it nothing is told to a peer, and nothing it tells is asked for."""
    publish_threshold: float = -20.0
    """Below it one's own messages are not sent to it."""
    graylist_threshold: float = -40.0
    """Below it nothing that it sends is read."""
    exchange_threshold: float = 5.0
    """From it on peers that it names in a PRUNE are connected to."""
    opportunistic_threshold: float = 1.0
    """A mesh whose median is below it is looked for better peers."""

    def __post_init__(self) -> None:
        for name in ("interval", "retain", "mesh_delivery_window", "mesh_delivery_activation"):
            require_seconds(name, getattr(self, name))
        for name in (
            "first_decay",
            "mesh_delivery_decay",
            "failure_decay",
            "invalid_decay",
            "behaviour_decay",
        ):
            require(0 < getattr(self, name) < 1, name, "between 0 and 1", getattr(self, name))
        for name in ("mesh_time_weight", "first_weight", "app_weight"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in (
            "mesh_delivery_weight",
            "failure_weight",
            "invalid_weight",
            "network_weight",
            "behaviour_weight",
        ):
            require(getattr(self, name) <= 0, name, "at most 0", getattr(self, name))
        order = (self.graylist_threshold, self.publish_threshold, self.gossip_threshold, 0.0)
        require(
            list(order) == sorted(order) and all(map(math.isfinite, order)),
            "graylist_threshold",
            "at most `publish_threshold`, that at most `gossip_threshold`, that at most 0",
            self.graylist_threshold,
        )
        require(
            self.gossip_threshold <= self.mesh_delivery_floor < 0,
            "mesh_delivery_floor",
            "below 0, and at least `gossip_threshold`",
            self.mesh_delivery_floor,
        )
        require(self.network_peers >= 1, "network_peers", "at least 1", self.network_peers)


@dataclass(frozen=True, slots=True)
class TopicsConfig:
    """What a node does for its topics, and what peers may take of it."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    max_topics_per_peer: int = 1024
    """Topics of a peer that are remembered; further subscriptions count as breaches."""
    outbox: int = MIB
    """Bytes that wait for a peer; a publisher waits when there are more, and what others have
    published is left out."""
    stuck_after: float = 5.0
    """A peer that takes nothing for so long holds up no publisher: it is told what it has missed
    when it goes on."""
    queue: int = 4096
    """Messages that wait for a subscriber; then peers are not read from."""
    lagging_after: float = 1.0
    """A subscriber that takes nothing for so long holds up nobody: it loses messages, and is told
    how many."""
    validating: int = 256
    """Messages of a topic that are with its validator at a time; further ones are ignored."""
    validate_timeout: float = 10.0
    """A validator that takes longer has ignored the message."""

    def __post_init__(self) -> None:
        for name in ("max_topics_per_peer", "outbox", "queue", "validating"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("stuck_after", "lagging_after", "validate_timeout"):
            require_seconds(name, getattr(self, name))
