"""Providing keys: one, or many region by region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import trio

from lattica.dht.client.peers import Peers
from lattica.dht.client.providing.early import EarlyProvide
from lattica.dht.client.providing.sweep import Sweep
from lattica.dht.client.reading import Reader
from lattica.dht.client.writing import Writer
from lattica.dht.kademlia.contact import Contact, key_of
from lattica.dht.kademlia.messages import MessageType, Request, Response

_BATCH = 512
"""Keys that are sent to a peer at a time, as soon as there are so many for it."""
_SENDERS = 8
"""Peers that are sent keys at a time."""


@dataclass(frozen=True, slots=True)
class Provided:
    """What came of providing many keys."""

    holders: Mapping[bytes, int]
    """By key of the wire: peers that said, when read back, that this node provides it."""
    lookups: int


class Providing:
    """Announces keys of one node.

    Args:
        own: this node with its addresses as they are now.
        on_provided: is told which keys somebody holds.
    """

    def __init__(
        self,
        peers: Peers,
        reader: Reader,
        writer: Writer,
        *,
        own: Callable[[], Contact],
        on_provided: Callable[[Iterable[bytes]], object],
    ) -> None:
        self._peers = peers
        self._reader = reader
        self._writer = writer
        self._own = own
        self._on_provided = on_provided
        self._sweeps: list[set[bytes]] = []
        """What each :meth:`provide_many` that is under way still has to announce."""

    async def provide(
        self, key: bytes, on_held: Callable[[int, bool], object] = lambda _, __: None
    ) -> int:
        """Announce one key: how many peers have it, read back.

        Args:
            on_held: is told, with each peer that has it, how many they are, and whether it will be
                found by now.
        """
        target, own = key_of(key), self._own()
        early = EarlyProvide(target, self._peers.sizes)
        tried: set[int] = set()
        held: set[int] = set()

        def take(contact: Contact) -> None:
            if not held:
                self._on_provided([key])
            held.add(contact.key)
            early.has_it(contact.key)
            on_held(len(held), early.is_enough)

        async def talk(contact: Contact) -> list[Response] | None:
            if not early.is_place(contact.key):
                answers = await self._peers.ask(contact, nearest)
                return [a for a in answers if a is not None] if answers else None
            tried.add(contact.key)
            answer = await self._writer.provider_at(contact, key, own)
            if answer is None:
                return None
            if self._writer.is_held(answer, own):
                take(contact)
            return [answer]

        nearest = Request(MessageType.FIND_NODE, key)
        lookup = await self._peers.look_up(target, nearest, talk=talk)
        rest = [contact for contact in lookup.closest() if contact.key not in tried]

        async def give(contact: Contact) -> None:
            if await self._writer.provider([contact], key, own):
                take(contact)

        async with trio.open_nursery() as nursery:
            for contact in rest:
                nursery.start_soon(give, contact)
        return len(held)

    async def provide_many(self, keys: Iterable[bytes]) -> Provided:
        """Announce many keys: of each, how many peers have it."""
        wanted = list(dict.fromkeys(keys))
        holders: Counter[bytes] = Counter(dict.fromkeys(wanted, 0))
        left = set(wanted)
        sweep = Sweep(wanted, self._peers.config.lookup.count, self._peers.sizes.is_crowded)
        queues: dict[int, tuple[Contact, list[bytes]]] = {}
        limit = trio.CapacityLimiter(_SENDERS)

        async def send(contact: Contact, some: list[bytes]) -> None:
            async with limit:
                some = [key for key in some if key in left]
                done = await self._writer.providers(contact, some, self._own()) if some else set()
            holders.update(done)
            self._on_provided(key for key in done if key in left)

        async def announce(nursery: trio.Nursery) -> None:
            def flush(least: int) -> None:
                for contact, queue in queues.values():
                    if len(queue) >= least:
                        nursery.start_soon(send, contact, list(queue))
                        queue.clear()

            while (key := sweep.next_key()) is not None:
                lookup = await self._reader.nearest(key)
                found = lookup.closest()
                ready = sweep.learned(key, found, are_all=lookup.has_heard_all)
                for other, nearest in ready.items():
                    for contact in nearest:
                        queues.setdefault(contact.key, (contact, []))[1].append(other)
                flush(_BATCH)
            flush(1)

        self._sweeps.append(left)
        try:
            async with trio.open_nursery() as nursery:
                await announce(nursery)
        finally:
            self._sweeps.remove(left)
        return Provided(holders, sweep.lookups)

    def give_up(self, key: bytes) -> None:
        """Announce a key no more, where that is under way by :meth:`provide_many`."""
        for left in self._sweeps:
            left.discard(key)

    async def withdraw(self, key: bytes) -> int:
        """Take an announcement back: how many peers have forgotten it."""
        lookup = await self._reader.nearest(key)
        forgot: list[Contact] = []

        async def one(contact: Contact) -> None:
            if await self._writer.withdraw(contact, [key]):
                forgot.append(contact)

        async with trio.open_nursery() as nursery:
            # Who was given it early need not be among the nearest.
            for contact in {c.key: c for c in (*lookup.heard(), *lookup.closest())}.values():
                nursery.start_soon(one, contact)
        return len(forgot)
