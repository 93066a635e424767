"""A member of a topic: says that it is there, and hears who else is."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from lattica.dht.topics.core.router import Verdict
from lattica.dht.topics.membership.core import (
    LEAVING,
    MemberEvent,
    MemberJoined,
    MembershipCore,
    decode_presence,
    encode_here,
)
from lattica.dht.topics.service.subscription import Subscription
from lattica.dht.topics.signing import Message
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.peer_id import PeerId

if TYPE_CHECKING:
    from lattica.dht.topics.service.topic import Topic

PREFIX = "/lattica/members/1.0.0/"
"""Before a topic's name: where its members say that they are there."""


class Membership(InProcess):
    """Who is in a topic: :attr:`members` now, and `async for event in membership` from when it was
    entered: :class:`MemberJoined` for those who are there already, too, and :class:`MemberLeft`.

    What a member has done and undone before it was read is left out, so that no more events wait
    than there are members. They end when the node does.
    """

    def __init__(self) -> None:
        self._members: dict[PeerId, bytes] = {}
        self._events: dict[PeerId, MemberEvent] = {}
        self._told: dict[PeerId, bytes] = {}
        self._arrived = trio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Membership, {len(self._members)} others>"

    def members(self) -> dict[PeerId, bytes]:
        """The others, and what each says of itself."""
        return dict(self._members)

    def __aiter__(self) -> Membership:
        return self

    async def __anext__(self) -> MemberEvent:
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._arrived = trio.Event()
            await self._arrived.wait()
        peer_id = next(iter(self._events))
        event = self._events.pop(peer_id)
        if isinstance(event, MemberJoined):
            self._told[peer_id] = event.data
        else:
            self._told.pop(peer_id, None)
        return event

    def tell(self, event: MemberEvent) -> None:
        """For the node."""
        peer_id = event.peer_id
        self._events.pop(peer_id, None)
        if isinstance(event, MemberJoined):
            self._members[peer_id] = event.data
            news = self._told.get(peer_id) != event.data
        else:
            self._members.pop(peer_id, None)
            news = peer_id in self._told
        if news:
            self._events[peer_id] = event
            self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()


@asynccontextmanager
async def member_of(presence: Topic, data: bytes) -> AsyncIterator[Membership]:
    """Be a member as long as the block lasts; `presence` is the topic where members say so."""
    core = MembershipCore(random.Random(), trio.current_time())
    membership = Membership()
    with single_error(), presence.judging(_judge):
        async with presence.subscribe() as messages, trio.open_nursery() as nursery:
            nursery.start_soon(_hear, messages, core, membership)
            nursery.start_soon(_speak, presence, core, data)
            nursery.start_soon(_watch, core, membership)
            try:
                yield membership
            finally:
                nursery.cancel_scope.cancel()
                membership.close()
                with trio.move_on_after(1.0, shield=True):
                    with suppress(LocalProtocolError):  # the node has stopped: they will notice
                        await presence.publish(LEAVING)


def _judge(message: Message) -> Verdict:
    try:
        decode_presence(message.data)
    except RemoteProtocolError:
        return Verdict.REJECT
    return Verdict.ACCEPT


async def _hear(messages: Subscription, core: MembershipCore, membership: Membership) -> None:
    async for message in messages:
        now = trio.current_time()
        event = core.heard(message.source, message.seqno, decode_presence(message.data), now)
        if event is not None:
            membership.tell(event)
    membership.close()


async def _speak(presence: Topic, core: MembershipCore, data: bytes) -> None:
    with presence.neighbours() as neighbours:
        while True:
            core.said(trio.current_time())
            await presence.publish(encode_here(data))
            # It may be due sooner when somebody joins; whoever has just connected knows nothing.
            while (wait := core.due - trio.current_time()) > 0:
                with trio.move_on_after(min(wait, 1.0)):
                    await neighbours.__anext__()
                    core.due = min(core.due, trio.current_time() + 0.5)


async def _watch(core: MembershipCore, membership: Membership) -> None:
    while True:
        due = core.next_expiry()
        wait = 5.0 if due is None else min(5.0, max(0.0, due - trio.current_time()))
        await trio.sleep(wait)
        for event in core.expire(trio.current_time()):
            membership.tell(event)
