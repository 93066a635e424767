"""Values of this node and of others: stored, read at a quorum, and mended where they are old."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

import trio

from lattica.dht.client.peers import Peers
from lattica.dht.client.reading import Reader
from lattica.dht.client.writing import Writer
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.records.found import Found
from lattica.dht.records.signed_value import SignedValue, seal_value
from lattica.dht.store.values import ValueStore
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId


class OwnValues(Protocol):
    """What this node has put, which is stored anew until it expires."""

    def put(self, value: SignedValue, now: float, /) -> None:
        """A value of this node was stored."""
        ...

    def value(self, key: bytes, subkey: bytes, /) -> SignedValue | None:
        """What this node has put there."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """What came of storing a value."""

    lookup: Lookup
    held: int
    """Peers that have it, read back."""


class Values:
    """What one node puts and gets.

    Args:
        kept: what it keeps, for others and of its own.
        start: runs a task in the background.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        peers: Peers,
        reader: Reader,
        writer: Writer,
        *,
        identity: Identity,
        own: OwnValues,
        kept: ValueStore,
        start: Callable[[Callable[[], Awaitable[object]]], object],
        clock: Callable[[], float],
    ) -> None:
        self._peers = peers
        self._reader = reader
        self._writer = writer
        self._identity = identity
        self._own = own
        self._kept = kept
        self._start = start
        self._clock = clock
        self._puts: WeakValueDictionary[tuple[bytes, bytes], trio.Lock] = WeakValueDictionary()
        """Who puts something there now, and who waits for it."""

    async def put(self, wire: bytes, subkey: bytes, data: bytes, ttl: float) -> Stored:
        """Store a value for `ttl` seconds, with a higher number than any before. Nothing is kept
        or sent where nobody answers. What is put in the same place at the same time is put one
        after the other, the last one last.
        """
        async with self._puts.setdefault((wire, subkey), trio.Lock()):
            return await self._put(wire, subkey, data, ttl)

    async def _put(self, wire: bytes, subkey: bytes, data: bytes, ttl: float) -> Stored:
        now = self._clock()
        known = await self._reader.values(wire, owner=self._identity.peer_id)
        lookup = _of(known.lookup)
        if not lookup.answers:
            return Stored(lookup, 0)
        before = [v.sequence for v in known.values.values() if v.subkey == subkey]
        mine = self._own.value(wire, subkey)
        if mine is not None:
            before.append(mine.sequence)
        signed = seal_value(
            self._identity,
            wire,
            subkey,
            data,
            sequence=max([int(now * 1000), *(s + 1 for s in before)]),
            expires=int((now + ttl) * 1000),
        )
        # Kept before it is sent: it is this node's word from then on.
        self._own.put(signed, now)
        self._kept.put(signed, None, now)
        return Stored(lookup, len(await self._writer.values(lookup.closest(), [signed])))

    async def get(
        self, wire: bytes, *, owner: PeerId | None, quorum: int
    ) -> tuple[Found | None, Lookup]:
        """The newest values under a key; None: there are none."""
        collected = await self._reader.values(wire, owner=owner, quorum=quorum)
        now = self._clock()
        own, after = self._kept.get(wire, now, owner=owner)
        while after:
            more, after = self._kept.get(wire, now, owner=owner, after=after)
            own += more
        collected.take(own)
        lookup = _of(collected.lookup)
        if not collected.values:
            return None, lookup
        self._mend(lookup, list(collected.values.values()), collected.holders)
        return Found.of(collected.values.values(), len(collected.holders)), lookup

    def _mend(
        self,
        lookup: Lookup,
        values: Sequence[SignedValue],
        holders: dict[Contact, frozenset[bytes]],
    ) -> None:
        """Give what was found to the nearest peer that has it not, or not all, in the background:
        who looks for it the same way finds it sooner, and what is old dies out.
        """
        current = {value.envelope for value in values}
        lacking = (
            contact
            for contact in lookup.closest()
            if not current <= holders.get(contact, frozenset())
        )
        nearest = next(lacking, None)
        if nearest is not None:
            self._start(lambda: self._give(nearest, values))

    async def _give(self, contact: Contact, values: Sequence[SignedValue]) -> None:
        by_owner: dict[PeerId, list[SignedValue]] = {}
        for value in values:
            by_owner.setdefault(value.owner, []).append(value)
        for some in by_owner.values():
            await self._writer.values([contact], some)


def _of(lookup: Lookup | None) -> Lookup:
    assert lookup is not None
    return lookup
