"""Discovery for threads and for asyncio: `Lattica.discovery`, `AsyncLattica.discovery`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.iterators import AsyncSubscription, BlockingSubscription, EventsCore

if TYPE_CHECKING:
    from lattica.dht.discovery.discovery import FoundPeers
    from lattica.dht.discovery.source import FoundPeer
    from lattica.node import Node


def _open(core: EventsCore[FoundPeer], node: Node, topic: str) -> None:
    found = node.discovery.find_peers(topic)

    @contextmanager
    def looking() -> Iterator[FoundPeers]:
        try:
            yield found
        finally:
            found.close()

    core.open(looking)


class BlockingDiscovery:
    """Peers by topic, for threads; see :class:`lattica.dht.discovery.discovery.Discovery`."""

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        self._bridge = bridge
        self._node = node

    def advertise(self, topic: str, *, timeout: float | None = None) -> int:
        """Be found under a topic; see `Discovery.advertise`."""

        async def advertise() -> int:
            return await self._node.discovery.advertise(topic)

        return self._bridge.call(advertise, timeout=timeout)

    def withdraw(self, topic: str, *, timeout: float | None = None) -> None:
        """Be found there no more; see `Discovery.withdraw`."""

        async def withdraw() -> None:
            await self._node.discovery.withdraw(topic)

        self._bridge.call(withdraw, timeout=timeout)

    def find_peers(self, topic: str) -> BlockingFoundPeers:
        """Who has advertised a topic, as they are found: an iterator."""
        return BlockingFoundPeers(self._bridge, self._node, topic)


class BlockingFoundPeers(BlockingSubscription["FoundPeer"]):
    """Peers as they are found, as a blocking iterator. `with` closes it."""

    def __init__(self, bridge: Bridge[Any], node: Node, topic: str) -> None:
        core: EventsCore[FoundPeer] = EventsCore()
        super().__init__(bridge, core)
        bridge.call_plain(_open, core, node, topic)


class AsyncDiscovery:
    """Peers by topic, for asyncio; see :class:`lattica.dht.discovery.discovery.Discovery`."""

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        self._bridge = bridge
        self._node = node

    async def advertise(self, topic: str, *, timeout: float | None = None) -> int:
        """Be found under a topic; see `Discovery.advertise`."""

        async def advertise() -> int:
            return await self._node.discovery.advertise(topic)

        return await self._bridge.acall(advertise, timeout=timeout)

    async def withdraw(self, topic: str, *, timeout: float | None = None) -> None:
        """Be found there no more; see `Discovery.withdraw`."""

        async def withdraw() -> None:
            await self._node.discovery.withdraw(topic)

        await self._bridge.acall(withdraw, timeout=timeout)

    def find_peers(self, topic: str) -> AsyncFoundPeers:
        """Who has advertised a topic, as they are found: `async for peer in …`."""
        return AsyncFoundPeers(self._bridge, self._node, topic)


class AsyncFoundPeers(AsyncSubscription["FoundPeer"]):
    """Peers as they are found: `async for peer in found`."""

    def __init__(self, bridge: Bridge[Any], node: Node, topic: str) -> None:
        core: EventsCore[FoundPeer] = EventsCore()
        super().__init__(bridge, core, bridge.submit_plain(_open, core, node, topic))
