"""The topic on which nodes of the original say by which relays they are reached.

A message has the address and the network's name, in bincode, as the published 1.0.21 writes it; its
public sources are older, and have the address alone.
"""

from __future__ import annotations

import logging
import math
from typing import Final

import trio

from lattica.compat.wire.bincode import Reader
from lattica.compat.wire.bincode import text as encode_text
from lattica.dht.topics.signing import Message
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import parse_multiaddr, relay_of, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.services.identify.service import ADDRESS_TTL
from lattica.node import Node

logger = logging.getLogger(__name__)

TOPIC: Final = "p2p-circuit-broadcast"
_MAX_ADDRESS: Final = 512
_WAITING: Final = 256
_RETRY: Final = 0.2
"""Seconds between attempts to tell an address that nobody has listened to."""
_MAX_DIALING: Final = 8
_MAX_PEERS: Final = 128
"""With so many peers connected none is dialed because it has said where it is."""
_DIAL_TIMEOUT: Final = 30.0
"""Seconds."""


def encode_circuit(addr: str, network: str) -> bytes:
    """An address by a relay, as a message of the topic."""
    return encode_text(addr) + encode_text(network)


def decode_circuit(data: bytes) -> tuple[Multiaddr, str]:
    """The address and the network's name. Raises RemoteProtocolError, AddressError."""
    reader = Reader(data)
    addr, network = reader.text(_MAX_ADDRESS), reader.text(_MAX_ADDRESS)
    reader.end()
    return parse_multiaddr(addr), network


class Circuits:
    """Publishes this node's relayed addresses, and connects to others of its network by theirs.

    The original has them in its routing table, and so gets to know all of them. Where nobody can be
    reached but by a relay there is no server of the DHT from which they could hear of each other.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._topic = node.topic(TOPIC)
        self._network = node.config.swarm.identify.protocol_version
        self._again = trio.Event()
        self._dialing: set[PeerId] = set()

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
                peer = self._take(message)
                if peer is not None and self._is_worth_dialing(peer):
                    self._dialing.add(peer)
                    nursery.start_soon(self._connect, peer)

    async def _publish(self) -> None:
        told: set[str] = set()
        while True:
            if self._again.is_set():
                self._again = trio.Event()
                told.clear()
            own = {str(addr) for addr in self._node.addrs if relay_of(addr) is not None}
            for text in sorted(own - told):
                if await self._topic.publish(encode_circuit(text, self._network)):
                    told.add(text)
            told &= own
            # Peers take some time to say that they listen to the topic.
            with trio.move_on_after(_RETRY if own - told else math.inf):
                await self._node.swarm.wait_changed()

    def _is_worth_dialing(self, peer: PeerId) -> bool:
        peers = self._node.swarm.registry.by_peer
        return (
            peer not in peers
            and peer not in self._dialing
            and peer != self._node.peer_id
            and len(self._dialing) < _MAX_DIALING
            and len(peers) < _MAX_PEERS
        )

    async def _connect(self, peer: PeerId) -> None:
        try:
            with trio.move_on_after(_DIAL_TIMEOUT):
                await self._node.connect(peer)
        except LatticaError as error:
            logger.debug("a peer that said where it is is not reached: %s peer=%s", error, peer)
        finally:
            self._dialing.discard(peer)

    def _take(self, message: Message) -> PeerId | None:
        """The peer that has said where it is, which is remembered."""
        if len(message.data) > _MAX_ADDRESS:
            return None
        try:
            told, network = decode_circuit(message.data)
            addr, named = split_peer(told)
        except LatticaError as error:
            logger.debug("no address was told: %s peer=%s", error, message.source)
            return None
        if network != self._network:
            return None
        if named not in (None, message.source) or relay_of(addr) is None:
            return None
        self._node.swarm.address_book.add(message.source, [addr], ADDRESS_TTL)
        return message.source
