"""Joins the network, and keeps the table fresh: whom this node knows, and who is still there."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable

import trio

from lattica.dht.client.peers import Peers
from lattica.dht.kademlia.contact import Contact, key_of
from lattica.dht.kademlia.messages import MessageType, Request
from lattica.dht.kademlia.network_size import DRAWN
from lattica.dht.kademlia.routing_table import find_preimage
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.swarm.events import EventsLost, PeerConnected, PeerDisconnected

logger = logging.getLogger(__name__)

_PING = Request(MessageType.PING)
_CHECKS = 8
"""Peers that are looked at at a time."""
_MAX_WAITING = 1024
_TURN = 20.0
"""Seconds between two looks at what is due."""
_CHECKED_AT_ONCE = 16
_ENOUGH = 6
"""Peers of a bucket with which lookups find their way."""
_IDENTIFIED = 5.0
"""Seconds that a peer has to say where it is."""
_FIRST_JOINS = (0.5, 2.0, 15.0, 60.0)
"""Seconds until a node looks for itself again after it has come. Those who come at the same time
know little at first; and two networks that know nothing of each other meet where they have a
bootstrap peer in common."""
_JOIN_AGAIN = 300.0
_PATIENCE = 10.0
"""Seconds in which somebody who can be asked answers, if ever."""


class Membership:
    """One node's place in the network.

    Args:
        bootstrap: peers of the configuration, connected or not.
        rng: for keys that are looked up to refresh a part of the table.
    """

    def __init__(
        self,
        peers: Peers,
        bootstrap: Callable[[], Iterable[PeerId]],
        rng: random.Random | None = None,
    ) -> None:
        self._peers = peers
        self._bootstrap = bootstrap
        self._rng = rng or random.Random()
        self._own_id = peers.own.peer_id.to_bytes()
        self._find_self = Request(MessageType.FIND_NODE, self._own_id)
        self._waiting, self._to_check = trio.open_memory_channel[PeerId](_MAX_WAITING)
        self._checking: set[PeerId] = set()
        self._restored: list[Contact] = []
        self.joined = trio.Event()
        """Somebody has answered. Stays set."""
        self._nudge = trio.Event()
        """There is somebody new to ask."""
        self._seen: set[PeerId] = set()
        """Those of the connected peers that are not new."""
        self._last_met = math.inf

    @property
    def patience(self) -> float:
        """Seconds for which it is worth to wait that somebody answers: none where nobody is known
        who might, and where those who are connected have had their time.
        """
        if self.joined.is_set():
            return 0.0
        if self._restored or self._checking or len(self._peers.table) or any(self._bootstrap()):
            return _PATIENCE
        self._meet_all()
        if not self._seen:
            return 0.0
        return max(0.0, self._last_met + _PATIENCE - trio.current_time())

    def restore(self, contacts: Iterable[Contact]) -> None:
        """Peers that were in the table before a restart."""
        self._restored += contacts

    def met(self, peer_id: PeerId) -> None:
        """A peer is connected: it may be one for the table."""
        if peer_id not in self._seen:
            self._seen.add(peer_id)
            self._last_met = trio.current_time()
        if peer_id in self._checking or not self._peers.is_wanted(peer_id):
            return
        try:
            self._waiting.send_nowait(peer_id)
        except trio.WouldBlock:
            return  # it will be met again
        self._checking.add(peer_id)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            for _ in range(_CHECKS):
                nursery.start_soon(self._check)
            nursery.start_soon(self._keep_fresh)
            await self._join()

    # --- who is there ---

    async def _follow(self) -> None:
        with self._peers.host.events() as events:
            self._seen.clear()
            self._meet_all()
            async for event in events:
                if isinstance(event, PeerConnected):
                    self.met(event.peer_id)
                elif isinstance(event, PeerDisconnected):
                    self._seen.discard(event.peer_id)
                elif isinstance(event, EventsLost):
                    self._seen.clear()
                    self._meet_all()

    def _meet_all(self) -> None:
        connected = {status.peer_id for status in self._peers.host.peers()}
        self._seen &= connected
        for peer_id in connected - self._seen:
            self.met(peer_id)

    async def _check(self) -> None:
        async for peer_id in self._to_check:
            try:
                with trio.move_on_after(_IDENTIFIED):
                    await self._peers.ties.wait_addresses(peer_id)
                if self._peers.is_wanted(peer_id):
                    before = len(self._peers.table)
                    # Who is gone meanwhile was left, or has left.
                    await self._peers.ask(Contact.of(peer_id), _PING, dial=False)
                    if not before and len(self._peers.table):
                        self._nudge.set()
            finally:
                self._checking.discard(peer_id)

    # --- joining ---

    async def _join(self) -> None:
        """Look for this node itself again and again, less and less often."""
        failures = 0
        joins = 0
        while True:
            self._nudge = trio.Event()
            if await self._find_neighbours():
                failures = 0
                self.joined.set()
                if not joins:
                    await self._fill()
                again = _FIRST_JOINS[joins] if joins < len(_FIRST_JOINS) else _JOIN_AGAIN
                joins += 1
                pause = again * self._rng.uniform(0.8, 1.2)
                await trio.sleep(pause)
            else:
                failures += 1
                pause = pause_after(failures, 0.5, 30.0, self._rng)
                if failures == 5 and any(self._bootstrap()):
                    logger.info("the DHT: no peer of it answers yet; it is tried again")
                with trio.move_on_after(pause):
                    await self._nudge.wait()

    async def _find_neighbours(self) -> bool:
        """Whether anybody has answered."""
        seeds = [Contact.of(peer_id) for peer_id in self._bootstrap()]
        seeds += self._restored
        self._restored = []
        lookup = await self._peers.look_up(self._peers.own.key, self._find_self, seeds=seeds)
        return lookup.answers > 0

    async def _fill(self) -> None:
        """Look into the buckets of which little is known by what is near to this node."""
        table = self._peers.table
        for prefix in table.to_refresh(trio.current_time() + 1e9):
            if table.sizes().get(prefix, 0) < _ENOUGH:
                await self._refresh(prefix)

    async def _refresh(self, prefix: int) -> None:
        key = find_preimage(self._peers.own.key, prefix, self._rng)
        await self._look_up_drawn(key)

    async def _look_up_drawn(self, key: bytes) -> None:
        request = Request(MessageType.FIND_NODE, key)
        await self._peers.look_up(key_of(key), request, is_drawn=True)

    # --- staying ---

    async def _keep_fresh(self) -> None:
        while True:
            await trio.sleep(_TURN * self._rng.uniform(0.8, 1.2))
            self._peers.questions.sweep()
            table = self._peers.table
            silent = table.to_check(trio.current_time())[:_CHECKED_AT_ONCE]
            async with trio.open_nursery() as nursery:
                for contact in silent:
                    nursery.start_soon(self._peers.ask, contact, _PING)
            for prefix in table.to_refresh(trio.current_time())[:2]:
                await self._refresh(prefix)
            # Of a small network it is known after looking for this node itself.
            if self._peers.sizes.drawn < DRAWN and self._peers.sizes.reach:
                await self._look_up_drawn(self._rng.randbytes(32))
