"""Channels of weights for asyncio: `AsyncLattica.publish_weights` and `.follow_weights`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from lattica.content.tensors.elements import StateDict
from lattica.content.weights.options import PushedVersion, WeightOptions, WeightVersion
from lattica.content.weights.publisher import WeightPublisher
from lattica.content.weights.subscriber import WeightSubscriber
from lattica.facades.closable import OnlyAsyncWith
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.iterators import AsyncIterator
from lattica.facades.weights.core import CLOSED, Held, VersionsCore
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess

if TYPE_CHECKING:
    from lattica.node import Node


class AsyncWeightPublisher(InProcess, OnlyAsyncWith):
    """Publishes versions of weights: `async with lattica.publish_weights("policy") as publisher:
    await publisher.push(state)`; see :class:`lattica.content.WeightPublisher`.
    """

    def __init__(
        self, bridge: Bridge[Any], node: Node, name: str, options: WeightOptions | None
    ) -> None:
        self._bridge = bridge
        self._node = node
        self._make = lambda: WeightPublisher(node, name, options)
        self._held: Held[WeightPublisher]
        self.channel = f"{node.peer_id}/{name}"
        """As others follow it."""

    async def push(
        self, state: StateDict, *, version: int | None = None, timeout: float | None = None
    ) -> PushedVersion:
        """Publish a version; see :meth:`lattica.content.WeightPublisher.push`."""

        async def push() -> PushedVersion:
            return await self._held.value.push(state, version=version)

        return await self._bridge.acall(push, timeout=timeout)

    async def __aenter__(self) -> Self:
        self._held = Held(self._node, self._make)
        await self._bridge.acall(self._held.open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await _close(self._bridge, self._held)


class AsyncWeightSubscriber(AsyncIterator[WeightVersion], OnlyAsyncWith):
    """Follows a channel of weights: `async with lattica.follow_weights("PEER/policy") as weights:
    async for version in weights: …`; see :class:`lattica.content.WeightSubscriber`.
    """

    over = CLOSED

    def __init__(
        self, bridge: Bridge[Any], node: Node, channel: str, options: WeightOptions | None
    ) -> None:
        super().__init__(bridge)
        self._node = node
        self._make = lambda: WeightSubscriber(node, channel, options)
        self._held: Held[WeightSubscriber]
        self._core: VersionsCore

    async def newest(self) -> WeightVersion | None:
        """The newest version that is here."""
        return await self._bridge.acall_plain(self._core.newest)

    async def wait(self, after: int = -1, *, timeout: float | None = None) -> WeightVersion:
        """The newest version, once there is one that is newer than `after`."""
        return await self._bridge.acall(self._core.wait, after, timeout=timeout)

    async def __aenter__(self) -> Self:
        self._held = Held(self._node, self._make)
        self._core = VersionsCore(self._held)
        await self._bridge.acall(self._held.open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await _close(self._bridge, self._held)

    async def _next(self, timeout: float | None) -> WeightVersion | None:
        return await self._bridge.acall(
            self._core.receive, timeout=timeout, give_back=self._core.put_back
        )


async def _close(bridge: Bridge[Any], held: Held[Any]) -> None:
    try:
        await bridge.acall(held.aclose)
    except LocalProtocolError:
        if not bridge.closing:
            raise
