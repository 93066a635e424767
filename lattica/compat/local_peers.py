"""Connects to peers of the same network that multicast DNS finds, as the original does."""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING, Final

import trio

from lattica.nat.base.errors import LatticaError

if TYPE_CHECKING:
    from lattica.dht.discovery.source import FoundPeer
    from lattica.nat.base.keys.peer_id import PeerId
    from lattica.node import Node

logger = logging.getLogger(__name__)

_TURN: Final = 15.0
"""Seconds between two looks: whoever comes meanwhile looks at once."""
_AGAIN: Final = 300.0
"""Seconds for which a peer is left alone that is of another network."""
_SOON: Final = 30.0
"""The same for one that did not answer: it, or this machine, may be busy."""
_CONNECT_TIMEOUT: Final = 10.0
_IDENTIFY_TIMEOUT: Final = 15.0
_AT_ONCE: Final = 8
_MOST: Final = 64
"""Peers that are connected at most because they are near, and those that are left alone."""


class LocalPeers:
    """What is found is only an address: who is not of this node's network is left again."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._network = node.config.swarm.identify.protocol_version
        self._left: dict[PeerId, float] = {}
        """Until when each is left alone."""
        self._limit = trio.CapacityLimiter(_AT_ONCE)
        self._sources = [source for source in node.discovery.sources if source.name == "mdns"]
        for source in self._sources:
            # Or whoever looks for members of a topic dials strangers again and again.
            source.is_met = True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            async with trio.open_nursery() as nursery:
                for source in self._sources:
                    async for peer in source.find(""):
                        if self._is_wanted(peer.peer_id):
                            self._left[peer.peer_id] = math.inf
                            nursery.start_soon(self._meet, peer)
            await trio.sleep(_TURN * random.uniform(0.8, 1.2))

    def _is_wanted(self, peer_id: PeerId) -> bool:
        now = trio.current_time()
        self._left = {peer: until for peer, until in self._left.items() if until > now}
        if self._node.is_connected(peer_id) or peer_id in self._left:
            return False
        return len(self._left) < _MOST

    async def _meet(self, peer: FoundPeer) -> None:
        node = self._node
        async with self._limit:
            try:
                await node.connect(peer.addrs, timeout=_CONNECT_TIMEOUT)
            except (LatticaError, OSError) as error:  # TimeoutError is one
                logger.debug("a peer of the local network is not reached: %s", error)
                self._leave_alone(peer.peer_id, _SOON)
                return
            with trio.move_on_after(_IDENTIFY_TIMEOUT):
                while (network := self._network_of(peer.peer_id)) == "":
                    await node.swarm.wait_changed()
            if network not in (None, self._network):
                await node.disconnect(peer.peer_id)
                self._leave_alone(peer.peer_id, _AGAIN if network else _SOON)
                return
        # If it is lost, it is met again.
        self._left.pop(peer.peer_id, None)

    def _leave_alone(self, peer_id: PeerId, seconds: float) -> None:
        self._left[peer_id] = trio.current_time() + seconds

    def _network_of(self, peer_id: PeerId) -> str | None:
        """As the peer says; empty: it has not yet; None: it is not connected."""
        for status in self._node.peers():
            if status.peer_id == peer_id:
                return status.protocol_version
        return None
