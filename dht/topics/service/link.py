"""One connected peer: what waits for it, and the stream it goes over."""

from __future__ import annotations

import math

import trio

from lattica.dht.topics.service.outbox import Outbox
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.mux.stream import Stream

MAX_INBOUND = 2
"""Streams of a peer that are read at a time: a new one, and the old one that it replaces."""


class Link:
    """The state of the way to a peer; tasks of :class:`~lattica.dht.topics.service.topics.Topics`
    drive it."""

    def __init__(self, peer_id: PeerId, limit: int) -> None:
        self.peer_id = peer_id
        self.outbox = Outbox(limit)
        self.scope = trio.CancelScope()
        """Of the task that sends."""
        self.inbound: list[Stream] = []
        self.instance = b""
        """Of the program that has opened them; empty: it tells none."""
        self.progress_at = -math.inf
        """When the peer last took something, or the first of what waits for it came."""
        self.stuck_since: float | None = None
        """It takes nothing since then; nobody waits for it."""
        self.down_since: float | None = None
        """There is no stream to it since then."""
        self.reopen = False
        """The stream is to be replaced, by one on a better path."""
        self.is_opening = False
        """A stream to it is being opened."""
        self.is_sending = False
        """There is a stream to it."""
        self._wake = trio.Event()
        self._nudge = trio.Event()

    @property
    def has_last_words(self) -> bool:
        """What waits for it, the end of the stream included, may still be sent."""
        return self.is_sending or (self.is_opening and self.outbox.size > 0)

    def wake(self) -> None:
        """There is something to send, or the stream is to be replaced."""
        self._wake.set()

    async def wait_work(self) -> None:
        """Until :meth:`wake`."""
        await self._wake.wait()
        self._wake = trio.Event()

    def nudge(self) -> None:
        """The peer may speak the protocol by now."""
        self._nudge.set()

    async def wait_nudged(self, timeout: float) -> None:
        """Until :meth:`nudge`, at most so long."""
        with trio.move_on_after(timeout):
            await self._nudge.wait()
        self._nudge = trio.Event()

    def take_inbound(self, stream: Stream) -> None:
        """A stream of the peer's is read from now on; of too many, the oldest is no more."""
        self.inbound.append(stream)
        if len(self.inbound) > MAX_INBOUND:
            self.inbound.pop(0).reset("replaced by a newer stream for topics")
