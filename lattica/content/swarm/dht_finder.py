"""Content ids in the DHT: who provides one, and that this node does."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from lattica.content.swarm.messages import Member
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.limits.backoff import pause_after

if TYPE_CHECKING:
    from lattica.content.manifest.cid import Cid
    from lattica.node import Node

logger = logging.getLogger(__name__)

AGAIN_FIRST, AGAIN_LIMIT = 15.0, 900.0
"""Seconds after which the DHT is told again what it has not kept, the first time and at most."""
_FIND_TIMEOUT = 20.0
"""Seconds that providers are looked for."""
_MAX_PROVIDERS = 16
"""So many are enough to begin with: they know of others."""
_WITHDRAW_TIMEOUT = 3.0
_SHA256 = b"\x12\x20"


class DhtFinder:
    """A node's DHT as a :class:`~lattica.content.swarm.providers.ProviderFinder`. The key is the
    id's multihash, as in every libp2p network.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rng = random.Random()

    async def find_providers(self, cid: Cid) -> Sequence[Member]:
        found: list[Member] = []
        with trio.move_on_after(_FIND_TIMEOUT):
            async with self._node.dht.find_providers(_key(cid), count=_MAX_PROVIDERS) as providers:
                async for peer in providers:
                    found.append(Member(peer.peer_id, peer.addrs))
        return found

    async def provide(self, cid: Cid, *, is_here: Callable[[], bool] = lambda: True) -> None:
        """Say that this node has it. Where nobody is told, as a node that starts before its network
        is there finds nobody, it is tried again for as long as it is here."""
        failures, level = 0, logging.WARNING
        while is_here():
            try:
                held = await self._node.dht.provide(_key(cid))
            except LatticaError as error:
                text = "%s is not found by the DHT yet, only by its ticket: %s"
                logger.log(level, text, cid, error)
            else:
                logger.info("%d peers of the DHT know that %s is here", held, cid)
                return
            failures, level = failures + 1, logging.DEBUG
            await trio.sleep(pause_after(failures, AGAIN_FIRST, AGAIN_LIMIT, self._rng))

    async def withdraw(self, cid: Cid) -> None:
        """Say that this node has it no more, for a few seconds, even if cancelled."""
        with trio.move_on_after(_WITHDRAW_TIMEOUT, shield=True), suppress(LatticaError):
            await self._node.dht.withdraw(_key(cid))


def _key(cid: Cid) -> bytes:
    return _SHA256 + cid.digest


def dht_finder(node: Node) -> DhtFinder | None:
    """None where the node takes part in no DHT, and there is nobody to join one by."""
    config = node.config
    return DhtFinder(node) if config.dht.enabled or config.bootstrap else None
