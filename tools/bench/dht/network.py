"""A network of nodes in virtual time: each has a table and makes lookups, by the real cores."""

from __future__ import annotations

import bisect
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heappop, heappush, nsmallest

from lattica.dht.kademlia.config import LookupConfig, TableConfig
from lattica.dht.kademlia.contact import KEY_BITS, Contact, common_prefix
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.kademlia.routing_table import RoutingTable, random_key
from lattica.nat.base.keys.peer_id import PeerId
from tools.bench.dht.latency import Place, one_way

DIAL_ROUND_TRIPS = 3
"""Until a new connection carries a question: TCP, Noise, and what is agreed on."""
MAX_CONNECTIONS = 400
"""That a node keeps; the one unused for longest goes first."""
NOTICE = 20.0
"""Seconds until a connected node that is switched off is missed."""


class Conduct(Enum):
    """What a node answers."""

    HONEST = auto()
    COLLUDES = auto()
    """With the nearest of the liars."""
    INVENTS = auto()
    """Peers that are not there, right next to the key."""
    SILENT = auto()


@dataclass(eq=False, slots=True)
class SimNode:
    """One node."""

    contact: Contact
    table: RoutingTable
    place: Place
    serves: bool
    """Not behind a NAT: it answers, and is in the tables of others."""
    conduct: Conduct = Conduct.HONEST
    is_up: bool = True
    connections: OrderedDict[int, SimNode] = field(default_factory=OrderedDict)
    served: int = 0
    """Questions that it has answered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one lookup."""

    found_nearest: bool
    """The nearest honest node that was up is among those found."""
    overlap: float
    """Share of the nearest nodes that were up, as many as are looked for, that were found."""
    hops: int
    queries: int
    seconds: float


class Network:
    """Nodes, and the time they live in.

    Args:
        size: nodes that are up at first.
        session: mean seconds that a node is up (exponential); as many come as go. `inf`: all stay.
        behind_nat: share of the nodes that only ask.
        malicious: share of those that answer that lie, one half each way (:class:`Conduct`).
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        session: float = math.inf,
        behind_nat: float = 0.2,
        malicious: float = 0.0,
        table: TableConfig | None = None,
        lookup: LookupConfig | None = None,
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self._table_config = table or TableConfig()
        self._lookup_config = lookup or LookupConfig()
        self._session = session
        self._behind_nat = behind_nat
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self.nodes: dict[int, SimNode] = {}
        """All that ever were, by key."""
        self._up: list[int] = []
        """Sorted keys of those that are up and answer."""
        self._liars: list[int] = []
        self.messages = 0
        for _ in range(size):
            self._make_node(malicious)
        self._fill_tables()
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

    # --- who is there ---

    def _make_node(self, malicious: float) -> SimNode:
        rng = self.rng
        key = rng.getrandbits(KEY_BITS)
        node = SimNode(
            _contact(key),
            RoutingTable(key, self._table_config, self.now),
            Place.random(rng),
            serves=rng.random() >= self._behind_nat,
        )
        if node.serves and rng.random() < malicious:
            node.conduct = rng.choice((Conduct.COLLUDES, Conduct.INVENTS))
            bisect.insort(self._liars, key)
        self.nodes[key] = node
        if node.serves:
            bisect.insort(self._up, key)
        return node

    def _fill_tables(self) -> None:
        """Tables as they are after long: each bucket with any of those that belonged into it when
        they were last heard of, at any time since the last check; some have gone since.
        """
        rng, span = self.rng, self._table_config.check_after
        gone_at = dict.fromkeys(self._up, math.inf)
        for _ in range(round(len(self._up) * span / self._session)):
            key = rng.getrandbits(KEY_BITS)
            gone_at[key] = rng.uniform(-span, 0.0)
        keys = sorted(gone_at)
        contacts = [_contact(key) for key in keys]
        for node in self.nodes.values():
            own = node.contact.key
            last = common_prefix(own, self._neighbour(own))
            for prefix in range(last + 1):
                rest = KEY_BITS - prefix - 1
                first = ((own >> rest) ^ 1) << rest
                low = bisect.bisect_left(keys, first)
                high = bisect.bisect_left(keys, first + (1 << rest))
                most = min(self._table_config.bucket + 10, high - low)
                for index in rng.sample(range(low, high), most):
                    heard = rng.uniform(-span, 0.0)
                    if gone_at[keys[index]] > heard:
                        node.table.answered(contacts[index], None, heard)
            # What is in the table was asked not long ago, and who is connected is missed when it
            # goes.
            for contact in reversed(node.table.closest(own, MAX_CONNECTIONS)):
                other = self.nodes.get(contact.key)
                if other is not None:
                    self._connect(node, other)
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

    def _nearest_but(self, node: SimNode, target: int, honest: bool) -> list[int]:
        count = self._lookup_config.count
        keys = self.nearest(target, count + 1, honest=honest)
        return [key for key in keys if key != node.contact.key][:count]

    def any_node(self) -> SimNode:
        """An honest node that is up, behind a NAT or not."""
        keys = list(self.nodes)
        while True:
            node = self.nodes[self.rng.choice(keys)]
            if node.is_up and node.conduct is Conduct.HONEST:
                return node

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
        """A new node, which knows three others and looks for itself, and into its buckets."""
        node = self._make_node(0.0)
        self._will_leave(node)
        known = [self.nodes[key].contact for key in self.rng.sample(self._up, 3)]

        def found_itself(_: Lookup) -> None:
            last = common_prefix(node.contact.key, self._neighbour(node.contact.key))
            for prefix in range(last):
                self.look_up(node, random_key(node.contact.key, prefix, self.rng), _nothing)

        self.look_up(node, node.contact.key, found_itself, seeds=known)

    # --- questions ---

    def _connect(self, one: SimNode, other: SimNode) -> None:
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
        on_answer: Callable[[list[Contact]], None],
    ) -> None:
        """Ask a peer for those nearer to `target`. Whoever is not there does not answer."""
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
            self._connect(node, peer)
            peer.served += 1
            answer = self._answer(peer, target, node.contact.key)
            if node.serves and peer.table.is_wanted(node.contact.key):
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
            node.table.answered(peer.contact, None, self.now)

    def _answer(self, peer: SimNode, target: int, asker: int) -> list[Contact]:
        count = self._lookup_config.count
        if peer.conduct is Conduct.COLLUDES:
            keys = nsmallest(count, self._liars, key=lambda key: key ^ target)
            return [self.nodes[key].contact for key in keys]
        if peer.conduct is Conduct.INVENTS:
            invented = (target ^ self.rng.getrandbits(KEY_BITS - 40) for _ in range(count))
            return [_contact(key) for key in invented]
        return peer.table.closest(target, count, but=asker)

    # --- lookups ---

    def look_up(
        self,
        node: SimNode,
        target: int,
        on_done: Callable[[Lookup], None],
        *,
        seeds: Iterable[Contact] = (),
    ) -> Lookup:
        """Begin a lookup; `on_done` is called at its end."""
        config = self._lookup_config
        own = node.contact.key
        known = [*seeds, *node.table.closest(target, config.count)]
        lookup = Lookup(target, known, config, own=own)
        is_done = False
        woken_at = math.inf

        def go_on() -> None:
            nonlocal is_done, woken_at
            if is_done or not node.is_up:
                return
            for contact in lookup.next_queries(self.now):
                begin(contact)
            if lookup.is_done:
                is_done = True
                node.table.looked_up(target, self.now)
                on_done(lookup)
            elif not self.now < woken_at <= lookup.deadline:
                woken_at = lookup.deadline
                self.at(woken_at, go_on)

        def begin(contact: Contact) -> None:
            answered = False

            def answer(closer: list[Contact]) -> None:
                nonlocal answered
                answered = True
                node.table.answered(contact, None, self.now)
                lookup.answered(contact.key, closer, self.now)
                go_on()

            def give_up() -> None:
                if not answered:
                    node.table.failed(contact.key)

            self.ask(node, contact, target, answer)
            self.at(self.now + config.timeout, give_up)

        go_on()
        return lookup

    def measured(self, node: SimNode, target: int, into: list[Outcome]) -> None:
        """Look for `target`, and compare what is found with what there is at the end."""
        began = self.now

        def done(lookup: Lookup) -> None:
            found = [contact.key for contact in lookup.closest()]
            near, honest = (self._nearest_but(node, target, of) for of in (False, True))
            into.append(
                Outcome(
                    honest[0] in found,
                    len(set(found).intersection(near)) / len(near),
                    lookup.hops,
                    lookup.queries,
                    self.now - began,
                )
            )

        self.look_up(node, target, done)


def _contact(key: int) -> Contact:
    """A peer at a chosen place: who has which key in its ID makes no difference here."""
    return Contact(key, PeerId(b"\x12\x20" + key.to_bytes(32, "big")))


def _nothing(_: Lookup) -> None:
    pass
