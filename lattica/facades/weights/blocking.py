"""Channels of weights for threads: `Lattica.publish_weights` and `Lattica.follow_weights`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from lattica.content.tensors.elements import StateDict
from lattica.content.weights.options import PushedVersion, WeightOptions, WeightVersion
from lattica.content.weights.publisher import WeightPublisher
from lattica.content.weights.subscriber import WeightSubscriber
from lattica.facades.closable import Closable, OnlyWith
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.iterators import BlockingIterator
from lattica.facades.weights.core import CLOSED, Held, VersionsCore
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess

if TYPE_CHECKING:
    from lattica.node import Node


class BlockingWeightPublisher(Closable, InProcess, OnlyWith):
    """Publishes versions of weights; see :class:`lattica.content.WeightPublisher`.

    ::

        with lattica.publish_weights("policy") as publisher:
            publisher.push(model.state_dict())
    """

    def __init__(
        self, bridge: Bridge[Any], node: Node, name: str, options: WeightOptions | None
    ) -> None:
        self._bridge = bridge
        self._held = Held(node, lambda: WeightPublisher(node, name, options))
        bridge.call(self._held.open)
        self.channel = str(bridge.call_plain(lambda: self._held.value.channel))
        """`PEER/NAME`, as others follow it."""

    def push(
        self, state: StateDict, *, version: int | None = None, timeout: float | None = None
    ) -> PushedVersion:
        """Publish a version; see :meth:`lattica.content.WeightPublisher.push`."""

        async def push() -> PushedVersion:
            return await self._held.value.push(state, version=version)

        return self._bridge.call(push, timeout=timeout)

    @property
    def bytes_sent(self) -> int:
        """Bytes of versions that are served now which have been sent since it began."""
        return self._bridge.call_plain(lambda: self._held.value.bytes_sent)

    def close(self) -> None:
        """Serve its versions no more; any number of times."""
        _close(self._bridge, self._held)


class BlockingWeightSubscriber(BlockingIterator[WeightVersion]):
    """Follows a channel of weights; see :class:`lattica.content.WeightSubscriber`.

    ::

        with lattica.follow_weights("PEER/policy") as weights:
            for version in weights:
                version.load_into(model.state_dict())

    Iterating gives the newest version each time, and waits for one that is newer.
    """

    over = CLOSED

    def __init__(
        self,
        bridge: Bridge[Any],
        node: Node,
        channel: str,
        options: WeightOptions | None,
        on_version: Callable[[WeightVersion], object] | None,
    ) -> None:
        super().__init__(bridge)
        called = None if on_version is None else _in_thread(on_version)
        self._held = Held(node, lambda: WeightSubscriber(node, channel, options, on_version=called))
        self._core = VersionsCore(self._held)
        bridge.call(self._held.open)

    @property
    def newest(self) -> WeightVersion | None:
        """The newest version that is here."""
        return self._bridge.call_plain(self._core.newest)

    def wait(self, after: int = -1, *, timeout: float | None = None) -> WeightVersion:
        """The newest version, once there is one that is newer than `after`."""
        return self._bridge.call(self._core.wait, after, timeout=timeout)

    def close(self) -> None:
        """Follow it no more; any number of times."""
        _close(self._bridge, self._held)

    def _next(self, timeout: float | None) -> WeightVersion | None:
        return self._bridge.call(self._core.receive, timeout=timeout, give_back=self._core.put_back)


def _in_thread(
    on_version: Callable[[WeightVersion], object],
) -> Callable[[WeightVersion], Awaitable[object]]:
    async def call(version: WeightVersion) -> None:
        await trio.to_thread.run_sync(on_version, version)

    return call


def _close(bridge: Bridge[Any], held: Held[Any]) -> None:
    try:
        bridge.call(held.aclose)
    except LocalProtocolError:
        if not bridge.closing:
            raise
