"""The mesh: with which peers whole messages are exchanged, for each topic. Pure.

Source: gossipsub-v1.0.md "Mesh Maintenance", gossipsub-v1.1.md "Backoff", "Peer exchange",
"Outbound Mesh Quotas", "Opportunistic Grafting".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from statistics import median

from lattica.dht.topics.config import TopicsConfig
from lattica.dht.topics.core.actions import Action, Connect, Send
from lattica.dht.topics.core.peer import PeerState, TopicState, Version
from lattica.dht.topics.core.scores import Scores
from lattica.dht.topics.messages import Control, Exchanged, Prune, encode_control
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId, decode_peer_id
from lattica.nat.base.keys.peer_record import open_record

RecordOf = Callable[[PeerId], bytes]
"""A peer's signed record in its envelope; empty where there is none."""

_MAX_BACKOFF = 3600
"""Seconds that a peer may ask for."""
_SLACK = 1.0
"""Seconds that a peer's clock may be ahead: it is grafted so much later than allowed."""
_NAMED = 32
"""Peers named by others that are looked at in a heartbeat, and connected to if there is nothing
wrong with their records."""
_FLOODED = 1024 * 1024
"""Bytes that one's own message may cost to be sent to everybody, and not to the mesh alone."""


class Mesh:
    """Grafts and prunes."""

    def __init__(
        self,
        config: TopicsConfig,
        scores: Scores,
        rng: random.Random,
        record_of: RecordOf,
        is_known: Callable[[PeerId], bool],
    ) -> None:
        self._config = config.mesh
        self._limits = config.score
        self._scores = scores
        self._rng = rng
        self._record_of = record_of
        self._is_known = is_known
        self._ticks = 0
        self._named_by_others = 0

    # --- what peers say ---

    def grafted(
        self, peer: PeerState, topics: Iterable[TopicState], now: float, out: list[Action]
    ) -> None:
        """A peer has this node in its mesh, of topics that are subscribed to."""
        config = self._config
        prunes = []
        for topic in topics:
            if peer.peer_id in topic.mesh:
                continue
            exchange = True
            until = topic.backoff.get(peer.peer_id, 0.0)
            if now < until:
                # Its backoff began when it was pruned; a GRAFT at once is a flood.
                flood = now < until - config.backoff + config.graft_flood
                self._scores.breach(peer, 2.0 if flood else 1.0, now)
                exchange = False
            elif peer.score < 0:
                exchange = False
            elif len(topic.mesh) < config.high or peer.outbound:
                self._take(peer, topic, now)
                continue
            topic.set_backoff(peer.peer_id, now + config.backoff)
            prunes.append(self._prune(peer, topic, exchange=exchange))
        if prunes:
            out.append(Send(peer.peer_id, encode_control(Control(prune=tuple(prunes)))))

    def pruned(
        self, peer: PeerState, topic: TopicState, prune: Prune, now: float, out: list[Action]
    ) -> None:
        """A peer does not have this node in its mesh."""
        self._drop(peer, topic, now)
        backoff = self._config.backoff if prune.backoff is None else prune.backoff
        topic.set_backoff(peer.peer_id, now + min(backoff, _MAX_BACKOFF))
        if peer.score < self._limits.exchange_threshold:
            return
        for exchanged in prune.peers[: self._config.exchanged_peers]:
            if self._named_by_others >= _NAMED:
                return
            self._named_by_others += 1
            peer_id = _checked(exchanged)
            if peer_id is not None and not self._is_known(peer_id):
                out.append(Connect(peer_id, exchanged.record, peer.peer_id))

    # --- joining and leaving ---

    def join(self, topic: TopicState, now: float, out: list[Action]) -> None:
        """The topic is subscribed to: begin with those that have got its messages already."""
        known = [peer for peer in topic.fanout.values() if self._may(peer, topic, now)]
        topic.fanout.clear()
        chosen = known[: self._config.size]
        self._graft(chosen, topic, now, out)
        self._fill(topic, now, out)

    def leave(self, topic: TopicState, now: float, out: list[Action]) -> None:
        """The topic is not subscribed to any more."""
        for peer in list(topic.mesh.values()):
            self._drop(peer, topic, now)
            backoff = self._config.unsubscribe_backoff
            topic.set_backoff(peer.peer_id, now + backoff)
            prune = self._prune(peer, topic, exchange=True, backoff=backoff)
            out.append(Send(peer.peer_id, encode_control(Control(prune=(prune,)))))

    def gone(self, peer: PeerState, topic: TopicState, now: float) -> None:
        """A peer has left the topic, or its connection is lost."""
        self._drop(peer, topic, now)
        topic.fanout.pop(peer.peer_id, None)

    def appeared(self, peer: PeerState, topic: TopicState, now: float, out: list[Action]) -> None:
        """A peer has subscribed: a mesh that is too small does not wait for the heartbeat."""
        if topic.subscribed and len(topic.mesh) < self._config.low and self._may(peer, topic, now):
            self._graft([peer], topic, now, out)

    # --- messages ---

    def recipients(self, topic: TopicState, size: int) -> tuple[PeerId, ...]:
        """To whom a message of this node's goes, of so many bytes."""
        threshold = self._limits.publish_threshold
        config = self._config
        if config.flood_publish and size * len(topic.peers) <= _FLOODED:
            return tuple(peer.peer_id for peer in topic.peers.values() if peer.score >= threshold)
        chosen = topic.mesh if topic.subscribed else topic.fanout
        if len(chosen) < config.size:
            others = [
                peer
                for peer in topic.peers.values()
                if peer.peer_id not in chosen and peer.score >= threshold
            ]
            more = self._rng.sample(others, min(len(others), config.size - len(chosen)))
            if not topic.subscribed:
                topic.fanout.update((peer.peer_id, peer) for peer in more)
            return (*chosen, *(peer.peer_id for peer in more if peer.peer_id not in chosen))
        return tuple(chosen)

    # --- the heartbeat ---

    def heartbeat(self, topics: Iterable[TopicState], now: float, out: list[Action]) -> None:
        self._ticks += 1
        self._named_by_others = 0
        grafts: dict[PeerId, list[str]] = {}
        for topic in topics:
            for peer_id in [key for key, until in topic.backoff.items() if until + _SLACK < now]:
                del topic.backoff[peer_id]
            if topic.subscribed:
                self._maintain(topic, now, grafts, out)
            elif topic.fanout and now - topic.published_at > self._config.fanout:
                topic.fanout.clear()
        for peer_id, names in grafts.items():
            out.append(Send(peer_id, encode_control(Control(graft=tuple(names)))))

    def _maintain(
        self, topic: TopicState, now: float, grafts: dict[PeerId, list[str]], out: list[Action]
    ) -> None:
        config, mesh = self._config, topic.mesh
        for peer in self._unwanted(topic, now):
            self._remove(peer, topic, now, out, exchange=False)
        if len(mesh) < config.low:
            self._add(self._candidates(topic, now, config.size - len(mesh)), topic, now, grafts)
        if len(mesh) > config.high:
            for peer in self._surplus(topic):
                self._remove(peer, topic, now, out, exchange=True)
        if len(mesh) >= config.low:
            missing = config.outbound - sum(peer.outbound for peer in mesh.values())
            if missing > 0:
                chosen = self._candidates(topic, now, missing, lambda peer: peer.outbound)
                self._add(chosen, topic, now, grafts)
        if self._ticks % config.opportunistic_every == 0 and len(mesh) > 1:
            middle = median(peer.score for peer in mesh.values())
            if middle < self._limits.opportunistic_threshold:
                chosen = self._candidates(
                    topic, now, config.opportunistic_peers, lambda peer: peer.score > middle
                )
                self._add(chosen, topic, now, grafts)

    def _unwanted(self, topic: TopicState, now: float) -> list[PeerState]:
        """Who is pruned for its score: of those that are merely silent as many as can be spared."""
        floor = self._limits.mesh_delivery_floor
        bad = [peer for peer in topic.mesh.values() if peer.score < floor]
        silent = [peer for peer in topic.mesh.values() if floor <= peer.score < 0]
        if silent:
            kept = len(topic.mesh) - len(bad)
            others = self._candidates(topic, now, len(silent))
            bad += silent[: max(kept - self._config.low, 0) + len(others)]
        return bad

    def _surplus(self, topic: TopicState) -> list[PeerState]:
        """Who is pruned: not the best, and not so many outbound ones that too few are left."""
        config = self._config
        peers = list(topic.mesh.values())
        self._rng.shuffle(peers)
        peers.sort(key=lambda peer: peer.score, reverse=True)
        rest = peers[config.best :]
        self._rng.shuffle(rest)
        kept = peers[: config.best]
        missing = config.outbound - sum(peer.outbound for peer in kept)
        # Outbound ones that are needed come first; the sort is stable, so the rest stays random.
        needed = [peer for peer in rest if peer.outbound][: max(0, missing)]
        rest = [*needed, *(peer for peer in rest if peer not in needed)]
        return rest[config.size - config.best :]

    def _fill(self, topic: TopicState, now: float, out: list[Action]) -> None:
        missing = self._config.size - len(topic.mesh)
        self._graft(self._candidates(topic, now, missing), topic, now, out)

    def _candidates(
        self,
        topic: TopicState,
        now: float,
        count: int,
        accept: Callable[[PeerState], bool] = lambda peer: True,
    ) -> list[PeerState]:
        if count <= 0:
            return []
        found = [
            peer
            for peer in topic.peers.values()
            if peer.peer_id not in topic.mesh and self._may(peer, topic, now) and accept(peer)
        ]
        return self._rng.sample(found, min(count, len(found)))

    def _may(self, peer: PeerState, topic: TopicState, now: float) -> bool:
        until = topic.backoff.get(peer.peer_id)
        return peer.score >= 0 and (until is None or now >= until + _SLACK)

    # --- one peer ---

    def _graft(
        self, peers: Iterable[PeerState], topic: TopicState, now: float, out: list[Action]
    ) -> None:
        for peer in peers:
            self._take(peer, topic, now)
            out.append(Send(peer.peer_id, encode_control(Control(graft=(topic.name,)))))

    def _add(
        self,
        peers: Iterable[PeerState],
        topic: TopicState,
        now: float,
        grafts: dict[PeerId, list[str]],
    ) -> None:
        for peer in peers:
            self._take(peer, topic, now)
            grafts.setdefault(peer.peer_id, []).append(topic.name)

    def _take(self, peer: PeerState, topic: TopicState, now: float) -> None:
        topic.mesh[peer.peer_id] = peer
        self._scores.grafted(peer, topic.name, now)

    def _drop(self, peer: PeerState, topic: TopicState, now: float) -> None:
        if topic.mesh.pop(peer.peer_id, None) is not None:
            self._scores.pruned(peer, topic.name, now)

    def _remove(
        self, peer: PeerState, topic: TopicState, now: float, out: list[Action], *, exchange: bool
    ) -> None:
        self._drop(peer, topic, now)
        topic.set_backoff(peer.peer_id, now + self._config.backoff)
        prune = self._prune(peer, topic, exchange=exchange)
        out.append(Send(peer.peer_id, encode_control(Control(prune=(prune,)))))

    def _prune(
        self, peer: PeerState, topic: TopicState, *, exchange: bool, backoff: float | None = None
    ) -> Prune:
        if peer.version < Version.V11:
            return Prune(topic.name)
        named: tuple[Exchanged, ...] = ()
        if exchange:
            others = [
                other for other in topic.peers.values() if other is not peer and other.score >= 0
            ]
            # Those who have not said yet where they are can hardly be reached: they come last.
            known = [other for other in others if self._record_of(other.peer_id)]
            named = self._named(known, self._config.exchanged_peers)
            if len(known) < self._config.exchanged_peers:
                unknown = [other for other in others if other not in known]
                named += self._named(unknown, self._config.exchanged_peers - len(known))
        seconds = self._config.backoff if backoff is None else backoff
        return Prune(topic.name, named, max(1, round(seconds)))

    def _named(self, peers: list[PeerState], count: int) -> tuple[Exchanged, ...]:
        return tuple(
            Exchanged(peer.key, self._record_of(peer.peer_id))
            for peer in self._rng.sample(peers, min(count, len(peers)))
        )


def _checked(exchanged: Exchanged) -> PeerId | None:
    """The peer that is named, if what is said of it can be used."""
    try:
        peer_id = decode_peer_id(exchanged.peer_id)
        if exchanged.record and open_record(exchanged.record).peer_id != peer_id:
            return None
    except RemoteProtocolError:
        return None
    return peer_id
