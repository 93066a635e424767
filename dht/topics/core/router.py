"""GossipSub as one machine: what peers send, what is published here, and the clock go in; what is
to be sent and delivered comes out. Pure.

Sources: gossipsub-v1.0.md, -v1.1.md and -v1.2.md of https://github.com/libp2p/specs.

What is beyond them: a peer that comes back after its connection was lost is told (IHAVE) what has
come meanwhile, and every peer what of our own nobody has been sent yet. What an author itself
brings, over its own authenticated connection, is its own without a signature; that is for others,
and is checked before a message is passed on or offered. Of messages that go no further, the first
ones of each author are checked, and then one in :data:`SAMPLE`.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum

from lattica.dht.pb import pubsub_pb2 as pb
from lattica.dht.topics.config import TopicsConfig
from lattica.dht.topics.core.actions import (
    Action,
    Deliver,
    Forward,
    Send,
    Subscribed,
    Unsubscribed,
    Validate,
)
from lattica.dht.topics.core.gossip import Gossip
from lattica.dht.topics.core.history import Entry, Seen
from lattica.dht.topics.core.mesh import Mesh, RecordOf
from lattica.dht.topics.core.peer import PeerState, TopicState, Version
from lattica.dht.topics.core.scores import Scores
from lattica.dht.topics.messages import (
    MAX_DATA,
    Control,
    Rpc,
    check_topic,
    decode_rpc,
    encode_control,
    encode_publish,
    encode_subscriptions,
)
from lattica.dht.topics.signing import (
    SEQNO,
    Authors,
    Claimed,
    Signing,
    frame_of,
    read_message,
)
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId

SAMPLE = 16
VOUCHED = 32
"""Messages that an author has to have signed rightly before not all of them are checked."""
UNCERTAIN = 30.0
"""Seconds before a connection is known to be lost in which what was sent may not have arrived."""
_PENDING = 1024
"""Messages that are with validators, of all topics."""
_LOST = 1024
"""Peers whose connection was lost, of which it is remembered when."""
_UNWANTED = 0.25
"""Frames that carry nothing, as which a message of a topic counts that nobody here listens to."""
_AGAIN = 0.25
"""The same, for one that was here before: each peer in the mesh may bring each message."""
_REFUSED = 8.0
"""What a message that is refused has cost, in frames that carry nothing."""
_MALFORMED = 5.0
"""Breaches that an RPC counts for which is none."""


class Verdict(Enum):
    """What an application says of a message."""

    ACCEPT = "accept"
    """It is delivered and passed on."""
    REJECT = "reject"
    """It is dropped, and counts against whoever has brought it."""
    IGNORE = "ignore"
    """It is dropped."""


@dataclass(slots=True, eq=False)
class _Pending:
    claimed: Claimed
    brought: list[PeerState]
    verified: bool


@dataclass(slots=True)
class RouterCounters:
    """What has happened so far, in messages unless it says otherwise."""

    published: int = 0
    delivered: int = 0
    duplicates: int = 0
    invalid: int = 0
    """Badly signed, without what a message must have, or rejected."""
    ignored_rpcs: int = 0
    """RPCs of peers that are not listened to."""
    too_many: int = 0
    """Messages dropped because too many were with validators."""


class Router:
    """A node's side of GossipSub.

    Args:
        peer_id: this node.
        signing: makes and checks messages.
        first_seqno: below every number this node will give and above all it has given: nanoseconds
            since 1970 will do.
        record_of: signed records of peers, for peer exchange.
    """

    def __init__(
        self,
        peer_id: PeerId,
        config: TopicsConfig,
        signing: Signing,
        rng: random.Random,
        *,
        first_seqno: int,
        record_of: RecordOf = lambda peer_id: b"",
    ) -> None:
        self.config = config
        self.counters = RouterCounters()
        self.peers: dict[PeerId, PeerState] = {}
        self.topics: dict[str, TopicState] = {}
        self._subscribed: dict[bytes, TopicState] = {}
        self._peer_id = peer_id
        self._key = peer_id.to_bytes()
        self._signing = signing
        self._rng = rng
        self._seqno = first_seqno
        self._authors = Authors()
        self.scores = Scores(config.score, self.topics)
        self._mesh = Mesh(config, self.scores, rng, record_of, self._is_known)
        self._seen = Seen(config.gossip)
        self._gossip = Gossip(config, self.scores, rng, signing, self._authors, self._seen)
        self._pending: dict[bytes, _Pending] = {}
        self._lost: OrderedDict[PeerId, tuple[float, set[str]]] = OrderedDict()

    def _is_known(self, peer_id: PeerId) -> bool:
        return peer_id in self.peers or peer_id == self._peer_id

    # --- peers ---

    def add_peer(
        self,
        peer_id: PeerId,
        version: Version,
        now: float,
        *,
        outbound: bool = False,
        network: Hashable = None,
    ) -> list[Action]:
        """A connected peer speaks GossipSub; of one that is known already, the version is noted."""
        known = self.peers.get(peer_id)
        if known is not None:
            known.version = version
            return []
        peer = self.peers[peer_id] = PeerState(peer_id, version, outbound, network)
        self.scores.add(peer, now)
        names = [(topic.name, True) for topic in self._subscribed.values()]
        return [Send(peer_id, encode_subscriptions(names))] if names else []

    def remove_peer(self, peer_id: PeerId, now: float) -> list[Action]:
        """A peer is not connected any more."""
        peer = self.peers.pop(peer_id, None)
        if peer is None:
            return []
        out: list[Action] = []
        for name, topic in self.topics.items():
            self._mesh.gone(peer, topic, now)
            if topic.peers.pop(peer_id, None) is not None:
                out.append(Unsubscribed(name, peer_id))
        self._gossip.asked.forgive(peer_id)
        self.scores.remove(peer, now)
        self._lost.pop(peer_id, None)
        self._lost[peer_id] = (now, peer.topics & self.topics.keys())
        if len(self._lost) > _LOST:
            self._lost.popitem(last=False)
        return out

    def breach(self, peer_id: PeerId, now: float) -> None:
        """A peer has sent what is no RPC."""
        peer = self.peers.get(peer_id)
        if peer is not None:
            self.scores.breach(peer, _MALFORMED, now)

    def set_app_score(self, peer_id: PeerId, score: float, now: float) -> None:
        """What the application thinks of a peer (P5)."""
        peer = self.peers.get(peer_id)
        if peer is not None:
            peer.app = score
            self.scores.update(peer, now)

    # --- what this node wants ---

    def topic(self, name: str) -> TopicState:
        """A topic by its name. Raises LocalProtocolError for what is none."""
        found = self.topics.get(name)
        if found is None:
            raw = check_topic(name)
            found = self.topics[name] = TopicState(name, raw)
            found.peers = {
                peer.peer_id: peer for peer in self.peers.values() if name in peer.topics
            }
        return found

    def subscribe(self, name: str, now: float) -> list[Action]:
        """Have messages of a topic delivered, and pass them on."""
        topic = self.topic(name)
        if topic.subscribed:
            return []
        topic.subscribed = True
        self._subscribed[topic.raw] = topic
        out = self._announce(name, True)
        self._mesh.join(topic, now, out)
        return out

    def unsubscribe(self, name: str, now: float) -> list[Action]:
        """Be rid of them."""
        topic = self.topics.get(name)
        if topic is None or not topic.subscribed:
            return []
        topic.subscribed = False
        del self._subscribed[topic.raw]
        out = self._announce(name, False)
        self._mesh.leave(topic, now, out)
        return out

    def _announce(self, name: str, wanted: bool) -> list[Action]:
        rpc = encode_subscriptions([(name, wanted)])
        return [Send(peer_id, rpc) for peer_id in self.peers]

    def publish(self, name: str, data: bytes, now: float) -> tuple[int, list[Action]]:
        """Say something in a topic: to how many peers it goes at once, and what is to be done.

        Where nobody is there it is kept for `GossipConfig.history` seconds, and told to those who
        come. Raises LocalProtocolError for data over :data:`MAX_DATA`.
        """
        if len(data) > MAX_DATA:
            raise LocalProtocolError(
                f"a message has at most {MAX_DATA} bytes, not {len(data)}: publish where it can be "
                "fetched from"
            )
        topic = self.topic(name)
        self._seqno += 1
        message_id = self._key + self._seqno.to_bytes(SEQNO, "big")
        rpc = encode_publish(self._signing.sign(topic.raw, data, self._seqno))
        targets = self._mesh.recipients(topic, len(rpc))
        topic.published_at = now
        self._seen.add(message_id, now)
        entry = Entry(message_id, name, self._key, rpc, now, True, True)
        self._gossip.history.put(entry, unsent=not targets)
        self.counters.published += 1
        return len(targets), [Forward(targets, rpc, True)] if targets else []

    def recipients(self, name: str, size: int) -> tuple[PeerId, ...]:
        """To whom a message of so many bytes would go if it were published now."""
        return self._mesh.recipients(self.topic(name), size)

    def offer_missed(self, peer_id: PeerId, since: float, now: float) -> list[Action]:
        """A peer took nothing since then, and does now: tell it what it has missed."""
        peer = self.peers.get(peer_id)
        out: list[Action] = []
        if peer is not None:
            for name in peer.topics & self.topics.keys():
                self._gossip.offer(peer, self.topics[name], since, out)
        return out

    # --- what peers send ---

    def receive(self, peer_id: PeerId, rpc: bytes, now: float) -> list[Action]:
        """An RPC from a peer.

        Raises:
            RemoteProtocolError: it is none, or over a limit; nothing of it has been done.
        """
        peer = self.peers.get(peer_id)
        if peer is None:
            return []
        if peer.score < self.config.score.graylist_threshold:
            self.counters.ignored_rpcs += 1
            peer.nuisance += 1
            return []
        read = decode_rpc(rpc)
        peer.nuisance += _cost(read)
        out: list[Action] = []
        for name, wanted in dict(read.subscriptions).items():
            self._subscription(peer, name, wanted, now, out)
        if read.publish:
            self._messages(peer, read.publish, now, out)
        if read.control is not None:
            self._control(peer, read.control, now, out)
        return out

    def _subscription(
        self, peer: PeerState, name: str, wanted: bool, now: float, out: list[Action]
    ) -> None:
        topic = self.topics.get(name)
        if not wanted:
            peer.topics.discard(name)
            if topic is not None:
                self._mesh.gone(peer, topic, now)
                if topic.peers.pop(peer.peer_id, None) is not None:
                    out.append(Unsubscribed(name, peer.peer_id))
            return
        if name in peer.topics or not name:
            return
        if len(peer.topics) >= self.config.max_topics_per_peer:
            self.scores.breach(peer, 0.1, now)
            return
        peer.topics.add(name)
        if topic is None:
            return
        topic.peers[peer.peer_id] = peer
        out.append(Subscribed(name, peer.peer_id))
        self._mesh.appeared(peer, topic, now, out)
        lost_at, names = self._lost.get(peer.peer_id, (now, set()))
        since = math.inf
        if name in names:
            since = lost_at - UNCERTAIN
            names.remove(name)  # it is told once, however often it leaves and comes back
        self._gossip.offer(peer, topic, since, out)

    def _messages(
        self, peer: PeerState, messages: Iterable[pb.Message], now: float, out: list[Action]
    ) -> None:
        size = self.config.gossip.idontwant_size
        arrived: dict[str, list[bytes]] = {}
        for raw in messages:
            topic = self._subscribed.get(raw.topic)
            if topic is None:  # as one that was left just now
                peer.nuisance += _UNWANTED
                continue
            try:
                claimed = read_message(raw, peer.peer_id, self._authors)
            except RemoteProtocolError:
                self._refuse((peer,), topic.name, now)
                continue
            if claimed.message.source == self._peer_id:
                continue
            if claimed.id in self._seen:
                self._again(peer, topic, claimed, now)
                continue
            targets = self._targets(topic, claimed, (peer,))
            verified = False
            if targets or not self._is_trusted(peer, claimed):
                if not self._signing.verify(claimed):
                    self._refuse((peer,), topic.name, now)
                    continue
                verified = True
                if claimed.message.source == peer.peer_id:
                    peer.vouched += 1
            self._seen.add(claimed.id, now)
            if len(topic.mesh) > 1:
                self.scores.arrived(peer, claimed.id, now)
            if self._gossip.asked:
                self._gossip.asked.came(claimed.id)
            if len(claimed.message.data) >= size and len(topic.mesh) > 1:
                arrived.setdefault(topic.name, []).append(claimed.id)
            if not topic.validating:
                self._accept(topic, claimed, targets, (peer,), verified, now, out)
            elif len(self._pending) < _PENDING:
                self._pending[claimed.id] = _Pending(claimed, [peer], verified)
                out.append(Validate(claimed.message, claimed.id))
            else:
                self.counters.too_many += 1
        for name, ids in arrived.items():
            rpc = encode_control(Control(idontwant=tuple(ids)))
            for other in self.topics[name].mesh.values():
                if other is not peer and other.version >= Version.V12:
                    out.append(Send(other.peer_id, rpc))

    def _is_trusted(self, peer: PeerState, claimed: Claimed) -> bool:
        """Whether a message that goes no further is known to be its author's."""
        return (
            claimed.message.source == peer.peer_id
            and peer.vouched >= VOUCHED
            and self._rng.random() * SAMPLE >= 1.0
        )

    def _targets(
        self, topic: TopicState, claimed: Claimed, brought: Iterable[PeerState]
    ) -> list[PeerState]:
        source = claimed.message.source
        return [
            peer
            for peer_id, peer in topic.mesh.items()
            if peer not in brought and peer_id != source and peer.wants(claimed.id)
        ]

    def _accept(
        self,
        topic: TopicState,
        claimed: Claimed,
        targets: list[PeerState],
        brought: Iterable[PeerState],
        verified: bool,
        now: float,
        out: list[Action],
    ) -> None:
        for peer in brought:
            is_own = claimed.message.source == peer.peer_id
            self.scores.first_delivery(peer, topic, is_own=is_own)
            break
        rpc = frame_of(claimed)
        source = claimed.message.source.to_bytes()
        self._gossip.history.put(Entry(claimed.id, topic.name, source, rpc, now, False, verified))
        if targets:
            out.append(Forward(tuple(peer.peer_id for peer in targets), rpc, False))
        self.counters.delivered += 1
        out.append(Deliver(claimed.message))

    def _again(self, peer: PeerState, topic: TopicState, claimed: Claimed, now: float) -> None:
        self.counters.duplicates += 1
        peer.nuisance += _AGAIN
        pending = self._pending.get(claimed.id)
        if pending is not None and peer not in pending.brought:
            pending.brought.append(peer)
        self._seen.again(claimed.id, now)
        is_own = claimed.message.source == peer.peer_id
        self.scores.duplicate(peer, topic.name, claimed.id, now, is_own=is_own)

    def _refuse(self, brought: Iterable[PeerState], topic: str, now: float) -> None:
        self.counters.invalid += 1
        for peer in brought:
            peer.nuisance += _REFUSED
            self.scores.invalid(peer, topic, now)

    def validated(self, message_id: bytes, verdict: Verdict, now: float) -> list[Action]:
        """What the application says of a message it was given to validate."""
        pending = self._pending.pop(message_id, None)
        if pending is None:
            return []
        out: list[Action] = []
        topic = self.topics.get(pending.claimed.message.topic)
        if topic is None or not topic.subscribed:
            return []
        if verdict is Verdict.REJECT:
            self._refuse(pending.brought, topic.name, now)
        elif verdict is Verdict.ACCEPT:
            targets = self._targets(topic, pending.claimed, pending.brought)
            if targets and not pending.verified:
                if not self._signing.verify(pending.claimed):
                    self._refuse(pending.brought, topic.name, now)
                    return []
                pending.verified = True
            self._accept(
                topic, pending.claimed, targets, pending.brought, pending.verified, now, out
            )
        return out

    # --- control messages ---

    def _control(self, peer: PeerState, control: Control, now: float, out: list[Action]) -> None:
        self._gossip.receive(peer, control, self.topics, now, out)
        if control.graft:
            # A GRAFT of a topic that is not ours has no answer: it costs nothing.
            names = dict.fromkeys(control.graft)
            if len(names) < len(control.graft):
                self.scores.breach(peer, 1.0, now)
            grafts = [self.topics[name] for name in names if name in self.topics]
            # Whoever grafts is subscribed, even if that is still on its way.
            self._mesh.grafted(peer, [topic for topic in grafts if topic.subscribed], now, out)
        for prune in control.prune:
            topic = self.topics.get(prune.topic)
            if topic is not None:
                self._mesh.pruned(peer, topic, prune, now, out)

    # --- time ---

    def heartbeat(self, now: float) -> list[Action]:
        """To be called every `MeshConfig.heartbeat` seconds."""
        out: list[Action] = []
        self._gossip.settle(self.peers, now)
        self.scores.decay(self.peers.values(), now)
        self._mesh.heartbeat(self.topics.values(), now, out)
        self._gossip.heartbeat(self.topics.values(), now, out)
        return out


def _cost(rpc: Rpc) -> float:
    """What reading an RPC has cost beside its messages, in frames that carry nothing."""
    cost = len(rpc.subscriptions) / 8 + (0 if rpc.publish else 1)
    control = rpc.control
    if control is not None:
        ids = sum(len(ihave.ids) for ihave in control.ihave)
        ids += len(control.iwant) + len(control.idontwant)
        cost += ids / 32 + len(control.ihave) / 8 + len(control.graft) / 8 + len(control.prune)
    return cost
