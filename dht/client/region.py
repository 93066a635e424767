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
from lattica.dht.kademlia.messages import MessageType, Request, Response
from lattica.dht.kademlia.network_size import REGION_GROUP_LIMIT

if TYPE_CHECKING:
    from lattica.dht.client.peers import Peers

_AT_A_TIME = 1024
"""Keys that are drawn before others have their turn."""
_DEEPEST = 20
"""Leading bits up to which it takes no more than a second or two to draw a key."""


async def widen(
    peers: Peers,
    lookup: Lookup,
    talk: Callable[[Contact], Awaitable[Sequence[Response] | None]],
    on_answer: Callable[[Lookup, Contact, Sequence[Response]], object] | None,
) -> None:
    """Add the peers of the region to those that a lookup has found, and ask them what it asks.

    Args:
        talk: asks one peer what is looked for.
        on_answer: is told what they answer; may stop the lookup.
    """
    target = lookup.target
    nearest = [contact.key for contact in lookup.nearest()]
    prefixes = [p for p in peers.sizes.region(target, nearest) if p <= _DEEPEST]
    if not prefixes:
        return
    known = lookup.heard()
    asked = {contact.key for contact in known}

    def here(contacts: Iterable[Contact]) -> Iterator[Contact]:
        return (c for c in contacts if common_prefix(c.key, target) >= prefixes[0])

    # All that have answered count, whatever they were asked for: an honest peer can be behind
    # twenty Sybils in each part, too.
    lookup.widen(here(known))

    async with trio.open_nursery() as nursery:

        async def tell(contact: Contact) -> None:
            answers = await talk(contact)
            if answers is not None and on_answer is not None:
                on_answer(lookup, contact, answers)
                if lookup.is_stopped:
                    nursery.cancel_scope.cancel()

        async def look_into(raw: bytes) -> None:
            request = Request(MessageType.FIND_NODE, raw)

            async def question(contact: Contact) -> Sequence[Contact] | None:
                answers = await peers.ask(contact, request)
                if answers is None or (answer := answers[0]) is None:
                    return None
                is_here = common_prefix(contact.key, target) >= prefixes[0]
                if is_here and on_answer is not None and contact.key not in asked:
                    asked.add(contact.key)
                    nursery.start_soon(tell, contact)
                return answer.closer

            part = await peers.walk(
                key_of(raw), question, seeds=known, group_limit=REGION_GROUP_LIMIT
            )
            lookup.widen(here(part.heard()))

        async for raw in _draw(target, prefixes, random.Random()):
            nursery.start_soon(look_into, raw)


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
