"""Topics for threads: `Lattica.topic`."""

from __future__ import annotations

from collections import deque
from typing import Any

from lattica.dht.topics.membership.core import MemberEvent
from lattica.dht.topics.service.topic import Topic, Validator
from lattica.dht.topics.signing import Message
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.iterators import BlockingIterator, BlockingSubscription
from lattica.facades.topics.core import MembersCore, MessagesCore, TopicHandle
from lattica.nat.base.buffers import AnyBuffer, flat_bytes
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


class BlockingMessages(BlockingIterator[Message]):
    """A topic's messages, one after the other, as a blocking iterator; for any number of threads,
    each of which gets messages of its own.

    It ends when it is closed, by any thread, or the node is. What is not taken is kept as
    `Subscription` says.
    """

    def __init__(self, bridge: Bridge[Any], topic: Topic, limit: int | None) -> None:
        super().__init__(bridge)
        self._core = MessagesCore()
        self._waiting: deque[Message] = deque()
        bridge.call_plain(self._core.open, topic, limit)

    @property
    def lost(self) -> int:
        """Messages that were lost because too many waited."""
        return self._bridge.call_plain(self._core.lost)

    def close(self) -> None:
        """End the subscription; any number of times. Whoever waits for a message stops."""
        self._waiting.clear()
        self._bridge.soon(self._core.close)

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


class BlockingMembers(BlockingSubscription[MemberEvent]):
    """Who is a member of a topic: `members` now, and joins and leaves as a blocking iterator.

    It ends when it is left, by any thread, or the node is closed.
    """

    over = "this membership has ended"

    def __init__(self, bridge: Bridge[Any], core: MembersCore) -> None:
        super().__init__(bridge, core)
        self._members = core.members

    def members(self) -> dict[PeerId, bytes]:
        """The others, and what each says of itself."""
        return self._bridge.call_plain(self._members)

    def leave(self) -> None:
        """Be a member no more; any number of times."""
        self.close()
