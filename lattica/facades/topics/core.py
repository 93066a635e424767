"""What the topics of both facades do alike."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from lattica.dht.topics.membership.core import MemberEvent
from lattica.dht.topics.membership.service import Membership
from lattica.dht.topics.service.subscription import Subscription
from lattica.dht.topics.service.topic import Topic
from lattica.dht.topics.signing import Message
from lattica.facades.threads.bridge import Bridge
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.identity import PeerId

_AT_ONCE = 256
"""Messages that cross into the caller's thread together."""


class MessagesCore:
    """A subscription; every method is run in the trio thread."""

    def __init__(self) -> None:
        self._subscription: Subscription | None = None
        self._returned: deque[Message] = deque()
        self._lock = trio.Lock()

    def open(self, topic: Topic, limit: int | None) -> None:
        """Messages from now on are kept."""
        self._subscription = topic.subscribe(limit=limit).__enter__()

    async def receive(self) -> list[Message]:
        """The next messages, as many as there are; none: there will be no more."""
        async with self._lock:
            found = list(self._returned)
            self._returned.clear()
            subscription = self._subscription
            if subscription is None:
                return found
            if not found:
                async for message in subscription:
                    found.append(message)
                    break
            return found + subscription.take_waiting(_AT_ONCE - len(found))

    def put_back(self, messages: list[Message]) -> None:
        """Take back what came to nobody."""
        self._returned.extendleft(reversed(messages))

    def lost(self) -> int:
        return 0 if self._subscription is None else self._subscription.lost

    def close(self) -> None:
        """No more messages; whoever waits for one gets none."""
        if self._subscription is not None:
            self._subscription.__exit__()
        self._subscription = None
        self._returned.clear()


class TopicHandle(InProcess):
    """A topic, by its name."""

    def __init__(self, bridge: Bridge[Any], topic: Topic) -> None:
        self._bridge = bridge
        self._topic = topic

    @property
    def name(self) -> str:
        """What it is called."""
        return self._topic.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _peers(self) -> tuple[PeerId, ...]:
        return self._topic.peers()


class MembersCore:
    """A membership; every method is run in the trio thread."""

    def __init__(self) -> None:
        self._membership: Membership | None = None
        self._returned: deque[MemberEvent] = deque()
        self._lock = trio.Lock()
        self._left = trio.Event()
        self._entered = trio.Event()
        self._error: LatticaError | None = None

    async def open(self, topic: Topic, data: bytes) -> None:
        """Be a member from now on."""
        topic.start_soon(self._run, topic.membership(data))
        await self._entered.wait()
        if self._error is not None:
            raise self._error

    async def _run(self, membership: AbstractAsyncContextManager[Membership]) -> None:
        # A task of its own: the membership has a nursery, and lasts longer than a call.
        try:
            async with membership as self._membership:
                self._entered.set()
                await self._left.wait()
        except LatticaError as error:
            self._error = error
        finally:
            self._entered.set()

    def close(self) -> None:
        """Be a member no more; whoever waits for an event gets None."""
        self._left.set()

    def members(self) -> dict[PeerId, bytes]:
        return {} if self._membership is None else self._membership.members()

    async def receive(self) -> MemberEvent | None:
        """The next event; None when there will be no more."""
        async with self._lock:
            if self._returned:
                return self._returned.popleft()
            if self._membership is None:
                return None
            return await anext(self._membership, None)

    def put_back(self, event: MemberEvent | None) -> None:
        """Take back an event that came to nobody."""
        if event is not None:
            self._returned.appendleft(event)
