"""The DHT for threads and asyncio: `Lattica.dht` and `AsyncLattica.dht`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from lattica.facades.closable import OnlyAsyncWith
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.iterators import AsyncIterator, BlockingIterator
from lattica.nat.base.checks import check_several

if TYPE_CHECKING:
    from lattica.dht.client.provider_stream import ProviderStream
    from lattica.dht.records.found import Found, FoundPeer
    from lattica.dht.records.keys import KeyLike
    from lattica.dht.status import DhtStatus
    from lattica.nat.base.keys.identity import PeerId
    from lattica.node import Node


def _listed(keys: Iterable[KeyLike]) -> list[KeyLike]:
    check_several("keys", keys, "several texts or bytes")
    return [*keys]


class BlockingDht:
    """Values, providers and peers, found without a centre; see :class:`lattica.dht.dht.Dht`."""

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        self._bridge = bridge
        self._dht = bridge.call_plain(lambda: node.dht)

    def put(
        self,
        key: KeyLike,
        value: object,
        *,
        subkey: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> int:
        """See :meth:`lattica.dht.dht.Dht.put`."""
        put = partial(self._dht.put, key, value, subkey=subkey, ttl=ttl)
        return self._bridge.call(put, timeout=timeout)

    def get(
        self,
        key: KeyLike,
        *,
        owner: PeerId | str | None = None,
        quorum: int | None = None,
        timeout: float | None = None,
    ) -> Found | None:
        """See :meth:`lattica.dht.dht.Dht.get`."""
        get = partial(self._dht.get, key, owner=owner, quorum=quorum)
        return self._bridge.call(get, timeout=timeout)

    def get_many(
        self,
        keys: Iterable[KeyLike],
        *,
        owner: PeerId | str | None = None,
        timeout: float | None = None,
    ) -> dict[KeyLike, Found | None]:
        """See :meth:`lattica.dht.dht.Dht.get_many`."""
        get_many = partial(self._dht.get_many, _listed(keys), owner=owner)
        return self._bridge.call(get_many, timeout=timeout)

    def provide(self, key: KeyLike, *, timeout: float | None = None) -> int:
        """See :meth:`lattica.dht.dht.Dht.provide`."""
        return self._bridge.call(self._dht.provide, key, timeout=timeout)

    def provide_many(
        self, keys: Iterable[KeyLike], *, timeout: float | None = None
    ) -> dict[KeyLike, int]:
        """See :meth:`lattica.dht.dht.Dht.provide_many`."""
        return self._bridge.call(self._dht.provide_many, _listed(keys), timeout=timeout)

    def withdraw(self, key: KeyLike, *, timeout: float | None = None) -> int:
        """See :meth:`lattica.dht.dht.Dht.withdraw`."""
        return self._bridge.call(self._dht.withdraw, key, timeout=timeout)

    def find_providers(self, key: KeyLike, *, count: int | None = None) -> BlockingProviders:
        """Who has something, as they are found; see :meth:`lattica.dht.dht.Dht.find_providers`.

        Whoever stops early closes it, or uses `with`, to end the lookup.
        """
        find = partial(self._dht.find_providers, key, count=count)
        return BlockingProviders(self._bridge, self._bridge.call_plain(find))

    def find_peer(self, peer: PeerId | str, *, timeout: float | None = None) -> FoundPeer | None:
        """See :meth:`lattica.dht.dht.Dht.find_peer`."""
        return self._bridge.call(self._dht.find_peer, peer, timeout=timeout)

    def remembered(self, peer: PeerId) -> FoundPeer | None:
        """See :meth:`lattica.dht.dht.Dht.remembered`."""
        return self._bridge.call_plain(self._dht.remembered, peer)

    def peers(self) -> tuple[FoundPeer, ...]:
        """See :meth:`lattica.dht.dht.Dht.peers`."""
        return self._bridge.call_plain(self._dht.peers)

    def status(self) -> DhtStatus:
        """See :meth:`lattica.dht.dht.Dht.status`."""
        return self._bridge.call_plain(self._dht.status)

    def wait_ready(self, *, timeout: float | None = None) -> None:
        """See :meth:`lattica.dht.dht.Dht.wait_ready`."""
        self._bridge.call(self._dht.wait_ready, timeout=timeout)


class BlockingProviders(BlockingIterator["FoundPeer"]):
    """Peers, one after the other, as a blocking iterator; for any number of threads."""

    def __init__(self, bridge: Bridge[Any], stream: ProviderStream) -> None:
        super().__init__(bridge)
        self._stream = stream

    def receive(  # type: ignore[override] # that a lookup ends is no error
        self, *, timeout: float | None = None
    ) -> FoundPeer | None:
        """The next peer; None: there are no more."""
        return self._next(timeout)

    def close(self) -> None:
        """End the lookup; any number of times."""
        self._bridge.soon(self._stream.close)

    def _next(self, timeout: float | None) -> FoundPeer | None:
        return self._bridge.call(_next, self._stream, timeout=timeout, give_back=self._give_back)

    def _give_back(self, peer: FoundPeer | None) -> None:
        if peer is not None:
            self._bridge.soon(self._stream.put_back, peer)


class AsyncDht:
    """Values, providers and peers, found without a centre; see :class:`lattica.dht.dht.Dht`."""

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        self._bridge = bridge
        self._node = node

    async def put(
        self,
        key: KeyLike,
        value: object,
        *,
        subkey: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> int:
        """See :meth:`lattica.dht.dht.Dht.put`."""

        async def put() -> int:
            return await self._node.dht.put(key, value, subkey=subkey, ttl=ttl)

        return await self._bridge.acall(put, timeout=timeout)

    async def get(
        self,
        key: KeyLike,
        *,
        owner: PeerId | str | None = None,
        quorum: int | None = None,
        timeout: float | None = None,
    ) -> Found | None:
        """See :meth:`lattica.dht.dht.Dht.get`."""

        async def get() -> Found | None:
            return await self._node.dht.get(key, owner=owner, quorum=quorum)

        return await self._bridge.acall(get, timeout=timeout)

    async def get_many(
        self,
        keys: Iterable[KeyLike],
        *,
        owner: PeerId | str | None = None,
        timeout: float | None = None,
    ) -> dict[KeyLike, Found | None]:
        """See :meth:`lattica.dht.dht.Dht.get_many`."""
        wanted = _listed(keys)

        async def get_many() -> dict[KeyLike, Found | None]:
            return await self._node.dht.get_many(wanted, owner=owner)

        return await self._bridge.acall(get_many, timeout=timeout)

    async def provide(self, key: KeyLike, *, timeout: float | None = None) -> int:
        """See :meth:`lattica.dht.dht.Dht.provide`."""

        async def provide() -> int:
            return await self._node.dht.provide(key)

        return await self._bridge.acall(provide, timeout=timeout)

    async def provide_many(
        self, keys: Iterable[KeyLike], *, timeout: float | None = None
    ) -> dict[KeyLike, int]:
        """See :meth:`lattica.dht.dht.Dht.provide_many`."""
        wanted = _listed(keys)

        async def provide_many() -> dict[KeyLike, int]:
            return await self._node.dht.provide_many(wanted)

        return await self._bridge.acall(provide_many, timeout=timeout)

    async def withdraw(self, key: KeyLike, *, timeout: float | None = None) -> int:
        """See :meth:`lattica.dht.dht.Dht.withdraw`."""

        async def withdraw() -> int:
            return await self._node.dht.withdraw(key)

        return await self._bridge.acall(withdraw, timeout=timeout)

    def find_providers(self, key: KeyLike, *, count: int | None = None) -> AsyncProviders:
        """Who has something, as they are found; see :meth:`lattica.dht.dht.Dht.find_providers`.

        The lookup begins with the first that is awaited. Whoever stops early uses `async with`, or
        `aclose`, to end it.
        """
        return AsyncProviders(self._bridge, partial(self._find_providers, key, count))

    def _find_providers(self, key: KeyLike, count: int | None) -> ProviderStream:
        return self._node.dht.find_providers(key, count=count)

    async def find_peer(
        self, peer: PeerId | str, *, timeout: float | None = None
    ) -> FoundPeer | None:
        """See :meth:`lattica.dht.dht.Dht.find_peer`."""

        async def find_peer() -> FoundPeer | None:
            return await self._node.dht.find_peer(peer)

        return await self._bridge.acall(find_peer, timeout=timeout)

    async def remembered(self, peer: PeerId) -> FoundPeer | None:
        """See :meth:`lattica.dht.dht.Dht.remembered`."""
        return await self._bridge.acall_plain(lambda: self._node.dht.remembered(peer))

    async def peers(self) -> tuple[FoundPeer, ...]:
        """See :meth:`lattica.dht.dht.Dht.peers`."""
        return await self._bridge.acall_plain(lambda: self._node.dht.peers())

    async def status(self) -> DhtStatus:
        """See :meth:`lattica.dht.dht.Dht.status`."""
        return await self._bridge.acall_plain(lambda: self._node.dht.status())

    async def wait_ready(self, *, timeout: float | None = None) -> None:
        """See :meth:`lattica.dht.dht.Dht.wait_ready`."""

        async def wait_ready() -> None:
            await self._node.dht.wait_ready()

        await self._bridge.acall(wait_ready, timeout=timeout)


class AsyncProviders(AsyncIterator["FoundPeer"], OnlyAsyncWith):
    """Peers, one after the other: `async for peer in providers`."""

    def __init__(self, bridge: Bridge[Any], begin: partial[ProviderStream]) -> None:
        super().__init__(bridge)
        self._begin = begin
        self._stream: ProviderStream | None = None

    async def receive(  # type: ignore[override] # that a lookup ends is no error
        self, *, timeout: float | None = None
    ) -> FoundPeer | None:
        """The next peer; None: there are no more."""
        return await self._next(timeout)

    async def aclose(self) -> None:
        """End the lookup; any number of times."""
        if self._stream is not None:
            self._bridge.soon(self._stream.close)

    async def _next(self, timeout: float | None) -> FoundPeer | None:
        if self._stream is None:
            self._stream = await self._bridge.acall_plain(self._begin)
        return await self._bridge.acall(
            _next, self._stream, timeout=timeout, give_back=self._give_back
        )

    def _give_back(self, peer: FoundPeer | None) -> None:
        if peer is not None and self._stream is not None:
            self._bridge.soon(self._stream.put_back, peer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _next(stream: ProviderStream) -> FoundPeer | None:
    return await anext(stream, None)
