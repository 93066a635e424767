"""What peers are worth to this node, from what they have done (P1 to P7). Pure.

Source: gossipsub-v1.1.md "Peer Scoring". Two things are not in it: what a peer in the mesh should
have delivered (P3) is a part of what has been delivered, so that no rate has to be guessed; and
what it says itself is not of that, as it would make up for passing nothing on.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from lattica.dht.topics.config import ScoreConfig
from lattica.dht.topics.core.peer import PeerState, TopicState, TopicStats
from lattica.nat.base.keys.peer_id import PeerId

_FRESH = 16384
"""Messages of which it is known who has brought them."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """The bad name of a peer that has gone."""

    until: float
    stats: dict[str, TopicStats]
    breaches: float
    app: float


class Scores:
    """The scores of all connected peers, and the bad ones of those that have left."""

    def __init__(self, config: ScoreConfig, topics: dict[str, TopicState]) -> None:
        self._config = config
        self._topics = topics
        self._networks: dict[Hashable, int] = {}
        self._kept: OrderedDict[PeerId, _Kept] = OrderedDict()
        self._fresh: dict[bytes, tuple[float, set[PeerId]]] = {}
        """When the latest messages came first, and who has brought them: each counts once."""
        self._decayed_at = 0.0

    # --- peers ---

    def add(self, peer: PeerState, now: float) -> None:
        """A peer has connected; if it is known, as what."""
        if peer.network is not None:
            self._networks[peer.network] = self._networks.get(peer.network, 0) + 1
        kept = self._kept.pop(peer.peer_id, None)
        if kept is not None and kept.until > now:
            peer.stats, peer.breaches, peer.app = kept.stats, kept.breaches, kept.app
        self.update(peer, now)

    def remove(self, peer: PeerState, now: float) -> None:
        """A peer has gone: its good name with it, but not its bad one."""
        for topic in peer.stats:
            self.pruned(peer, topic, now)
        self.update(peer, now)
        if peer.network is not None:
            self._networks[peer.network] -= 1
            if not self._networks[peer.network]:
                del self._networks[peer.network]
        if peer.score < 0:
            for stats in peer.stats.values():
                stats.first = 0.0
            until = now + self._config.retain
            self._kept[peer.peer_id] = _Kept(until, peer.stats, peer.breaches, peer.app)
            if len(self._kept) > self._config.retained:
                self._kept.popitem(last=False)

    # --- what they do ---

    def stats(self, peer: PeerState, topic: str) -> TopicStats:
        """Of a topic of ours."""
        found = peer.stats.get(topic)
        if found is None:
            found = peer.stats[topic] = TopicStats()
        return found

    def grafted(self, peer: PeerState, topic: str, now: float) -> None:
        stats = self.stats(peer, topic)
        stats.mesh_since, stats.delivered = now, 0.0

    def pruned(self, peer: PeerState, topic: str, now: float) -> None:
        stats = self.stats(peer, topic)
        missing = self._missing(topic, stats, now)
        stats.failures += missing * missing
        stats.mesh_since = None

    def arrived(self, peer: PeerState, message_id: bytes, now: float) -> None:
        """It has brought a message that is new, and that others may bring, too."""
        fresh = self._fresh
        oldest = now - self._config.mesh_delivery_window
        while fresh and (len(fresh) >= _FRESH or fresh[next(iter(fresh))][0] < oldest):
            del fresh[next(iter(fresh))]
        fresh[message_id] = now, {peer.peer_id}

    def first_delivery(self, peer: PeerState, topic: TopicState, *, is_own: bool) -> None:
        """It was the first to bring a message; `is_own`: which it has written itself."""
        topic.activity += 1.0
        stats = self.stats(peer, topic.name)
        stats.first = min(self._config.first_cap, stats.first + 1.0)
        self._delivered(stats, is_own)

    def duplicate(
        self, peer: PeerState, topic: str, message_id: bytes, now: float, *, is_own: bool
    ) -> None:
        """It has brought a message that others have brought before."""
        stats = peer.stats.get(topic)
        at, brought = self._fresh.get(message_id, (-math.inf, set()))
        late = now - at
        if stats is None or late > self._config.mesh_delivery_window or peer.peer_id in brought:
            return
        brought.add(peer.peer_id)
        self._delivered(stats, is_own)

    def _delivered(self, stats: TopicStats, is_own: bool) -> None:
        if is_own:
            stats.own += 1.0
        elif stats.mesh_since is not None:
            stats.delivered = min(self._config.mesh_delivery_cap, stats.delivered + 1.0)

    def invalid(self, peer: PeerState, topic: str, now: float) -> None:
        """It has brought a message that was refused."""
        self.stats(peer, topic).invalid += 1.0
        self.update(peer, now)

    def breach(self, peer: PeerState, count: float, now: float) -> None:
        """It has broken the protocol."""
        peer.breaches += count
        self.update(peer, now)

    # --- what they are worth ---

    def decay(self, peers: Iterable[PeerState], now: float) -> None:
        """Let counters fade, if it is time, and compute all scores anew."""
        config = self._config
        steps = int((now - self._decayed_at) / config.interval) if self._decayed_at else 1
        if steps > 0:
            self._decayed_at = now
            rates = (
                config.first_decay**steps,
                config.mesh_delivery_decay**steps,
                config.failure_decay**steps,
                config.invalid_decay**steps,
            )
            least = config.forget_below
            for topic in self._topics.values():
                topic.activity *= rates[1]
            for peer in peers:
                for name in [name for name in peer.stats if name not in self._topics]:
                    del peer.stats[name]
                for stats in peer.stats.values():
                    stats.first = _faded(stats.first, rates[0], least)
                    stats.delivered = _faded(stats.delivered, rates[1], least)
                    stats.own = _faded(stats.own, rates[1], least)
                    stats.failures = _faded(stats.failures, rates[2], least)
                    stats.invalid = _faded(stats.invalid, rates[3], least)
                peer.breaches = _faded(peer.breaches, config.behaviour_decay**steps, least)
        for peer in peers:
            self.update(peer, now)

    def update(self, peer: PeerState, now: float) -> None:
        """Compute a peer's score."""
        config = self._config
        good = missed = bad = 0.0
        for name, stats in peer.stats.items():
            if stats.mesh_since is not None:
                time = min(now - stats.mesh_since, config.mesh_time_cap)
                good += config.mesh_time_weight * time
                missing = self._missing(name, stats, now)
                missed += config.mesh_delivery_weight * missing * missing
            good += config.first_weight * stats.first
            missed += config.failure_weight * stats.failures
            bad += config.invalid_weight * stats.invalid * stats.invalid
        # Who hears everything from this node has nothing to bring, and is as silent as one that
        # drops it: it is among the last to be in the mesh, and told of messages all the same.
        worth = min(good, config.topic_cap)
        if missed:
            worth = max(worth + missed, config.mesh_delivery_floor)
        score = worth + bad + config.app_weight * peer.app
        neighbours = self._networks.get(peer.network, 0) - config.network_peers
        if neighbours > 0:
            score += config.network_weight * neighbours * neighbours
        excess = peer.breaches - config.behaviour_threshold
        if excess > 0:
            score += config.behaviour_weight * excess * excess
        peer.score = score

    def _missing(self, topic: str, stats: TopicStats, now: float) -> float:
        """How many messages a peer in the mesh should have brought and has not."""
        config = self._config
        state = self._topics.get(topic)
        if state is None or stats.mesh_since is None:
            return 0.0
        if now - stats.mesh_since < config.mesh_delivery_activation:
            return 0.0
        others = config.mesh_delivery_share * (state.activity - stats.own)
        expected = min(config.mesh_delivery_threshold, others)
        return max(0.0, expected - stats.delivered) if expected >= 1.0 else 0.0


def _faded(counter: float, rate: float, least: float) -> float:
    counter *= rate
    return counter if counter >= least else 0.0
