"""Searching for providers: those that this node knows itself, then the nearest peers' word."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

from lattica.dht.client.finding import PeerFinder
from lattica.dht.client.peers import Peers
from lattica.dht.client.provider_stream import ProviderStream
from lattica.dht.client.reading import Reader
from lattica.dht.client.told import host_of, judged
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.store.providers import ProviderStore
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.peer_id import PeerId

_KEPT = 1024
"""Providers that this node knows itself and tells at once."""


class ProviderSearch:
    """Fills streams of providers.

    Args:
        kept: providers that this node keeps for others.
        ready: waits until peers can be asked.
        require_answers: raises :class:`~lattica.errors.NoDhtPeersError` where a lookup has none.
        limiter: of searches for peers of whom nobody says where they are.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        peers: Peers,
        reader: Reader,
        finder: PeerFinder,
        kept: ProviderStore,
        *,
        ready: Callable[[], Awaitable[None]],
        require_answers: Callable[[Lookup], None],
        limiter: trio.CapacityLimiter,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._peers = peers
        self._reader = reader
        self._finder = finder
        self._kept = kept
        self._ready = ready
        self._require_answers = require_answers
        self._limiter = limiter
        self._clock = clock
        self._rng = rng

    async def run(self, wire: bytes, stream: ProviderStream) -> None:
        """Search for who provides a key; what goes wrong is an error of the stream."""
        nowhere: dict[PeerId, Contact] = {}
        """Of whom nobody has said where they are: others may still, and are believed then."""

        async def locate(contact: Contact) -> None:
            found(await self._peers.located(contact))

        def found(contact: Contact) -> bool:
            if contact.peer_id == self._peers.own.peer_id:
                return False
            if any(host_of(addr) is not None for addr in contact.addrs):
                nowhere.pop(contact.peer_id, None)
                return stream.put(self._finder.remember(contact))
            if contact.addrs:  # there are names only
                nursery.start_soon(locate, contact)
            else:
                nowhere[contact.peer_id] = contact
            return False

        async def search(contact: Contact) -> None:
            async with self._limiter:
                somewhere, _ = await self._finder.find(contact.peer_id)
            stream.put(somewhere or self._finder.remember(contact))

        try:
            with single_error():
                async with trio.open_nursery() as nursery:
                    await self._ask(wire, stream, found)
                async with trio.open_nursery() as nursery:
                    for contact in [c for c in nowhere.values() if not stream.has(c.peer_id)]:
                        nursery.start_soon(search, contact)
        except LatticaError as error:
            stream.end(error)
        finally:
            stream.end()

    async def _ask(
        self, wire: bytes, stream: ProviderStream, found: Callable[[Contact], bool]
    ) -> None:
        for contact in self._kept.get(wire, self._clock(), _KEPT, self._rng):
            if found(judged(contact, self._peers.ties.met_at(contact.peer_id))):
                return
        await self._ready()
        lookup = await self._reader.providers(wire, found)
        if not stream.found:
            self._require_answers(lookup)
