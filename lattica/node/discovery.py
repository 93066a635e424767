"""How a node finds peers of a topic: what :mod:`lattica.dht.discovery` asks, put together."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from lattica.dht.discovery.discovery import Discovery
from lattica.dht.discovery.source import FoundPeer, Source
from lattica.dht.discovery.sources import (
    DhtSource,
    RendezvousSource,
    StaticSource,
    TopicSource,
)
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.interfaces import local_addresses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from lattica.dht.topics.service.topic import Topic
    from lattica.nat.base.keys.identity import PeerId
    from lattica.node import Node

_CONNECT_TIMEOUT = 20.0


def make_discovery(node: Node, nursery: trio.Nursery, own_record: Callable[[], bytes]) -> Discovery:
    """Of what the configuration names, and the topics of the node."""
    config = node.config.discovery
    sources: list[Source] = [
        TopicSource(lambda topic: node.topics.peers(topic)),
        StaticSource(node.config.bootstrap),
        *(
            RendezvousSource(node, addr, own_record, node.swarm.told_names)
            for addr in config.rendezvous
        ),
    ]
    if node.config.dht.enabled:
        sources.append(DhtSource(node.dht))
    if config.mdns:
        from lattica.dht.discovery.mdns.service import MdnsSource

        sources.append(
            MdnsSource(
                node.peer_id,
                nursery,
                lambda: node.addrs,
                lambda: _interfaces(config.mdns_interfaces),
                port=config.mdns_port,
            )
        )
    return Discovery(node.peer_id, nursery, sources)


def _interfaces(wanted: Collection[str]) -> list[str]:
    """Addresses of the interfaces that are named, or have an address that is; none: of all."""
    return [
        str(each.ip) if each.ip.version == 4 else f"{each.ip}%{each.name}"
        for each in local_addresses()
        if not wanted or each.name in wanted or str(each.ip) in wanted
    ]


def finds_strangers(node: Node) -> bool:
    """Whether there is anybody to ask for peers that nobody has named."""
    config = node.config.discovery
    return bool(config.rendezvous or config.mdns or node.config.dht.enabled)


class DocumentDiscovery:
    """Where the store's documents find the peers that have them
    (:class:`lattica.crdt.store.surroundings.Discovery`).
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    async def advertise(self, key: bytes, /) -> None:
        """Be found by whoever opens the document."""
        name = _document(key)
        if name in self._node.discovery.advertised:
            await trio.lowlevel.checkpoint()
        else:
            await self._node.discovery.advertise(name)

    async def find(self, key: bytes, /) -> AsyncIterator[PeerId]:
        """Who has it."""
        async for peer in self._node.discovery.find_peers(_document(key)):
            if _is_met(self._node.discovery, peer):
                continue
            for addr in peer.addrs:
                self._node.add_address(peer.peer_id, split_peer(addr)[0])
            yield peer.peer_id


class DocumentTopic:
    """A topic of the node, as news of a document goes along it
    (:class:`lattica.crdt.store.surroundings.Topic`).
    """

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    async def publish(self, data: bytes, /) -> None:
        """Tell everybody who has subscribed."""
        await self._topic.publish(data)

    @asynccontextmanager
    async def subscribe(
        self, is_fit: Callable[[bytes], bool], /
    ) -> AsyncIterator[AsyncIterator[tuple[PeerId, bytes]]]:
        """What others say; who brings what is not fit is trusted less."""
        with self._topic.judging(lambda message: is_fit(message.data)):
            async with self._topic.subscribe() as messages:
                yield ((message.source, message.data) async for message in messages)

    def peers(self) -> Collection[PeerId]:
        """The connected peers that have subscribed."""
        return self._topic.peers()


def _is_met(discovery: Discovery, peer: FoundPeer) -> bool:
    return any(source.is_met for source in discovery.sources if source.name == peer.source)


def _document(key: bytes) -> str:
    return f"lattica/crdt/{key.hex()}"


async def seek_members(node: Node, topic: str) -> None:
    """Connect to peers that have advertised a topic, and be found there oneself."""
    if not finds_strangers(node):
        await trio.lowlevel.checkpoint()
        return  # nobody else is known than those who are connected already
    discovery = node.discovery
    if topic not in discovery.advertised:
        await discovery.advertise(topic)
    wanted = node.config.topics.mesh.size
    async for peer in discovery.find_peers(topic):
        if len(node.topics.peers(topic)) >= wanted:
            return
        if not node.is_connected(peer.peer_id) and not _is_met(discovery, peer):
            with trio.move_on_after(_CONNECT_TIMEOUT), suppress(LatticaError, OSError):
                await node.connect(peer.addrs or peer.peer_id)
