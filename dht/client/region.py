"""Looking on where it is crowded next to a key: in the region around it, part by part.

Peers whose IDs were made to be next to a key can keep nothing that is stored there. The honest ones
behind them are found by looking for other keys of the region, next to which nobody has made any.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import trio

from lattica.dht.kademlia.contact import Contact, common_prefix, key_of
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.kademlia.messages import Response
from lattica.dht.kademlia.network_size import REGION_GROUP_LIMIT

if TYPE_CHECKING:
    from lattica.dht.client.peers import Peers

_AT_A_TIME = 1024
"""Keys that are drawn before others have their turn."""
_DEEPEST = 20
"""Leading bits up to which it takes no more than a second or two to draw a key."""


class Region:
    """The region around the key of one lookup, which is looked into as soon as the nearest peers
    that have answered crowd there: they can only get nearer.

    Args:
        talk: asks one peer what is looked for.
        on_answer: is told what they answer; may stop the lookup. None: nothing but who is there is
            looked for.
        nursery: ends with the lookup.
    """

    def __init__(
        self,
        peers: Peers,
        lookup: Lookup,
        talk: Callable[[Contact], Awaitable[Sequence[Response] | None]],
        on_answer: Callable[[Lookup, Contact, Sequence[Response]], object] | None,
        nursery: trio.Nursery,
    ) -> None:
        self._peers = peers
        self._lookup = lookup
        self._talk = talk
        self._on_answer = on_answer
        self._nursery = nursery
        self._parts = range(0)
        """Leading bits that keys of the parts that are looked into share with the target."""
        self.asked: set[int] = set()
        """Keys of the peers that have been asked what is looked for, by the lookup, too."""

    @property
    def is_crowded(self) -> bool:
        """Whether it is looked into."""
        return bool(self._parts)

    def look(self) -> None:
        """Look into the parts of which is known by now that there is a crowd behind them."""
        target, sizes = self._lookup.target, self._peers.sizes
        nearest = [contact.key for contact in self._lookup.nearest()]
        if len(nearest) < self._peers.config.lookup.count:
            return
        if not sizes.is_crowded(target, nearest):
            return
        parts = [prefix for prefix in sizes.region(target, nearest) if prefix <= _DEEPEST]
        begun = self._parts
        new = [prefix for prefix in parts if not begun or prefix >= begun.stop]
        if new:
            self._parts = range(begun.start if begun else new[0], new[-1] + 1)
            self._nursery.start_soon(self._look_into, new, self._lookup.heard())

    def add_heard(self) -> None:
        """Have all peers of the region that have answered the lookup be found. They count whatever
        they were asked for: an honest peer can be behind twenty Sybils in each part, too.
        """
        self._lookup.widen(self._here(self._lookup.heard()))

    def _here(self, contacts: Iterable[Contact]) -> Iterator[Contact]:
        return (c for c in contacts if self._has(c))

    def _has(self, contact: Contact) -> bool:
        return common_prefix(contact.key, self._lookup.target) >= self._parts.start

    async def _look_into(self, parts: Iterable[int], known: Sequence[Contact]) -> None:
        async for raw in _draw(self._lookup.target, parts, random.Random()):
            self._nursery.start_soon(self._look_up, raw, known)

    async def _look_up(self, raw: bytes, known: Sequence[Contact]) -> None:
        async def question(contact: Contact) -> Sequence[Contact] | None:
            closer = await self._peers.nearer(contact, raw)
            if closer is not None and self._has(contact) and contact.key not in self.asked:
                self._nursery.start_soon(self._ask, contact)
            return closer

        part = await self._peers.walk(
            key_of(raw), question, seeds=known, group_limit=REGION_GROUP_LIMIT
        )
        self._lookup.widen(self._here(part.heard()))

    async def _ask(self, contact: Contact) -> None:
        if self._on_answer is None or contact.key in self.asked:
            return
        self.asked.add(contact.key)
        answers = await self._talk(contact)
        if answers is not None:
            self._on_answer(self._lookup, contact, answers)
            if self._lookup.is_stopped:
                self._nursery.cancel_scope.cancel()


async def _draw(target: int, prefixes: Iterable[int], rng: random.Random) -> AsyncIterator[bytes]:
    """What is to be looked up to come to keys that share so many leading bits with `target`, as it
    is found."""
    wanted = set(prefixes)
    while wanted:
        for _ in range(_AT_A_TIME):
            raw = rng.randbytes(32)
            prefix = common_prefix(target, key_of(raw))
            if prefix in wanted:
                wanted.remove(prefix)
                yield raw
        await trio.lowlevel.checkpoint()
