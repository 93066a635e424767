"""`node.discovery`: all sources of peers as one."""

from __future__ import annotations

import logging
import random
import weakref
from collections.abc import Iterable

import trio

from lattica.dht.discovery.source import FoundPeer, Source
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import LatticaError, LocalProtocolError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.multiaddr import Multiaddr

logger = logging.getLogger(__name__)

_RETRY_FIRST, _RETRY_LIMIT = 5.0, 600.0
"""Seconds between attempts to advertise where it has failed."""
_LEAST_INTERVAL = 30.0
_FIND_TIMEOUT = 60.0
"""Seconds that one source is listened to."""
_QUEUE = 64
_MOST_ADDRS = 64
"""Of one peer; beyond them nothing is news."""
_MAX_NAME = 255
_FAILURES = (LatticaError, OSError, TimeoutError)


class Discovery(InProcess):
    """Advertises topics, and finds the peers that have advertised them. For the trio thread only.

    ::

        await node.discovery.advertise("render/v1")

        async for peer in node.discovery.find_peers("render/v1"):
            await node.connect(peer.addrs or peer.peer_id)

    A topic is any text of up to 255 bytes. Made by :class:`lattica.Node`.
    """

    def __init__(self, own_id: PeerId, nursery: trio.Nursery, sources: Iterable[Source]) -> None:
        self.sources = tuple(sources)
        self._own_id = own_id
        self._tasks = Tasks(nursery)
        self._rng = random.Random()
        self._advertised: dict[str, list[trio.CancelScope]] = {}
        self._failing: set[Source] = set()

    @property
    def advertised(self) -> tuple[str, ...]:
        """What this node is found under."""
        return tuple(self._advertised)

    async def aclose(self) -> None:
        """Stop. What is registered elsewhere expires."""
        self._tasks.cancel()
        for source in self.sources:
            await source.aclose()
        await self._tasks.wait_ended()

    async def advertise(self, topic: str) -> int:
        """Be found under a topic until :meth:`withdraw`, or the node ends; it is said again and
        again. Returns in how many places it has been said by now: a place that cannot be reached is
        tried again, and logged.

        Raises:
            LocalProtocolError: it can be no topic, or the node has stopped.
        """
        check_name(topic)
        if self._tasks.closed:
            raise LocalProtocolError("the node has stopped")
        for scope in self._advertised.get(topic, ()):
            scope.cancel()
        scopes = self._advertised[topic] = [trio.CancelScope() for _ in self.sources]
        done = 0
        pauses: dict[int, float | None] = {}

        async def first(number: int, source: Source) -> None:
            nonlocal done
            pauses[number] = await self._say(source, topic)
            done += pauses[number] is not None and pauses[number] != 0.0

        async with trio.open_nursery() as nursery:
            for number, source in enumerate(self.sources):
                nursery.start_soon(first, number, source)
        for number, source in enumerate(self.sources):
            pause = pauses[number]
            if pause is not None:
                self._tasks.start_soon(self._keep_saying, scopes[number], source, topic, pause)
        return done

    async def _say(self, source: Source, topic: str) -> float | None:
        """Advertise once: seconds until it is to be done again, 0 if it has failed."""
        try:
            with trio.fail_after(_FIND_TIMEOUT):
                again = await source.advertise(topic)
        except (*_FAILURES, trio.TooSlowError) as error:
            self._failed(source, f"topic {topic!r} not advertised", error)
            return 0.0
        self._failing.discard(source)
        return None if again is None else max(again, _LEAST_INTERVAL)

    async def _keep_saying(
        self, scope: trio.CancelScope, source: Source, topic: str, pause: float
    ) -> None:
        failures = 1
        with scope:
            while True:
                if pause:
                    failures = 0
                    await trio.sleep(pause * self._rng.uniform(0.8, 1.0))
                else:
                    failures += 1
                    await trio.sleep(pause_after(failures, _RETRY_FIRST, _RETRY_LIMIT, self._rng))
                pause = await self._say(source, topic) or 0.0

    async def withdraw(self, topic: str) -> None:
        """Be found under a topic no more; no error if it is not advertised, and where that cannot
        be said it expires.
        """
        scopes = self._advertised.pop(topic, None)
        if scopes is None:
            await trio.lowlevel.checkpoint()
            return
        for scope in scopes:
            scope.cancel()

        async def say(source: Source) -> None:
            try:
                with trio.move_on_after(_FIND_TIMEOUT):
                    await source.withdraw(topic)
            except _FAILURES as error:
                logger.debug("topic %r not withdrawn at %s: %s", topic, source.name, error)

        async with trio.open_nursery() as nursery:
            for source in self.sources:
                nursery.start_soon(say, source)

    def _failed(self, source: Source, what: str, error: Exception) -> None:
        """Say it once, and again when the source has done something in between: topics that know
        too few peers ask every few seconds.
        """
        level = logging.DEBUG if source in self._failing else logging.INFO
        self._failing.add(source)
        logger.log(level, "%s by %s: %s", what, source.name, error)

    def find_peers(self, topic: str) -> FoundPeers:
        """Who has advertised a topic, as they are found: `async for peer in …`.

        All sources are asked at once, each for at most a minute; a peer is told once, but again
        when addresses of it are found that were not known. Ends when all have answered; a source
        that cannot be asked is logged. Whoever stops in between just leaves the loop.

        Raises:
            LocalProtocolError: it can be no topic, or the node has stopped.
        """
        check_name(topic)
        if self._tasks.closed:
            raise LocalProtocolError("the node has stopped")
        found = FoundPeers(self._own_id)
        for source in self.sources:
            self._tasks.start_soon(self._ask, source, topic, found.sender())
        return found

    async def _ask(
        self, source: Source, topic: str, found: trio.MemorySendChannel[FoundPeer]
    ) -> None:
        async with found:
            try:
                with trio.move_on_after(_FIND_TIMEOUT):
                    async for peer in source.find(topic):
                        await found.send(peer)
                    self._failing.discard(source)
            except trio.BrokenResourceError:
                pass  # nobody listens any more
            except _FAILURES as error:
                self._failed(source, f"peers of {topic!r} not found", error)


class FoundPeers(InProcess):
    """Peers as they are found; see :meth:`Discovery.find_peers`."""

    def __init__(self, own_id: PeerId) -> None:
        send, self._receive = trio.open_memory_channel[FoundPeer](_QUEUE)
        self._send: trio.MemorySendChannel[FoundPeer] | None = send
        self._own_id = own_id
        self._told: dict[PeerId, set[Multiaddr]] = {}
        """With which addresses."""
        self._finalizer = weakref.finalize(self, self._receive.close)

    def sender(self) -> trio.MemorySendChannel[FoundPeer]:
        """For the node: where another source puts what it finds."""
        assert self._send is not None
        return self._send.clone()

    def close(self) -> None:
        """No more is looked for. Idempotent."""
        self._finalizer()

    def __aiter__(self) -> FoundPeers:
        return self

    async def __anext__(self) -> FoundPeer:
        if self._send is not None:
            self._send.close()
            self._send = None
        while True:
            try:
                peer = await self._receive.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise StopAsyncIteration from None
            if peer.peer_id == self._own_id:
                continue
            is_new = peer.peer_id not in self._told
            known = self._told.setdefault(peer.peer_id, set())
            if is_new or (len(known) < _MOST_ADDRS and not known.issuperset(peer.addrs)):
                known.update(peer.addrs)
                return peer


def check_name(topic: object) -> None:
    """Raises LocalProtocolError for what can be no topic of discovery."""
    if not isinstance(topic, str) or not topic:
        raise LocalProtocolError(f"a topic is named by a text, not {topic!r:.100}")
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{topic!r:.100} cannot be the name of a topic") from None
    if size > _MAX_NAME:
        raise LocalProtocolError(f"a topic that is advertised has at most {_MAX_NAME} bytes")
