"""Topics for asyncio: `AsyncLattica.topic`."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any, Self

from lattica.dht.topics.membership.core import MemberEvent
from lattica.dht.topics.service.topic import Topic, Validator
from lattica.dht.topics.signing import Message
from lattica.facades.closable import OnlyAsyncWith
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.iterators import AsyncIterator, AsyncSubscription
from lattica.facades.topics.core import MembersCore, MessagesCore, TopicHandle
from lattica.nat.base.buffers import AnyBuffer, flat_bytes
from lattica.nat.base.keys.identity import PeerId


class AsyncTopic(TopicHandle):
    """A topic, for asyncio; see :class:`lattica.dht.topics.service.topic.Topic`.

    ::

        topic = await lattica.topic("weights/v1")
        await topic.publish(b"step 17")
        async with topic.subscribe() as messages:
            async for message in messages:
                print(message.source, message.data)
    """

    async def publish(self, data: AnyBuffer, *, timeout: float | None = None) -> int:
        """Send a message to all who have subscribed; see `Topic.publish`."""
        data = bytes(flat_bytes(data))
        return await self._bridge.acall(self._topic.publish, data, timeout=timeout)

    def subscribe(self, *, limit: int | None = None) -> AsyncMessages:
        """The messages of others from the time on at which it is entered, with `async with`."""
        return AsyncMessages(self._bridge, self._topic, limit)

    def membership(self, data: bytes = b"") -> AsyncMembers:
        """Be a member, and know who else is, in an `async with` block; see `Topic.membership`."""
        return AsyncMembers(self._bridge, self._topic, data)

    async def set_validator(self, validator: Validator | None) -> None:
        """Have messages judged; see `Topic.set_validator`.

        It is called in the node's thread, under trio, and must not block.
        """
        await self._bridge.acall_plain(self._topic.set_validator, validator)

    async def peers(self) -> tuple[PeerId, ...]:
        """The connected peers that have subscribed."""
        return await self._bridge.acall_plain(self._peers)

    async def wait_peers(self, count: int = 1, *, timeout: float | None = None) -> None:
        """Wait until so many connected peers have subscribed."""
        await self._bridge.acall(self._topic.wait_peers, count, timeout=timeout)


class AsyncMessages(AsyncIterator[Message], OnlyAsyncWith):
    """A topic's messages, one after the other: `async for message in messages`.

    It ends when it is closed, by anybody, or the node is. What is not taken is kept as
    `Subscription` says.
    """

    def __init__(self, bridge: Bridge[Any], topic: Topic, limit: int | None) -> None:
        super().__init__(bridge)
        self._topic = topic
        self._limit = limit
        self._core = MessagesCore()
        self._waiting: deque[Message] = deque()

    async def lost(self) -> int:
        """Messages that were lost because too many waited."""
        return await self._bridge.acall_plain(self._core.lost)

    def close(self) -> None:
        """End the subscription; any number of times. Whoever waits for a message stops."""
        self._waiting.clear()
        self._bridge.soon(self._core.close)

    async def __aenter__(self) -> Self:
        await self._bridge.acall_plain(self._core.open, self._topic, self._limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _next(self, timeout: float | None) -> Message | None:
        while not self._waiting:
            found = await self._bridge.acall(
                self._core.receive, timeout=timeout, give_back=self._core.put_back
            )
            if not found:
                return None
            self._waiting.extend(found)
        return self._waiting.popleft()


class AsyncMembers(AsyncSubscription[MemberEvent], OnlyAsyncWith):
    """Who is a member of a topic: `members` now, and joins and leaves with `async for`.

    It ends when the block does, or the node is closed.
    """

    over = "this membership has ended"

    def __init__(self, bridge: Bridge[Any], topic: Topic, data: bytes) -> None:
        core = MembersCore()
        super().__init__(bridge, core)
        self._members = core.members
        self._open = partial(core.open, topic, data)

    async def members(self) -> dict[PeerId, bytes]:
        """The others, and what each says of itself."""
        return await self._bridge.acall_plain(self._members)

    async def __aenter__(self) -> Self:
        await self._bridge.acall(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
