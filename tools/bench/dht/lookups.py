"""What nodes do with the cores, as :mod:`lattica.dht.client` does: look up, provide, find."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from lattica.dht.client.providing.early import EarlyProvide
from lattica.dht.kademlia.contact import KEY_BITS, Contact, common_prefix
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.kademlia.network_size import REGION_GROUP_LIMIT
from lattica.dht.kademlia.routing_table import random_key
from tools.bench.dht.network import Network
from tools.bench.dht.nodes import Answer, Question, SimNode

OnAnswer = Callable[[Lookup, Contact, Answer], None]
QuestionTo = Callable[[Contact], Question]
_NEAREST = Question()


@dataclass(slots=True)
class Provided:
    """What came of providing a record."""

    began: float
    returned_at: float = math.inf
    holders_then: int = 0
    """That said so."""
    ended_at: float = math.inf
    holders: int = 0
    was_crowded: bool = False

    @property
    def took(self) -> float:
        """Seconds until all that were to have the record have been asked."""
        return self.ended_at - self.began


class Lookups:
    """Runs lookups of the nodes of one network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.crowded = 0
        """Lookups that went on to the region around their key."""

    # --- lookups ---

    def look_up(
        self,
        node: SimNode,
        target: int,
        on_done: Callable[[Lookup], None],
        *,
        seeds: Iterable[Contact] = (),
        question: QuestionTo = lambda _: _NEAREST,
        on_answer: OnAnswer | None = None,
        drawn: bool = False,
        patient: bool = False,
    ) -> Lookup:
        """Begin a lookup, which goes on to the region where it is crowded next to the key;
        `on_done` is called at its end.
        """

        count = self.network.lookup_config.count
        parts: list[int] = []
        """Of the region, as far as they are looked into."""
        open_ = 1

        def ended(lookup: Lookup) -> None:
            nonlocal open_
            open_ -= 1
            if open_:
                return
            if parts and not lookup.is_stopped:
                self.crowded += 1
                lookup.widen(here(lookup.heard()))
            on_done(lookup)

        def walked(lookup: Lookup) -> None:
            if not lookup.is_stopped:
                keys = [contact.key for contact in lookup.nearest()]
                node.sizes.learned(target, keys, is_drawn=drawn)
            ended(lookup)

        def look(lookup: Lookup) -> None:
            nonlocal open_
            keys = [contact.key for contact in lookup.nearest()]
            if lookup.is_stopped or len(keys) < count or not node.sizes.is_crowded(target, keys):
                return
            wanted = node.sizes.region(target, keys)
            new = [prefix for prefix in wanted if not parts or prefix > parts[-1]]
            parts.extend(new)
            open_ += len(new)
            for prefix in new:
                near = random_key(target, prefix, self.network.rng)
                seeds = [*lookup.heard(), *node.table.closest(near, count)]
                self._walk(
                    node,
                    near,
                    seeds,
                    question,
                    heard,
                    widened,
                    group_limit=REGION_GROUP_LIMIT,
                    is_patient=True,
                )

        def here(contacts: Iterable[Contact]) -> Iterator[Contact]:
            return (c for c in contacts if common_prefix(c.key, target) >= parts[0])

        def heard(_: Lookup, contact: Contact, answer: Answer) -> None:
            if on_answer is not None and not lookup.is_stopped:
                on_answer(lookup, contact, answer)

        def widened(part: Lookup) -> None:
            lookup.widen(here(part.heard()))
            ended(lookup)

        known = [*seeds, *node.table.closest(target, count)]
        is_patient = drawn or patient
        lookup = self._walk(
            node, target, known, question, on_answer, walked, look, is_patient=is_patient
        )
        return lookup

    def _walk(
        self,
        node: SimNode,
        target: int,
        known: Iterable[Contact],
        question: QuestionTo,
        on_answer: OnAnswer | None,
        on_done: Callable[[Lookup], None],
        on_answered: Callable[[Lookup], None] = lambda _: None,
        *,
        group_limit: int | None = None,
        is_patient: bool = False,
    ) -> Lookup:
        network = self.network
        config = network.lookup_config.patient() if is_patient else network.lookup_config
        lookup = Lookup(
            target,
            {contact.key: contact for contact in known}.values(),
            config,
            own=node.contact.key,
            reach=node.sizes.reach,
            group_limit=group_limit,
        )
        is_done = False
        woken_at = math.inf

        def go_on() -> None:
            nonlocal is_done, woken_at
            if is_done or not node.is_up:
                return
            for contact in lookup.next_queries(network.now):
                begin(contact)
            if lookup.is_done:
                is_done = True
                node.table.looked_up(target, network.now)
                on_done(lookup)
            elif not network.now < woken_at <= lookup.deadline:
                woken_at = lookup.deadline
                network.at(woken_at, go_on)

        def begin(contact: Contact) -> None:
            answered = False

            def answer(said: Answer | None) -> None:
                nonlocal answered
                answered = True
                if said is None:
                    node.table.failed(contact.key)
                    lookup.failed(contact.key)
                else:
                    peer = network.nodes[contact.key]
                    node.table.answered(contact, peer.group, network.now)
                    if on_answer is not None and not is_done:
                        on_answer(lookup, contact, said)
                    lookup.answered(contact.key, said.closer, network.now)
                    if not is_done:
                        on_answered(lookup)
                go_on()

            def give_up() -> None:
                if not answered:
                    node.table.failed(contact.key)

            network.ask(node, contact, target, question(contact), answer)
            network.at(network.now + config.timeout, give_up)

        go_on()
        return lookup

    # --- upkeep ---

    def join(self, node: SimNode, known: list[Contact]) -> None:
        """A new node looks for itself, and into its buckets."""

        def found_itself(_: Lookup) -> None:
            own = node.contact.key
            neighbours = node.table.closest(own, 1)
            last = common_prefix(own, neighbours[0].key) if neighbours else 0
            for prefix in range(last):
                self.look_up(node, random_key(own, prefix, self.network.rng), nothing, drawn=True)

        self.look_up(node, node.contact.key, found_itself, seeds=known)

    def warm_up(self, node: SimNode, times: int) -> None:
        """What a node that is there for some minutes has done: looked up keys that it has drawn."""
        for _ in range(times):
            self.look_up(node, self.network.rng.getrandbits(KEY_BITS), nothing, drawn=True)

    # --- records ---

    def provide(self, node: SimNode, key: int, on_done: Callable[[Provided], None]) -> Provided:
        """Store a record, as `Providing.provide` does."""
        network = self.network
        early = EarlyProvide(key, node.sizes)
        outcome = Provided(network.now)
        held: set[int] = set()
        store, look = Question(key, store=True), Question(key)
        given: set[int] = set()

        def question(contact: Contact) -> Question:
            if not early.is_place(contact.key):
                return look
            given.add(contact.key)
            return store

        def has_it(contact: Contact) -> None:
            held.add(contact.key)
            early.has_it(contact.key)
            if early.is_enough and outcome.returned_at == math.inf:
                outcome.returned_at, outcome.holders_then = network.now, len(held)

        def on_answer(_: Lookup, contact: Contact, answer: Answer) -> None:
            if answer.has_it:
                has_it(contact)

        def walked(lookup: Lookup) -> None:
            left = [contact for contact in lookup.closest() if contact.key not in given]
            outcome.was_crowded = len(lookup.closest()) > network.lookup_config.count
            open_ = len(left)

            def over() -> None:
                outcome.ended_at, outcome.holders = network.now, len(held)
                if outcome.returned_at == math.inf:
                    outcome.returned_at, outcome.holders_then = network.now, len(held)
                on_done(outcome)

            def ended(contact: Contact, is_over: list[bool], answer: Answer | None) -> None:
                nonlocal open_
                if is_over[0]:
                    return
                is_over[0] = True
                if answer is not None and answer.has_it:
                    has_it(contact)
                open_ -= 1
                if not open_:
                    over()

            if not left:
                over()
            for contact in left:
                one = partial(ended, contact, [False])
                network.ask(node, contact, key, store, one)
                network.at(network.now + network.lookup_config.timeout, partial(one, None))

        self.look_up(node, key, walked, question=question, on_answer=on_answer)
        return outcome

    def find(self, node: SimNode, key: int, on_done: Callable[[bool, float], None]) -> None:
        """Look for a record until somebody has it: whether it was found, and after how long."""
        began = self.network.now
        found = False

        def on_answer(lookup: Lookup, _: Contact, answer: Answer) -> None:
            nonlocal found
            if answer.has_it:
                if not found:
                    on_done(True, self.network.now - began)
                found = True
                lookup.stop()

        def walked(_: Lookup) -> None:
            if not found:
                on_done(False, self.network.now - began)

        look = Question(key)
        self.look_up(node, key, walked, question=lambda _: look, on_answer=on_answer)


def nothing(_: Lookup) -> None:
    pass
