"""Topics for threads: `Lattica.topic`."""

from __future__ import annotations

from collections import deque
from typing import Any, Self

from lattica.dht.topics.membership.core import MemberEvent
from lattica.dht.topics.service.topic import Topic, Validator
from lattica.dht.topics.signing import Message
from lattica.facades.bridge import Bridge
from lattica.facades.topics.core import MembersCore, MessagesCore, TopicHandle
from lattica.nat.base.buffers import AnyBuffer, flat_bytes
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.identity import PeerId


class BlockingTopic(TopicHandle):
    """A topic, for threads; see :class:`lattica.dht.topics.service.topic.Topic`.

    ::

        topic = lattica.topic("weights/v1")
        topic.publish(b"step 17")
        with topic.subscribe() as messages:
            for message in messages:
                print(message.source, message.data)
    """

    def publish(self, data: AnyBuffer, *, timeout: float | None = None) -> int:
        """Send a message to all who have subscribed; see `Topic.publish`."""
        return self._bridge.call(self._topic.publish, bytes(flat_bytes(data)), timeout=timeout)

    def subscribe(self, *, limit: int | None = None) -> BlockingMessages:
        """The messages of others from now on. Close it, or use `with`."""
        return BlockingMessages(self._bridge, self._topic, limit)

    def membership(self, data: bytes = b"", *, timeout: float | None = None) -> BlockingMembers:
        """Be a member, and know who else is; see `Topic.membership`. Leave it, or use `with`."""
        core = MembersCore()
        self._bridge.call(core.open, self._topic, data, timeout=timeout)
        return BlockingMembers(self._bridge, core)

    def set_validator(self, validator: Validator | None) -> None:
        """Have messages judged; see `Topic.set_validator`.

        It is called in the node's thread, and must not block.
        """
        self._bridge.call_plain(self._topic.set_validator, validator)

    def peers(self) -> tuple[PeerId, ...]:
        """The connected peers that have subscribed."""
        return self._bridge.call_plain(self._peers)

    def wait_peers(self, count: int = 1, *, timeout: float | None = None) -> None:
        """Wait until so many connected peers have subscribed."""
        self._bridge.call(self._topic.wait_peers, count, timeout=timeout)


class BlockingMessages(InProcess):
    """A topic's messages, one after the other, as a blocking iterator; for any number of threads,
    each of which gets messages of its own.

    It ends when it is closed, by any thread, or the node is. What is not taken is kept as
    `Subscription` says.
    """

    def __init__(self, bridge: Bridge[Any], topic: Topic, limit: int | None) -> None:
        self._bridge = bridge
        self._core = MessagesCore()
        self._waiting: deque[Message] = deque()
        bridge.call_plain(self._core.open, topic, limit)

    @property
    def lost(self) -> int:
        """Messages that were lost because too many waited."""
        return self._bridge.call_plain(self._core.lost)

    def receive(self, *, timeout: float | None = None) -> Message:
        """The next message.

        Raises:
            TimeoutError: after `timeout` seconds.
            LocalProtocolError: after the end.
        """
        message = self._next(timeout)
        if message is None:
            raise LocalProtocolError("this subscription is closed")
        return message

    def close(self) -> None:
        """End the subscription; any number of times. Whoever waits for a message stops."""
        self._waiting.clear()
        self._bridge.soon(self._core.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        try:
            message = self._next(None)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise
            message = None
        if message is None:
            raise StopIteration
        return message

    def _next(self, timeout: float | None) -> Message | None:
        while True:
            try:
                return self._waiting.popleft()
            except IndexError:
                pass
            found = self._bridge.call(
                self._core.receive, timeout=timeout, give_back=self._core.put_back
            )
            if not found:
                return None
            self._waiting.extend(found)


class BlockingMembers(InProcess):
    """Who is a member of a topic: `members` now, and joins and leaves as a blocking iterator.

    It ends when it is left, by any thread, or the node is closed.
    """

    def __init__(self, bridge: Bridge[Any], core: MembersCore) -> None:
        self._bridge = bridge
        self._core = core

    @property
    def members(self) -> dict[PeerId, bytes]:
        """The others, and what each says of itself."""
        return self._bridge.call_plain(self._core.members)

    def leave(self) -> None:
        """Be a member no more; any number of times."""
        self._bridge.soon(self._core.leave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def __iter__(self) -> Self:
        return self

    def receive(self, *, timeout: float | None = None) -> MemberEvent:
        """The next event.

        Raises:
            TimeoutError: after `timeout` seconds.
            LocalProtocolError: after the end.
        """
        event = self._bridge.call(
            self._core.receive, timeout=timeout, give_back=self._core.put_back
        )
        if event is None:
            raise LocalProtocolError("this membership has ended")
        return event

    def __next__(self) -> MemberEvent:
        try:
            event = self._bridge.call(self._core.receive, give_back=self._core.put_back)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise
            event = None
        if event is None:
            raise StopIteration
        return event
