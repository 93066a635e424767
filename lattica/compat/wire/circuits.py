"""The topic on which nodes of the original say by which relays they are reached."""

from __future__ import annotations

import logging
from typing import Final

import trio

from lattica.dht.topics.signing import Message
from lattica.nat.base.errors import AddressError, LatticaError
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.services.identify.service import ADDRESS_TTL
from lattica.node import Node

logger = logging.getLogger(__name__)

TOPIC: Final = "p2p-circuit-broadcast"
_CIRCUIT: Final = "/p2p-circuit"
_MAX_ADDRESS: Final = 512
_WAITING: Final = 256


class Circuits:
    """Publishes this node's relayed addresses, and remembers those of others."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._topic = node.topic(TOPIC)
        self._again = trio.Event()

    def peer_came(self) -> None:
        """Somebody is there who may not know them yet."""
        self._again.set()

    async def run(self) -> None:
        """For as long as the node runs."""
        async with (
            self._topic.subscribe(limit=_WAITING) as messages,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._publish)
            async for message in messages:
                self._take(message)

    async def _publish(self) -> None:
        told: set[str] = set()
        while True:
            if self._again.is_set():
                self._again = trio.Event()
                told.clear()
            own = {text for addr in self._node.addrs if _CIRCUIT in (text := str(addr))}
            for text in sorted(own - told):
                if await self._topic.publish(text.encode()):
                    told.add(text)
            told &= own
            await self._node.swarm.wait_changed()

    def _take(self, message: Message) -> None:
        if len(message.data) > _MAX_ADDRESS:
            return
        try:
            addr, named = split_peer(parse_multiaddr(bytes(message.data).decode()))
        except (AddressError, LatticaError, UnicodeDecodeError) as error:
            logger.debug("no address was told: %s", error)
            return
        if named in (None, message.source) and _CIRCUIT in str(addr):
            self._node.swarm.address_book.add(message.source, [addr], ADDRESS_TTL)
