"""How a node finds peers of a topic: what :mod:`lattica.dht.discovery` asks, put together."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from lattica.dht.discovery.discovery import Discovery
from lattica.dht.discovery.mdns.service import MdnsSource
from lattica.dht.discovery.source import Source
from lattica.dht.discovery.sources import RendezvousSource, StaticSource, TopicSource
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.net.interfaces import local_addresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from lattica.node import Node

_CONNECT_TIMEOUT = 20.0


def make_discovery(node: Node, nursery: trio.Nursery, own_record: Callable[[], bytes]) -> Discovery:
    """Of what the configuration names, and the topics of the node."""
    config = node.config.discovery
    sources: list[Source] = [
        TopicSource(lambda topic: node.topics.peers(topic)),
        StaticSource(node.config.bootstrap),
        *(RendezvousSource(node, addr, own_record) for addr in config.rendezvous),
    ]
    if config.mdns:
        sources.append(
            MdnsSource(
                node.peer_id,
                nursery,
                lambda: node.addrs,
                _interfaces,
                port=config.mdns_port,
            )
        )
    return Discovery(node.peer_id, nursery, sources)


def _interfaces() -> list[str]:
    return [str(each.ip) for each in local_addresses() if each.ip.version == 4]


async def seek_members(node: Node, topic: str) -> None:
    """Connect to peers that have advertised a topic, and be found there oneself."""
    discovery = node.discovery
    if not any(source.name in ("rendezvous", "mdns", "dht") for source in discovery.sources):
        await trio.lowlevel.checkpoint()
        return  # nobody else is known than those who are connected already
    if topic not in discovery.advertised:
        await discovery.advertise(topic)
    wanted = node.config.topics.mesh.size
    async for peer in discovery.find_peers(topic):
        if len(node.topics.peers(topic)) >= wanted:
            return
        if not node.is_connected(peer.peer_id) and peer.source not in ("topic", "static"):
            with trio.move_on_after(_CONNECT_TIMEOUT), suppress(LatticaError, OSError):
                await node.connect(peer.addrs or peer.peer_id)
