"""What a node serves of content, to any number of clients: both protocols, one handler for all.

Publishers and fetches of one node share it: each puts a shelf there, which is asked for content
ids. It serves as long as there is a shelf.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import trio

from lattica.content.errors import ContentChangedError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES
from lattica.content.protocol import (
    PROTOCOL,
    ContentServerCore,
    ListRequest,
    ManifestRequest,
    Refusal,
    Request,
    SpanRequest,
    encode_body_header,
    encode_refusal,
)
from lattica.content.publish.served import NotHereError, Served
from lattica.content.swarm.members import Members
from lattica.content.swarm.messages import (
    HOLDINGS,
    MAX_HELLO,
    MAX_NUMBERS,
    Has,
    HasMore,
    Hello,
    Message,
    decode_hello,
    encode_message,
)
from lattica.content.swarm.messages import Members as MembersMessage
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import (
    ConnectionClosedError,
    IncompleteReadError,
    LocalProtocolError,
    RemoteProtocolError,
    StreamResetError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.pace import PACED_PIECE, Pace
from lattica.nat.base.limits.places import Places, Source
from lattica.nat.base.limits.shortages import is_shortage
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

Parts: TypeAlias = tuple[bytes | memoryview, ...]
"""Of one answer, to be sent one after the other."""
Shelf: TypeAlias = Callable[[Cid], Served | None]
"""What one publisher or fetch serves, by content id."""

_LATER: Parts = (encode_refusal(Refusal.LATER, "others who share have asked for it"),)
_UNASKED = 2.0
"""Seconds without a request after which those who fetch the same are not waited for."""
_NEWS_PAUSE = 0.05
"""Seconds in which what is new is gathered before a watcher is told."""
_COUNTED = 64
"""Content ids whose bytes sent are counted in any case, served or not."""


@dataclass(frozen=True, slots=True)
class PublisherLimits:
    """What clients may cost. A stream costs at most 4 MiB of memory and two visits to disk."""

    max_streams: int = 128
    """Served at a time. Beyond that one yields, of the network and the peer that have most, or one
    that is idle (:mod:`lattica.nat.base.limits.places`); or the newcomer is told to come later."""
    max_streams_per_peer: int = 16
    max_watchers: int = 256
    """Who hear, at a time, what is here. Beyond that the same holds."""
    rate: float = math.inf
    """Bytes a second that are sent to all clients together."""
    stalled_after: float = 300.0
    """Seconds a client may take to accept 1 MiB."""
    idle_after: float = 600.0
    """Seconds a client may stay without asking for anything, when nobody waits for its place."""
    yields_after: float = 10.0
    """Seconds without progress after which a stream yields its place to others."""
    unproven_after: float = 3.0
    """The same, for one on which nothing was sent yet."""
    turning_away: float = 5.0
    """Seconds that a client has to ask for something before it is told that there is no place."""


_SERVICES: dict[Host, ContentService] = {}
"""Of nodes that serve something now."""


class ContentService:
    """Serves what is on the shelves of one node; see :func:`serving`.

    A client that breaks the protocol or stalls loses its stream, and the rest go on. Each
    stream is answered in order; the next answer is read from disk while one is being sent,
    and no further, so a slow client costs no more memory than a fast one.
    """

    def __init__(self, node: Host) -> None:
        self._node = node
        self._shelves: list[Shelf] = []
        self._streams: Counter[PeerId] = Counter()
        self._watched: Counter[PeerId] = Counter()
        self._members: dict[Cid, Members[Stream]] = {}
        self._news = trio.Event()
        self._starting = 0
        """Publishers that are about to serve the first thing."""
        self.bytes_sent: Counter[Cid] = Counter()
        """Bytes of chunks that were sent since it began, by content id; what is served no more is
        forgotten in time."""
        self._look_at = _COUNTED
        """Content ids of :attr:`bytes_sent` at which it is looked which of them are served."""
        self._limited_by: Shelf | None = None
        self._paces: dict[Cid, Pace] = {}
        """Of what has a limit of its own."""
        self._limit(PublisherLimits())

    def __str__(self) -> str:
        return "content"

    def _limit(self, limits: PublisherLimits) -> None:
        self.limits = limits
        self._pace = Pace(limits.rate)
        self._places, self._watchers = (
            Places[Stream](
                most, idle_after=limits.yields_after, unproven_after=limits.unproven_after
            )
            for most in (limits.max_streams, limits.max_watchers)
        )

    def limit(self, cid: Cid, rate: float) -> None:
        """Send no more than so many bytes a second of it, to all clients together; infinite: no
        limit but that of everything.
        """
        self._paces.pop(cid, None)
        if rate < math.inf:
            self._paces[cid] = Pace(rate)

    def tell(self) -> None:
        """Something is here that was not: watchers hear of it soon."""
        news, self._news = self._news, trio.Event()
        news.set()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """A publisher hashes the first thing that it will serve: who asks is told to come back, and
        not that it is not here. It may have been here a moment ago."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def is_watched(self, cid: Cid) -> bool:
        """Somebody fetches it, and hears of what is here."""
        return cid in self._members

    async def linger(self, cid: Cid, most: float) -> None:
        """Wait until all who fetch it have it, or have asked for nothing for 2 s; at most `most`
        seconds.
        """
        began = trio.current_time()
        while (members := self._members.get(cid)) is not None:
            now = trio.current_time()
            until = min(began + most, max(began, members.asked_at) + _UNASKED)
            if now >= until:
                return
            news = self._news
            with trio.move_on_at(until):
                await news.wait()

    def find(self, cid: Cid) -> Served | None:
        """What is on the shelves of a content id."""
        for shelf in self._shelves:
            served = shelf(cid)
            if served is not None:
                return served
        return None

    def _open(self, owner: object) -> None:
        self._node.handle(PROTOCOL, self._serve, owner=owner)
        try:
            self._node.handle(HOLDINGS, self._serve_holdings, owner=owner)
        except LocalProtocolError:
            self._node.unhandle(PROTOCOL, owner=owner)
            raise
        _SERVICES[self._node] = self

    def _close(self, owner: object) -> None:
        self._node.unhandle(PROTOCOL, owner=owner)
        self._node.unhandle(HOLDINGS, owner=owner)
        del _SERVICES[self._node]

    def put(self, shelf: Shelf, limits: PublisherLimits | None = None) -> None:
        """Serve what is on a shelf from now on, and by these limits.

        Raises:
            LocalProtocolError: somebody else serves the protocol, or limits are set already.
        """
        if limits is not None and self._limited_by is not None:
            raise LocalProtocolError("this node has a Publisher; use that one")
        if not self._shelves:
            self._open(self)
        self._shelves.append(shelf)
        if limits is not None:
            self._limited_by = shelf
            self._limit(limits)

    def take(self, shelf: Shelf) -> None:
        """Serve it no more; watchers hear of it."""
        self._shelves.remove(shelf)
        if self._limited_by == shelf:
            self._limited_by = None
            self._limit(PublisherLimits())
        if not self._shelves:
            self._close(self)
        self.tell()

    # --- chunks ---

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer_id
        limits = self.limits
        if self._streams[peer] >= limits.max_streams_per_peer or not self._enter(
            self._places, stream
        ):
            await self._turn_away(stream)
            return
        self._streams[peer] += 1
        try:
            with single_error():
                await self._answer_all(stream)
        except (ConnectionClosedError, StreamResetError, IncompleteReadError) as error:
            logger.debug("%s has left: %s", peer, error)
        finally:
            self._places.leave(stream)
            _less(self._streams, peer)

    @staticmethod
    def _enter(places: Places[Stream], stream: Stream) -> bool:
        # Hosts in memory have no networks.
        source = getattr(stream, "source", Source(stream.peer_id, ""))
        dropped = places.enter(stream, source, trio.current_time())
        if dropped is None:
            return False
        for other in dropped:
            other.reset("its place was needed by somebody who had none")
        return True

    async def _turn_away(self, stream: Stream) -> None:
        """Tell a client too many to come back later, in place of its first answer."""
        with trio.move_on_after(self.limits.turning_away):
            if await stream.receive_some():
                await stream.send_all(encode_refusal(Refusal.BUSY, "too many downloads"))
                await stream.send_eof()

    async def _answer_all(self, stream: Stream) -> None:
        # No room in the channel: one answer is being sent and the next one is being read.
        send, receive = trio.open_memory_channel[tuple[Cid, Parts]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prepare, stream, send)
            async with receive:
                async for cid, parts in receive:
                    for part in parts:
                        await self._send(stream, cid, part)
            await stream.send_eof()

    async def _send(self, stream: Stream, cid: Cid, part: bytes | memoryview) -> None:
        paces = [self._paces[cid]] if cid in self._paces else []
        if self._pace.is_limited:
            paces.append(self._pace)
        with trio.move_on_after(self.limits.stalled_after) as scope:
            if paces:
                view = memoryview(part)
                for start in range(0, len(view), PACED_PIECE):
                    piece = view[start : start + PACED_PIECE]
                    now = trio.current_time()
                    delay = max(pace.delay(len(piece), now) for pace in paces)
                    # It is not the client that this waits for.
                    scope.deadline += delay
                    await trio.sleep(delay)
                    await stream.send_all(piece)
            else:
                await stream.send_all(part)
        self._places.progress(stream, trio.current_time())
        if scope.cancelled_caught:
            raise RemoteProtocolError("the client has stopped to accept what it asked for")

    async def _prepare(
        self, stream: Stream, answers: trio.MemorySendChannel[tuple[Cid, Parts]]
    ) -> None:
        core = ContentServerCore()
        async with answers:
            while True:
                with trio.move_on_after(self.limits.idle_after) as scope:
                    data = await stream.receive_some()
                if scope.cancelled_caught or not data:
                    break
                peer = stream.peer_id
                # For all of them before the first is answered: others hear of it at once.
                requests = [(request, self._is_due(peer, request)) for request in core.feed(data)]
                for request, due in requests:
                    answer = await self._answer(peer, request) if due else _LATER
                    try:
                        await answers.send((request.cid, answer))
                    except trio.BrokenResourceError:
                        return  # sending has failed, which is an error of its own
            core.finish()

    async def _answer(self, peer: PeerId, request: Request) -> Parts:
        """The parts of the answer to one request."""
        served = self.find(request.cid)
        if served is None and self._starting:
            return (encode_refusal(Refusal.BUSY, "what is served here is still being hashed"),)
        if served is None:
            return (encode_refusal(Refusal.NOT_FOUND, "not published here"),)
        if isinstance(request, ManifestRequest):
            peer_log.log(logger, logging.INFO, peer, "%s asks for %s", peer, served.name)
            if request.offset >= len(served.encoded):
                raise RemoteProtocolError(f"byte {request.offset} of a manifest was asked for")
            # Views: however many ask for it, and read nothing, it is in memory once.
            encoded = memoryview(served.encoded)[request.offset :]
            pieces = range(0, len(encoded), MAX_CHUNK_BYTES)
            return (
                encode_body_header(len(encoded)),
                *(encoded[start : start + MAX_CHUNK_BYTES] for start in pieces),
            )
        try:
            if isinstance(request, ListRequest):
                chunks = await trio.to_thread.run_sync(served.chunk_list, request.number)
                return encode_body_header(len(chunks)), chunks
            served.check_span(request.first, request.count, request.offset)
            read = partial(served.read_span, request.first, request.count)
            body = await trio.to_thread.run_sync(read)
        except ContentChangedError as error:
            self._log_failure(peer, served, error)
            return (encode_refusal(Refusal.CHANGED, str(error)),)
        except NotHereError as error:
            return (encode_refusal(Refusal.MISSING, str(error)),)
        except OSError as error:
            self._log_failure(peer, served, error)
            if is_shortage(error):  # only for now
                return (encode_refusal(Refusal.BUSY, error.strerror or "busy"),)
            message = f"the file cannot be read ({error.strerror})"
            return (encode_refusal(Refusal.UNREADABLE, message),)
        rest = memoryview(body)[request.offset :]
        self._count(request.cid, len(rest))
        return encode_body_header(len(rest)), rest

    def _count(self, cid: Cid, size: int) -> None:
        if cid not in self.bytes_sent and len(self.bytes_sent) >= self._look_at:
            gone = [each for each in self.bytes_sent if self.find(each) is None]
            for each in gone:
                del self.bytes_sent[each]
            self._look_at = max(_COUNTED, 2 * len(self.bytes_sent))
        self.bytes_sent[cid] += size

    def _log_failure(self, peer: PeerId, served: Served, error: Exception) -> None:
        name = served.name
        peer_log.log(
            logger, logging.WARNING, peer, "cannot serve %s: %s peer=%s", name, error, peer
        )

    def _is_due(self, peer: PeerId, request: Request) -> bool:
        """Whether a request is to be answered, or had of others who have asked for the same."""
        members = self._members.get(request.cid)
        if members is None or not isinstance(request, SpanRequest):
            return True
        members.asked_at = trio.current_time()
        served = self.find(request.cid)
        if served is None or served.holdings is not None:
            return True  # who fetches it, too, hands on what there is
        numbers = range(request.first, request.first + request.count)
        due = members.asks(peer, numbers, trio.current_time())
        self.tell()
        return due

    # --- holdings ---

    async def _serve_holdings(self, stream: Stream) -> None:
        peer = stream.peer_id
        if self._watched[peer] >= self.limits.max_streams_per_peer or not self._enter(
            self._watchers, stream
        ):
            return
        self._watched[peer] += 1
        try:
            with trio.move_on_after(self.limits.turning_away) as scope:
                hello = decode_hello(await stream.receive_message(MAX_HELLO))
            if not scope.cancelled_caught:
                await self._tell_all(stream, hello)
        except (ConnectionClosedError, StreamResetError, IncompleteReadError) as error:
            logger.debug("%s watches no more: %s", peer, error)
        finally:
            self._watchers.leave(stream)
            _less(self._watched, peer)

    async def _tell_all(self, stream: Stream, hello: Hello) -> None:
        if self.find(hello.cid) is None:
            return
        members = self._members.setdefault(hello.cid, Members(random.Random()))
        members.enter(stream, stream.peer_id, hello)
        self.tell()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_end, stream, nursery.cancel_scope)
                await self._tell_news(stream, hello.cid, members)
                nursery.cancel_scope.cancel()
        finally:
            members.leave(stream)
            if not members and self._members.get(hello.cid) is members:
                del self._members[hello.cid]
            self.tell()

    @staticmethod
    async def _until_end(stream: Stream, scope: trio.CancelScope) -> None:
        """The watcher says nothing more: when it does, or ends, it is gone."""
        try:
            data = await stream.receive_some(1)
        except (ConnectionClosedError, StreamResetError):
            data = b""
        if data:
            raise RemoteProtocolError("a watcher of holdings says more than its greeting")
        scope.cancel()

    async def _tell_news(self, stream: Stream, cid: Cid, members: Members[Stream]) -> None:
        """Say what is here of a content id, and what is new, as long as it is served: by a fetch
        first perhaps, and then by whoever keeps what has come of it.
        """
        while (served := self.find(cid)) is not None:
            await self._tell_of(stream, cid, served, members)

    async def _tell_of(
        self, stream: Stream, cid: Cid, served: Served, members: Members[Stream]
    ) -> None:
        """The same as long as it is served by `served`."""
        holdings = served.holdings
        position = 0 if holdings is None else holdings.position
        bits = None if holdings is None else holdings.bits
        await self._say(stream, Has(served.chunk_count, bits))
        while self.find(cid) is served:
            news = self._news
            while True:
                told = False
                others, sending = members.untold(stream)
                if others:
                    await self._say(stream, MembersMessage(others))
                for message in sending:
                    await self._say(stream, message)
                    told = True
                if holdings is not None:
                    more = tuple(holdings.since(position, MAX_NUMBERS))
                    if more:
                        await self._say(stream, HasMore(more))
                        position += len(more)
                        told = True
                if not told:
                    break
            await news.wait()
            await trio.sleep(_NEWS_PAUSE)

    async def _say(self, stream: Stream, message: Message) -> None:
        with trio.move_on_after(self.limits.stalled_after) as scope:
            await stream.send_message(encode_message(message))
        if scope.cancelled_caught:
            raise RemoteProtocolError("the watcher has stopped to listen")
        self._watchers.progress(stream, trio.current_time())


def _less(counter: Counter[PeerId], peer: PeerId) -> None:
    counter[peer] -= 1
    if not counter[peer]:
        del counter[peer]


def service_of(node: Host) -> ContentService:
    """The service of a node; a new one when nothing is served."""
    return _SERVICES.get(node) or ContentService(node)


def served_here(node: Host, cid: Cid) -> Served | None:
    """What the node itself serves of a content id, if it has all of it."""
    service = _SERVICES.get(node)
    served = None if service is None else service.find(cid)
    return served if served is not None and served.holdings is None else None


@contextmanager
def serving(node: Host, shelf: Shelf) -> Iterator[ContentService]:
    """Serve what is on a shelf of this node.

    Raises:
        LocalProtocolError: somebody else serves the protocol.
    """
    service = service_of(node)
    service.put(shelf)
    try:
        yield service
    finally:
        service.take(shelf)
