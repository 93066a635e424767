"""A network of nodes in virtual time: who is there, whom they know, what they ask each other."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable
from heapq import heappop, heappush, nsmallest

from lattica.dht.kademlia.config import LookupConfig, TableConfig
from lattica.dht.kademlia.contact import KEY_BITS, Contact, common_prefix
from lattica.dht.kademlia.network_size import SizeEstimator
from lattica.dht.kademlia.routing_table import RoutingTable
from tools.bench.dht.latency import Place, one_way
from tools.bench.dht.nodes import Answer, Conduct, Question, SimNode, contact_at

DIAL_ROUND_TRIPS = 3
"""Until a new connection carries a question: TCP, Noise, and what is agreed on."""
MAX_CONNECTIONS = 400
"""That a node keeps; the one unused for longest goes first."""
NOTICE = 20.0
"""Seconds until a connected node that is switched off is missed."""
_LIES = (Conduct.COLLUDES, Conduct.INVENTS, Conduct.JUNK)


class Network:
    """Nodes, and the time they live in.

    Args:
        size: nodes that are up at first.
        session: mean seconds that a node is up (exponential); as many come as go. `inf`: all stay.
        behind_nat: share of the nodes that only ask.
        malicious: share of those that answer that lie, a third each way (:class:`Conduct`).
        halves: every node knows only those of its own half.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        session: float = math.inf,
        behind_nat: float = 0.2,
        malicious: float = 0.0,
        halves: bool = False,
        table: TableConfig | None = None,
        lookup: LookupConfig | None = None,
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.table_config = table or TableConfig()
        self.lookup_config = lookup or LookupConfig()
        self._session = session
        self._behind_nat = behind_nat
        self.on_join: Callable[[SimNode, list[Contact]], None] | None = None
        """Is told of each node that comes, and of three peers that it knows."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self.nodes: dict[int, SimNode] = {}
        """All that ever were, by key."""
        self._up: list[int] = []
        """Sorted keys of those that are up and answer."""
        self.liars: list[int] = []
        """Sorted keys."""
        self.eclipsed: dict[int, list[Contact]] = {}
        """Keys next to which there are Sybils, and these: no liar tells of anybody else there."""
        self.messages = 0
        for number in range(size):
            self.make_node(malicious, side=number % 2 if halves else 0)
        for side in range(2 if halves else 1):
            self._fill_tables(side)
        if session < math.inf:
            for node in tuple(self.nodes.values()):
                self._will_leave(node)

    # --- time ---

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heappush(self._events, (when, self._serial, action))

    def run_until(self, end: float) -> None:
        """Let the time pass."""
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heappop(self._events)
            action()
        self.now = end

    def run_while(self, is_open: Callable[[], bool], end: float) -> None:
        """Let the time pass while `is_open`, until `end` at the latest."""
        while is_open() and self._events and self._events[0][0] <= end:
            self.now, _, action = heappop(self._events)
            action()

    # --- who is there ---

    def make_node(
        self,
        malicious: float = 0.0,
        *,
        side: int = 0,
        key: int | None = None,
        addr: str | None = None,
        group: str | None = None,
    ) -> SimNode:
        """A node that nobody knows yet; one with a chosen key is a Sybil."""
        rng = self.rng
        is_sybil = key is not None
        key = rng.getrandbits(KEY_BITS) if key is None else key
        node = SimNode(
            contact_at(key, *([addr] if addr else [])),
            RoutingTable(key, self.table_config, self.now),
            SizeEstimator(self.lookup_config.count),
            Place.random(rng),
            serves=is_sybil or rng.random() >= self._behind_nat,
            group=group,
            side=side,
            is_sybil=is_sybil,
        )
        if is_sybil:
            node.conduct = Conduct.COLLUDES
        elif node.serves and rng.random() < malicious:
            node.conduct = rng.choice(_LIES)
        if node.conduct is not Conduct.HONEST:
            bisect.insort(self.liars, key)
        self.nodes[key] = node
        if node.serves:
            bisect.insort(self._up, key)
        return node

    def _fill_tables(self, side: int) -> None:
        """Tables as they are after long: each bucket with any of those that belonged into it when
        they were last heard of, at any time since the last check; some have gone since.
        """
        rng, span = self.rng, self.table_config.check_after
        here = [key for key in self._up if self.nodes[key].side == side]
        gone_at = dict.fromkeys(here, math.inf)
        for _ in range(round(len(here) * span / self._session)):
            gone_at[rng.getrandbits(KEY_BITS)] = rng.uniform(-span, 0.0)
        keys = sorted(gone_at)
        contacts = [contact_at(key) for key in keys]
        for node in self.nodes.values():
            if node.side != side:
                continue
            own = node.contact.key
            last = common_prefix(own, self._neighbour(own))
            for prefix in range(last + 1):
                rest = KEY_BITS - prefix - 1
                first = ((own >> rest) ^ 1) << rest
                low = bisect.bisect_left(keys, first)
                high = bisect.bisect_left(keys, first + (1 << rest))
                most = min(self.table_config.bucket + 10, high - low)
                for index in rng.sample(range(low, high), most):
                    heard = rng.uniform(-span, 0.0)
                    if gone_at[keys[index]] > heard:
                        node.table.answered(contacts[index], None, heard)
            # What is in the table was asked not long ago, and who is connected is missed when it
            # goes.
            for contact in reversed(node.table.closest(own, MAX_CONNECTIONS)):
                other = self.nodes.get(contact.key)
                if other is not None:
                    self.connect(node, other)
                elif gone_at[contact.key] < -NOTICE:
                    node.table.remove(contact.key)

    def _neighbour(self, key: int) -> int:
        """The nearest of those that are up, but the one that has this key."""
        return next((other for other in self.nearest(key, 2) if other != key), key)

    def nearest(self, target: int, count: int, *, honest: bool = False) -> list[int]:
        """Keys of the nodes that are up and answer, the nearest to `target` first."""
        # All that share more bits with the target than others are nearer, so a block around it,
        # large enough, has them.
        prefix = max(len(self._up).bit_length() - count.bit_length(), 0)
        while True:
            rest = KEY_BITS - prefix
            first = target >> rest << rest
            low = bisect.bisect_left(self._up, first)
            high = bisect.bisect_left(self._up, first + (1 << rest))
            keys = [
                key
                for key in self._up[low:high]
                if not honest or self.nodes[key].conduct is Conduct.HONEST
            ]
            if len(keys) >= count or not prefix:
                return nsmallest(count, keys, key=lambda key: key ^ target)
            prefix -= 1

    @property
    def servers(self) -> int:
        """Nodes that are up and answer."""
        return len(self._up)

    def any_node(self) -> SimNode:
        """An honest node that is up, behind a NAT or not."""
        keys = list(self.nodes)
        while True:
            node = self.nodes[self.rng.choice(keys)]
            if node.is_up and node.conduct is Conduct.HONEST:
                return node

    def some_contacts(self, count: int) -> list[Contact]:
        """Any that are up and answer."""
        return [self.nodes[key].contact for key in self.rng.sample(self._up, count)]

    # --- coming and going ---

    def _will_leave(self, node: SimNode) -> None:
        def leave() -> None:
            if node.is_up:
                self.switch_off(node)
                self._join()

        self.at(self.now + self.rng.expovariate(1 / self._session), leave)

    def switch_off(self, node: SimNode) -> None:
        """It says nothing any more, not even that it goes."""
        node.is_up = False
        if node.serves:
            del self._up[bisect.bisect_left(self._up, node.contact.key)]
        for other in node.connections.values():
            self.at(self.now + NOTICE, lambda other=other: self._miss(other, node))  # type: ignore[misc]

    def _miss(self, node: SimNode, gone: SimNode) -> None:
        node.connections.pop(gone.contact.key, None)
        node.table.remove(gone.contact.key)

    def _join(self) -> None:
        node = self.make_node()
        self._will_leave(node)
        if self.on_join is not None:
            self.on_join(node, self.some_contacts(3))

    # --- questions ---

    def connect(self, one: SimNode, other: SimNode) -> None:
        for a, b in ((one, other), (other, one)):
            a.connections[b.contact.key] = b
            a.connections.move_to_end(b.contact.key)
            if len(a.connections) > MAX_CONNECTIONS:
                _, dropped = a.connections.popitem(last=False)
                dropped.connections.pop(a.contact.key, None)

    def ask(
        self,
        node: SimNode,
        contact: Contact,
        target: int,
        question: Question,
        on_answer: Callable[[Answer | None], None],
    ) -> None:
        """Ask a peer for those nearer to `target`, and for a record. None: what came is no answer.
        Whoever is not there does not answer.
        """
        self.messages += 1
        peer = self.nodes.get(contact.key)
        if peer is None or not peer.is_up or peer.conduct is Conduct.SILENT:
            return
        there = one_way(node.place, peer.place, self.rng)
        if contact.key not in node.connections:
            there += DIAL_ROUND_TRIPS * 2 * one_way(node.place, peer.place, self.rng)

        def arrives() -> None:
            if not (peer.is_up and node.is_up):
                return
            self.connect(node, peer)
            peer.served += 1
            answer = self._answer(peer, target, question, node.contact.key)
            if node.serves and peer.table.is_wanted(node.contact.key, node.group):
                # It is asked something itself, on the connection that there is.
                self.messages += 2
                pong = self.now + 2 * one_way(node.place, peer.place, self.rng)
                self.at(pong, lambda: self._heard(peer, node))
            back = self.now + one_way(peer.place, node.place, self.rng)
            self.messages += 1
            self.at(back, lambda: on_answer(answer))

        self.at(self.now + there, arrives)

    def _heard(self, node: SimNode, peer: SimNode) -> None:
        if peer.is_up:
            node.table.answered(peer.contact, peer.group, self.now)

    def _answer(self, peer: SimNode, target: int, question: Question, asker: int) -> Answer | None:
        count = self.lookup_config.count
        if peer.conduct is Conduct.HONEST:
            if question.store and question.record is not None:
                peer.stored.add(question.record)
            has_it = question.record is not None and question.record in peer.stored
            return Answer(peer.table.closest(target, count, but=asker), has_it)
        if peer.conduct is Conduct.JUNK:
            return None
        sybils = self.eclipsed.get(question.record if question.record is not None else target)
        if sybils is not None:
            return Answer(self.rng.sample(sybils, min(count, len(sybils))), question.store)
        if peer.conduct is Conduct.COLLUDES:
            keys = nsmallest(count, self.liars, key=lambda key: key ^ target)
            return Answer([self.nodes[key].contact for key in keys], question.store)
        invented = (target ^ self.rng.getrandbits(KEY_BITS - 40) for _ in range(count))
        return Answer([contact_at(key) for key in invented], question.store)
