"""A subscriber's messages: a bounded queue that holds up the peers for a while, and then loses."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from lattica.dht.topics.signing import Message
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess

logger = logging.getLogger(__name__)

_TURN = 32
"""Messages after which a subscriber that finds more lets other tasks run."""


class Source(Protocol):
    """What subscriptions hang on."""

    def attach(self, subscription: Subscription) -> None: ...

    def detach(self, subscription: Subscription) -> None: ...

    def emptied(self, subscription: Subscription) -> None:
        """There is room again."""
        ...


class Subscription(InProcess):
    """The messages of a topic from the time on at which it is entered, of other peers:
    `async with topic.subscribe() as messages: async for message in messages: …`.

    Backpressure: when :attr:`limit` messages wait, this node does not read from its peers, until
    the subscriber takes some; after `TopicsConfig.lagging_after` seconds it loses what does not
    find room (:attr:`lost`), lest it hold up everybody else. The messages end when the node does.
    Every `__anext__` is a checkpoint, but lets other tasks run only once in 32 when messages wait.
    """

    def __init__(
        self,
        source: Source,
        topic: str,
        limit: int,
        wanted: Callable[[Message], bool] | None = None,
    ) -> None:
        self.topic = topic
        self.limit = limit
        """Messages that wait at most."""
        self.lost = 0
        """Messages that were lost because too many waited."""
        self.lagging = False
        """It has not taken anything for so long that nobody waits for it."""
        self._source = source
        self._wanted = wanted
        self._queue: deque[Message] = deque()
        self._arrived = trio.Event()
        self._turn = _TURN
        self._state = "new"
        self._told = False

    def __repr__(self) -> str:
        return f"<Subscription to {self.topic!r}, {len(self._queue)} waiting, {self.lost} lost>"

    def __enter__(self) -> Subscription:
        if self._state != "new":
            raise LocalProtocolError("a subscription is entered once; subscribe again")
        self._state = "open"
        self._source.attach(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._source.detach(self)
        self.close()

    async def __aenter__(self) -> Subscription:
        await trio.lowlevel.checkpoint()
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        if self._state == "new":
            raise LocalProtocolError("enter the subscription first: async with topic.subscribe()")
        self._turn -= 1
        if self._turn <= 0:
            self._turn = _TURN
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        while not self._queue:
            if self._state == "closed":
                raise StopAsyncIteration
            self._turn = _TURN
            self._arrived = trio.Event()
            await self._arrived.wait()
        message = self._queue.popleft()
        if len(self._queue) == self.limit // 2:
            self._has_room()
        return message

    def take_waiting(self, most: int) -> list[Message]:
        """What has come already, up to so many, without waiting."""
        taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        if len(self._queue) <= self.limit // 2:
            self._has_room()
        return taken

    def _has_room(self) -> None:
        self.lagging = self._told = False
        self._source.emptied(self)

    @property
    def is_full(self) -> bool:
        return len(self._queue) >= self.limit

    def put(self, message: Message) -> None:
        """For the node: a message has come."""
        if self._wanted is not None and not self._wanted(message):
            return
        # What a peer has sent at once is taken at once; that is bounded by the size of an RPC.
        if self.lagging and len(self._queue) >= self.limit:
            if not self._told:
                self._told = True
                logger.warning("a subscriber of %r is too slow, and loses messages", self.topic)
            self.lost += 1
            return
        self._queue.append(message)
        self._arrived.set()

    def close(self) -> None:
        """No more messages come; those that wait can still be read."""
        self._state = "closed"
        self._arrived.set()
