"""Says in the DHT where this node is: a signed record of its addresses, kept fresh."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import trio

from lattica.dht.client.peers import Peers
from lattica.dht.client.reading import Reader
from lattica.dht.client.writing import Writer
from lattica.dht.records.keys import peer_key
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.events import AddressesChanged, EventsLost

logger = logging.getLogger(__name__)

_DELAY = 1.0
"""Seconds in which changes are gathered."""
_AGAIN = 30.0
"""Seconds until it is tried again when nobody has taken it; more and more."""
_MAX_ADDRS = 32


class Announcer:
    """Publishes the addresses of one node.

    Args:
        every: seconds after which it is said again though nothing has changed.
        clock: seconds since 1970: later records have higher numbers, over restarts, too.
    """

    def __init__(
        self,
        peers: Peers,
        reader: Reader,
        writer: Writer,
        identity: Identity,
        *,
        every: float,
        clock: Callable[[], float],
    ) -> None:
        self._peers = peers
        self._reader = reader
        self._writer = writer
        self._identity = identity
        self._every = every
        self._clock = clock
        self._rng = random.Random()
        self._changed = trio.Event()
        self._sequence = 0
        self.announced: tuple[Multiaddr, ...] = ()
        """What others have been told."""
        self.holders = 0
        """Peers that had the last record."""

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            failures = 0
            while True:
                await trio.sleep(_DELAY)
                self._changed = trio.Event()
                failures = 0 if await self._announce() else failures + 1
                # In a network of other implementations nobody ever takes it.
                pause = self._every
                if failures:
                    pause = min(pause, pause_after(failures, _AGAIN, self._every, self._rng))
                with trio.move_on_after(pause):
                    await self._changed.wait()

    async def _follow(self) -> None:
        with self._peers.host.events() as events:
            async for event in events:
                if isinstance(event, AddressesChanged | EventsLost):
                    self._changed.set()

    async def _announce(self) -> bool:
        addrs = tuple(split_peer(addr)[0] for addr in self._peers.host.addrs)[:_MAX_ADDRS]
        if not addrs:
            return True
        key = peer_key(self._identity.peer_id)
        # Higher than what is there, also where that was said by a clock that was ahead.
        known, _, lookup = await self._reader.plain(key, quorum=None)
        before = max(self._sequence, 0 if known is None else known.sequence)
        self._sequence = max(int(self._clock() * 1000), before + 1)
        record = seal_record(self._identity, self._sequence, addrs)
        self.holders = len(await self._writer.plain(lookup.closest(), key, record))
        self.announced = addrs
        logger.debug("dht: addresses are held by %d peers", self.holders)
        return self.holders > 0
