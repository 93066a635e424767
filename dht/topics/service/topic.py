"""A topic as applications hold it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, TypeAlias

from lattica.dht.topics.core.router import Verdict
from lattica.dht.topics.service.subscription import Subscription
from lattica.dht.topics.signing import Message
from lattica.nat.base.buffers import AnyBuffer, flat_bytes
from lattica.nat.base.checks import check_count
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.peer_id import PeerId

if TYPE_CHECKING:
    from lattica.dht.topics.membership.service import Membership
    from lattica.dht.topics.service.neighbours import NeighbourEvents
    from lattica.dht.topics.service.topics import Topics

Validator: TypeAlias = Callable[[Message], Verdict | bool | Awaitable[Verdict | bool]]
"""Says of a message whether it is what the topic is for; plain or async."""


class Topic(InProcess):
    """A name under which peers publish, and to which they subscribe. Made by `node.topic(name)`.

    ::

        topic = node.topic("weights/v1")
        await topic.publish(b"step 17")

        async with topic.subscribe() as messages:
            async for message in messages:
                print(message.source, message.data)

    For the trio thread only. Messages are signed by their author, and reach everybody who has
    subscribed through others who have: nobody needs a connection to the author.
    """

    def __init__(self, topics: Topics, name: str) -> None:
        self._topics = topics
        self.name = name

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}, {len(self.peers())} peers>"

    async def publish(self, data: AnyBuffer) -> int:
        """Send a message to everybody who has subscribed, other than this node.

        Returns to how many connected peers it goes at once; they pass it on. 0: nobody is there
        yet; it is kept for `GossipConfig.history` seconds, and given to those who come.

        Backpressure: waits while too much waits for one of these peers (`TopicsConfig.outbox`), but
        not for one that has taken nothing for `stuck_after` seconds, unless there is no other: that
        one is told what it has missed. If cancelled, the message has not been published, or has.
        A checkpoint; lets other tasks run only now and then while there is room.

        Raises:
            LocalProtocolError: it has more than 1,020 KiB, or the node has stopped.
        """
        return await self._topics.publish(self.name, bytes(flat_bytes(data)))

    def subscribe(
        self, *, limit: int | None = None, only: Callable[[Message], bool] | None = None
    ) -> Subscription:
        """The messages of others from the time on at which it is entered, see
        :class:`Subscription`.

        Args:
            limit: messages that wait at most; by default `TopicsConfig.queue`.
            only: which messages; it must not block, and must not raise.
        """
        return self._topics.subscription(self.name, limit, only)

    def set_validator(self, validator: Validator | None) -> None:
        """Have every message of others judged before it is delivered here or passed on.

        `Verdict.ACCEPT` or True: it is. `REJECT` or False: it is not, and whoever has brought it is
        trusted less. `IGNORE`: it is not. One that raises, or takes longer than `validate_timeout`,
        has ignored the message. Plain functions must not block. None: no validator.

        A node has one of these for a topic, the last that was set. See :meth:`judging` for those
        that do not take the place of each other.
        """
        self._topics.set_validator(self.name, validator)

    def judging(self, validator: Validator) -> AbstractContextManager[None]:
        """A validator as in :meth:`set_validator`, for as long as a block lasts, beside all others
        of this topic: `with topic.judging(validator): …`. What is to pass has to pass all of them;
        where they differ, the strictest counts: `REJECT`, then `IGNORE`.
        """
        return self._topics.judging(self.name, validator)

    def peers(self) -> tuple[PeerId, ...]:
        """The connected peers that have subscribed."""
        return self._topics.peers(self.name)

    def neighbours(self) -> AbstractContextManager[NeighbourEvents]:
        """Subscribe to who of the connected peers comes and goes: `with topic.neighbours() as
        events: async for event in events: …`, of :class:`Subscribed` and :class:`Unsubscribed`.
        Begins with those who are there.
        """
        return self._topics.neighbours(self.name)

    def membership(self, data: bytes = b"") -> AbstractAsyncContextManager[Membership]:
        """Be a member, and know who else is, wherever in the mesh they are:
        `async with topic.membership() as members: async for event in members: …`.

        Those who are in such a block are members, and nobody else; the topic itself need not be
        subscribed to. One that leaves says so; one that is cut off is missed after half a minute,
        and later where there are hundreds. Enter it once for a topic and node.

        Args:
            data: what this member says of itself, up to 512 bytes.

        Raises:
            LocalProtocolError: it says more.
            TypeError: what it says has no bytes.
        """
        from lattica.dht.topics.membership.core import MAX_DATA
        from lattica.dht.topics.membership.service import PREFIX, member_of

        data = bytes(flat_bytes(data))
        if len(data) > MAX_DATA:
            raise LocalProtocolError(f"a member says at most {MAX_DATA} bytes of itself")
        presence = Topic(self._topics, PREFIX + self.name)
        self._topics.make_fleeting(presence.name)
        return member_of(presence, data)

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """For the facades: run a task that ends with the topics of the node."""
        self._topics.start_soon(function, *args)

    async def wait_peers(self, count: int = 1) -> None:
        """Wait until so many connected peers have subscribed."""
        check_count("count", count, 0)
        with self.neighbours() as events:
            while len(self.peers()) < count:
                await events.__anext__()
