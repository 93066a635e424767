"""Members of one topic in virtual time: the real routers, and links with the world's latencies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from lattica.dht.topics.config import TopicsConfig
from lattica.dht.topics.core.actions import Action, Connect, Deliver, Forward, Send
from lattica.dht.topics.core.peer import Version
from lattica.dht.topics.core.router import Router
from lattica.dht.topics.messages import encode_signed, encode_unsigned
from lattica.dht.topics.signing import SEQNO, Claimed
from lattica.nat.base.keys.peer_id import PeerId
from tools.bench.dht.latency import Place, one_way

TOPIC = "topic"
NOTICE = 20.0
"""Seconds until a node that is switched off is missed by those it is connected to."""
_STAMP = 8


class _Unsigned:
    """Signatures that cost nothing: what is measured here is where messages go."""

    def __init__(self, peer_id: PeerId) -> None:
        self._key = peer_id.to_bytes()

    def sign(self, topic: bytes, data: bytes, seqno: int) -> bytes:
        unsigned = encode_unsigned(self._key, data, seqno.to_bytes(SEQNO, "big"), topic)
        return encode_signed(unsigned, bytes(64), b"")

    def verify(self, claimed: Claimed) -> bool:
        return True


@dataclass(eq=False, slots=True)
class SimNode:
    """One member."""

    router: Router
    peer_id: PeerId
    place: Place
    silent: bool
    """It takes part in the mesh, and passes nothing on."""
    since: float
    is_up: bool = True
    links: dict[PeerId, SimNode] = field(default_factory=dict)
    free_at: dict[PeerId, float] = field(default_factory=dict)
    """When what was sent last to a peer arrives: streams keep their order."""


@dataclass(slots=True)
class Published:
    """What became of one message."""

    at: float
    author: SimNode
    expected: frozenset[PeerId]
    """The honest members that were up when it was published."""
    delays: dict[PeerId, float] = field(default_factory=dict)


class TopicNetwork:
    """Members that come and go.

    Args:
        size: members that are up at first; each dials `dials` others.
        session: mean seconds that a member is up (exponential); as many come as go.
        silent: share of them that passes nothing on.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        session: float = 600.0,
        silent: float = 0.1,
        dials: int = 10,
        config: TopicsConfig | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.nodes: dict[PeerId, SimNode] = {}
        self.published: list[Published] = []
        self.control = 0
        """Bytes of what is not a message."""
        self._config = config or TopicsConfig()
        self._session = session
        self._silent = silent
        self._dials = dials
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        for _ in range(size):
            self._appear(first=True)
        for node in list(self.nodes.values()):
            self._dial(node)

    # --- time ---

    def at(self, when: float, function: Callable[..., None], *args: Any) -> None:
        self._number += 1
        heappush(self._queue, (when, self._number, function, args))

    def run_until(self, end: float) -> None:
        while self._queue and self._queue[0][0] <= end:
            self.now, _, function, args = heappop(self._queue)
            function(*args)
        self.now = end

    # --- members ---

    def _appear(self, *, first: bool = False) -> SimNode:
        peer_id = PeerId(b"\x12\x20" + self.rng.randbytes(32))
        router = Router(
            peer_id,
            self._config,
            _Unsigned(peer_id),
            random.Random(self.rng.getrandbits(64)),
            first_seqno=0,
        )
        silent = self.rng.random() < self._silent
        node = SimNode(router, peer_id, Place.random(self.rng), silent, self.now)
        self.nodes[peer_id] = node
        self._do(node, router.subscribe(TOPIC, self.now))
        self.at(self.now + self.rng.random(), self._beat, node)
        self.at(self.now + self.rng.expovariate(1 / self._session), self._leave, node)
        if not first:
            self._dial(node)
        return node

    def _dial(self, node: SimNode) -> None:
        others = self.rng.sample(list(self.nodes.values()), min(self._dials + 1, len(self.nodes)))
        for other in others:
            if other is not node and other.is_up and other.peer_id not in node.links:
                self._link(node, other)

    def _link(self, node: SimNode, other: SimNode) -> None:
        node.links[other.peer_id], other.links[node.peer_id] = other, node
        add = node.router.add_peer(other.peer_id, Version.V12, self.now, outbound=True)
        self._do(node, add)
        self._do(other, other.router.add_peer(node.peer_id, Version.V12, self.now))

    def _leave(self, node: SimNode) -> None:
        node.is_up = False
        del self.nodes[node.peer_id]
        # Half of them say so.
        notice = 0.0 if self.rng.random() < 0.5 else NOTICE
        for other in node.links.values():
            self.at(self.now + notice * self.rng.random(), self._miss, other, node)
        self._appear()

    def _miss(self, node: SimNode, gone: SimNode) -> None:
        if node.is_up and node.links.pop(gone.peer_id, None) is not None:
            self._do(node, node.router.remove_peer(gone.peer_id, self.now))
            if len(node.links) < self._dials:
                self._dial_one(node)

    def _dial_one(self, node: SimNode) -> None:
        other = self.rng.choice(list(self.nodes.values()))
        if other is not node and other.peer_id not in node.links:
            self._link(node, other)

    def _beat(self, node: SimNode) -> None:
        if node.is_up:
            self._do(node, node.router.heartbeat(self.now))
            self.at(self.now + self._config.mesh.heartbeat, self._beat, node)

    # --- messages ---

    def publish(self, size: int) -> None:
        """An honest member says something."""
        honest = [node for node in self.nodes.values() if not node.silent]
        author = self.rng.choice(honest)
        stamp = len(self.published).to_bytes(_STAMP, "big")
        expected = frozenset(node.peer_id for node in honest) - {author.peer_id}
        self.published.append(Published(self.now, author, expected))
        _, actions = author.router.publish(TOPIC, stamp + bytes(size - _STAMP), self.now)
        self._do(author, actions)

    def _do(self, node: SimNode, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Forward):
                if not node.silent:
                    for peer_id in action.peer_ids:
                        self._carry(node, peer_id, action.rpc)
            elif isinstance(action, Send):
                self.control += len(action.rpc)
                self._carry(node, action.peer_id, action.rpc)
            elif isinstance(action, Deliver):
                published = self.published[int.from_bytes(action.message.data[:_STAMP], "big")]
                published.delays[node.peer_id] = self.now - published.at
            elif isinstance(action, Connect):
                other = self.nodes.get(action.peer_id)
                if other is not None and other is not node and other.peer_id not in node.links:
                    self._link(node, other)

    def _carry(self, node: SimNode, peer_id: PeerId, rpc: bytes) -> None:
        other = node.links.get(peer_id)
        if other is None or not other.is_up:
            return
        arrival = self.now + one_way(node.place, other.place, self.rng)
        arrival = max(arrival, node.free_at.get(peer_id, 0.0))
        node.free_at[peer_id] = arrival
        self.at(arrival, self._arrive, node.peer_id, other, rpc)

    def _arrive(self, sender: PeerId, node: SimNode, rpc: bytes) -> None:
        if node.is_up and sender in node.links:
            self._do(node, node.router.receive(sender, rpc, self.now))
