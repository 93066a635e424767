"""Gossip: which messages peers outside the mesh are told of, ask for, and are asked for. Pure.

Source: gossipsub-v1.0.md "Control Messages", gossipsub-v1.1.md "Adaptive Gossip Dissemination" and
"Spam Protection Measures".
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import chain, islice

from lattica.dht.topics.config import TopicsConfig
from lattica.dht.topics.core.actions import Action, Forward, Send
from lattica.dht.topics.core.history import Asked, Entry, History, Seen
from lattica.dht.topics.core.peer import PeerState, TopicState
from lattica.dht.topics.core.scores import Scores
from lattica.dht.topics.messages import Control, Ihave, decode_rpc, encode_control
from lattica.dht.topics.signing import Authors, Signing, read_message
from lattica.nat.base.keys.peer_id import PeerId

_FLOOD = 10
"""So many times the IHAVEs that are read in a heartbeat are a flood."""
_CHECKS = 256
"""Signatures that are checked in a heartbeat to tell of messages: tens of milliseconds. Of what an
author brings faster than that, those outside the mesh hear from it, or from others."""
_FLEETING = 1.5
"""Seconds for which messages of a fleeting topic are told of: a heartbeat, and a little more."""


class Gossip:
    """Keeps messages for a while, and exchanges with peers the IDs of what they may lack."""

    def __init__(
        self,
        config: TopicsConfig,
        scores: Scores,
        rng: random.Random,
        signing: Signing,
        authors: Authors,
        seen: Seen,
    ) -> None:
        self._config = config.gossip
        self._threshold = config.score.gossip_threshold
        self._scores = scores
        self._rng = rng
        self._signing = signing
        self._authors = authors
        self._seen = seen
        self.history = History(config.gossip)
        self.asked = Asked(config.gossip)
        self._checks = 0
        """Signatures that may yet be checked in this heartbeat."""

    def offer(self, peer: PeerState, topic: TopicState, since: float, out: list[Action]) -> None:
        """Tell a peer what has come since then, and of our own whatever nobody has been sent."""
        if peer.score < self._threshold:
            return
        unsent = self.history.unsent(topic.name)
        missed = () if topic.fleeting else self.history.latest(topic.name, since)
        ids = []
        for entry in chain(missed, (e for e in unsent if topic.fleeting or e.at < since)):
            if entry.source != peer.key and self._vouch(entry):
                self.history.told(entry)
                ids.append(entry.id)
                if len(ids) >= self._config.ids:
                    break
        if ids:
            ihave = Ihave(topic.name, tuple(reversed(ids)))
            out.append(Send(peer.peer_id, encode_control(Control(ihave=(ihave,)))))

    def _vouch(self, entry: Entry) -> bool:
        """Whether a message may be offered; one that is badly signed is dropped."""
        if not entry.verified:
            via = self._authors.get(entry.source)
            claimed = read_message(decode_rpc(entry.rpc).publish[0], via, self._authors)
            entry.verified = self._signing.verify(claimed)
            if not entry.verified:
                self.history.drop(entry)
        return entry.verified

    # --- what peers say ---

    def receive(
        self,
        peer: PeerState,
        control: Control,
        topics: Mapping[str, TopicState],
        now: float,
        out: list[Action],
    ) -> None:
        """What a peer has, what it asks for, and what it is not to be sent."""
        listened = peer.score >= self._threshold
        if control.ihave and listened:
            self._ihave(peer, control.ihave, topics, now, out)
        if control.iwant and listened:
            self._iwant(peer, control.iwant, out)
        if control.idontwant:
            room = self._config.idontwants - peer.idontwants
            taken = control.idontwant[: max(0, room)]
            peer.idontwants += len(taken)
            peer.unwanted.update(dict.fromkeys(taken))

    def _ihave(
        self,
        peer: PeerState,
        ihaves: Iterable[Ihave],
        topics: Mapping[str, TopicState],
        now: float,
        out: list[Action],
    ) -> None:
        wanted: dict[bytes, None] = {}
        peer.ihaves += 1
        if peer.ihaves > self._config.ihaves:
            # One for each topic may come at once after a connection was lost, but no flood of them.
            if peer.ihaves > _FLOOD * self._config.ihaves:
                self._scores.breach(peer, 0.2, now)
            return
        for ihave in ihaves:
            topic = topics.get(ihave.topic)
            if topic is None or not topic.subscribed:
                continue
            for message_id in ihave.ids:
                if message_id not in self._seen and self.asked.is_due(message_id, now):
                    wanted[message_id] = None
        ids = list(islice(wanted, max(0, self._config.ids - peer.asked)))
        if ids:
            peer.asked += len(ids)
            self.asked.ask(peer.peer_id, ids, self._rng.choice(ids), now)
            out.append(Send(peer.peer_id, encode_control(Control(iwant=tuple(ids)))))

    def _iwant(self, peer: PeerState, ids: Iterable[bytes], out: list[Action]) -> None:
        config = self._config
        for message_id in dict.fromkeys(islice(ids, config.ids)):
            entry = self.history.get(message_id)
            if entry is None or not peer.wants(message_id) or not self._vouch(entry):
                continue
            sent = entry.sent.get(peer.peer_id, 0)
            if sent >= config.retransmissions:
                continue
            if peer.answered + len(entry.rpc) > config.answer_bytes:
                return
            peer.answered += len(entry.rpc)
            entry.sent[peer.peer_id] = sent + 1
            out.append(Forward((peer.peer_id,), entry.rpc, entry.own))

    # --- the heartbeat ---

    def settle(self, peers: Mapping[PeerId, PeerState], now: float) -> None:
        """Who has not kept its word is punished; and all may say as much again as before."""
        for peer_id in self.asked.broken(now):
            peer = peers.get(peer_id)
            if peer is not None:
                self._scores.breach(peer, 1.0, now)
        for peer in peers.values():
            peer.ihaves = peer.asked = peer.idontwants = peer.answered = 0
            if peer.unwanted or peer.unwanted_before:
                peer.unwanted_before, peer.unwanted = peer.unwanted, {}

    def heartbeat(self, topics: Iterable[TopicState], now: float, out: list[Action]) -> None:
        """Tell some peers outside the mesh what has come lately."""
        self.history.expire(now)
        self._checks = _CHECKS
        for topic in topics:
            self._tell(topic, now, out)

    def _tell(self, topic: TopicState, now: float, out: list[Action]) -> None:
        config = self._config
        chosen = topic.mesh if topic.subscribed else topic.fanout
        others = [
            peer
            for peer_id, peer in topic.peers.items()
            if peer_id not in chosen and peer.score >= self._threshold
        ]
        if not others:
            return
        window = min(config.window, _FLEETING) if topic.fleeting else config.window
        recent = self.history.latest(topic.name, now - window)
        ids = []
        for entry in islice(recent, 4 * config.ids):
            if not entry.verified:
                if not self._checks:
                    continue
                self._checks -= 1
            if self._vouch(entry):
                ids.append(entry.id)
        if not ids:
            return
        count = min(len(others), max(config.lazy, int(config.factor * len(others))))
        for peer in self._rng.sample(others, count):
            told = ids if len(ids) <= config.ids else self._rng.sample(ids, config.ids)
            ihave = Ihave(topic.name, tuple(told))
            out.append(Send(peer.peer_id, encode_control(Control(ihave=(ihave,)))))
