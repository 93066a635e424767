"""Discovery for threads and for asyncio: `Lattica.discovery`, `AsyncLattica.discovery`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from lattica.facades.bridge import Bridge
from lattica.facades.facade import EventsCore
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess

if TYPE_CHECKING:
    from lattica.dht.discovery.discovery import FoundPeers
    from lattica.dht.discovery.source import FoundPeer
    from lattica.node import Node


class _Found(InProcess):
    """Peers that are being looked for."""

    def __init__(self, bridge: Bridge[Any]) -> None:
        self._bridge = bridge
        self._core: EventsCore[FoundPeer] = EventsCore()

    def _open(self, node: Node, topic: str) -> None:
        found = node.discovery.find_peers(topic)

        @contextmanager
        def looking() -> Iterator[FoundPeers]:
            try:
                yield found
            finally:
                found.close()

        self._core.open(looking)

    def close(self) -> None:
        """Look no further; any number of times. Whoever waits for a peer stops."""
        self._bridge.soon(self._core.close)


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


class BlockingFoundPeers(_Found):
    """Peers as they are found, as a blocking iterator. `with` closes it."""

    def __init__(self, bridge: Bridge[Any], node: Node, topic: str) -> None:
        super().__init__(bridge)
        bridge.call_plain(self._open, node, topic)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FoundPeer:
        try:
            peer = self._bridge.call(self._core.receive, give_back=self._core.put_back)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise
            peer = None
        if peer is None:
            raise StopIteration
        return peer


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


class AsyncFoundPeers(_Found):
    """Peers as they are found: `async for peer in found`."""

    def __init__(self, bridge: Bridge[Any], node: Node, topic: str) -> None:
        super().__init__(bridge)
        self._opened = bridge.submit_plain(self._open, node, topic)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FoundPeer:
        try:
            peer = await self._bridge.acall(self._core.receive, give_back=self._core.put_back)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise
            peer = None
        if self._opened.done():
            self._opened.result()  # raises what was wrong with the topic
        if peer is None:
            raise StopAsyncIteration
        return peer
