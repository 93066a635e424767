"""Publishing: serves the catalog to any number of clients over `/lattica/content/1.0.0`."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import trio

from lattica.content.errors import ContentError, ContentNotFoundError
from lattica.content.events import HashCallback
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES
from lattica.content.protocol import (
    PROTOCOL,
    ContentServerCore,
    ManifestRequest,
    Refusal,
    Request,
    encode_body_header,
    encode_refusal,
)
from lattica.content.publish.catalog import (
    Catalog,
    ContentChangedError,
    Publication,
    make_publication,
)
from lattica.content.ticket import Ticket
from lattica.nat.base.errors import (
    ConnectionClosedError,
    IncompleteReadError,
    LocalProtocolError,
    RemoteProtocolError,
    StreamResetError,
)
from lattica.nat.base.exception_groups import single_error
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Places, Source
from lattica.nat.base.limits.shortages import is_shortage
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

ANNOUNCE_TIMEOUT = 10.0
"""Seconds to wait for a relay before a ticket is made without it."""

Parts: TypeAlias = tuple[bytes | memoryview, ...]
"""Of one answer, to be sent one after the other."""


@dataclass(frozen=True, slots=True)
class PublisherLimits:
    """What clients may cost. A stream costs at most 2 MiB of memory and two visits to disk."""

    max_streams: int = 128
    """Served at a time. Beyond that one yields, of the network and the peer that have most, or one
    that is idle (:mod:`lattica.nat.base.limits.places`); or the newcomer is told to come later."""
    max_streams_per_peer: int = 16
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


class Publisher(InProcess):
    """Serves publications as long as it is open: `async with Publisher(node) as publisher`.

    A client that breaks the protocol or stalls loses its stream, and the rest go on. Each
    stream is answered in order; the next answer is read from disk while one is being sent,
    and no further, so a slow client costs no more memory than a fast one.
    """

    def __init__(self, node: Host, limits: PublisherLimits | None = None) -> None:
        self._node = node
        self._limits = limits or PublisherLimits()
        self._streams: Counter[PeerId] = Counter()
        self._places = Places[Stream](
            self._limits.max_streams,
            idle_after=self._limits.yields_after,
            unproven_after=self._limits.unproven_after,
        )
        self._open = False
        self.catalog = Catalog()

    def __repr__(self) -> str:
        names = [publication.manifest.name for publication in self.catalog]
        return f"<Publisher of {len(names)}{': ' if names else ''}{', '.join(names)}>"

    async def __aenter__(self) -> Publisher:
        self._node.handle(PROTOCOL, self._serve, owner=self)
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        self._node.unhandle(PROTOCOL, owner=self)
        for publication in list(self.catalog):
            self.catalog.remove(publication.cid)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def publish(
        self,
        path: Path | str,
        name: str | None = None,
        *,
        progress: HashCallback | None = None,
        announce_timeout: float = ANNOUNCE_TIMEOUT,
    ) -> Ticket:
        """Hash a file or directory, serve it, and return a ticket for it.

        `progress` is called with :class:`~lattica.content.Progress`, and with nothing else.
        Relays that were configured, and the router, may have been asked only just now: for what
        they add to this node's addresses it waits, but no longer than `announce_timeout` seconds.
        A ticket that may be better later says so (`Ticket.can_improve`); :meth:`ticket` makes
        another one.

        Raises:
            ContentError: for what cannot be read or published.
        """
        if not self._open:
            raise LocalProtocolError("a Publisher is used with `async with`")
        if path == "":  # which Path takes as the current directory
            raise ContentError("name a file or directory to publish; '.' is this one")
        publication = await make_publication(Path(path), name, progress)
        await self._node.wait_announced(announce_timeout)
        self.catalog.add(publication)
        return self.ticket(publication.cid)

    def unpublish(self, publication: Ticket | Cid | str) -> None:
        """Serve something no longer: what a ticket (or its text) names, or a content id.

        Downloads that are under way fail at what they ask for next. The same content that was
        published several times is one publication.

        Raises:
            ContentNotFoundError: it is not published here.
            TicketError: the text is no ticket.
        """
        if isinstance(publication, str):
            publication = Ticket.parse(publication)
        cid = publication.cid if isinstance(publication, Ticket) else publication
        if self.catalog.get(cid) is None:
            raise ContentNotFoundError(f"{cid} is not published here")
        self.catalog.remove(cid)

    def ticket(self, cid: Cid) -> Ticket:
        """A ticket with this node's addresses as they are now."""
        node = self._node
        return Ticket.make(cid, node.peer_id, node.addrs, can_improve=node.announcing)

    # --- serving ---

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer_id
        limits = self._limits
        if self._streams[peer] >= limits.max_streams_per_peer:
            await self._turn_away(stream)
            return
        # Hosts in memory have no networks.
        source = getattr(stream, "source", Source(peer, ""))
        dropped = self._places.enter(stream, source, trio.current_time())
        if dropped is None:
            await self._turn_away(stream)
            return
        for other in dropped:
            other.reset("its place was needed by somebody who had none")
        self._streams[peer] += 1
        try:
            with single_error():
                await self._answer_all(stream)
        except (ConnectionClosedError, StreamResetError, IncompleteReadError) as error:
            logger.debug("%s has left: %s", peer, error)
        finally:
            self._places.leave(stream)
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _turn_away(self, stream: Stream) -> None:
        """Tell a client too many to come back later, in place of its first answer."""
        with trio.move_on_after(self._limits.turning_away):
            if await stream.receive_some():
                await stream.send_all(encode_refusal(Refusal.BUSY, "too many downloads"))
                await stream.send_eof()

    async def _answer_all(self, stream: Stream) -> None:
        # No room in the channel: one answer is being sent and the next one is being read.
        send, receive = trio.open_memory_channel[Parts](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prepare, stream, send)
            async with receive:
                async for parts in receive:
                    for part in parts:
                        await self._send(stream, part)
            await stream.send_eof()

    async def _send(self, stream: Stream, part: bytes | memoryview) -> None:
        with trio.move_on_after(self._limits.stalled_after) as scope:
            await stream.send_all(part)
        self._places.progress(stream, trio.current_time())
        if scope.cancelled_caught:
            raise RemoteProtocolError("the client has stopped to accept what it asked for")

    async def _prepare(self, stream: Stream, answers: trio.MemorySendChannel[Parts]) -> None:
        core = ContentServerCore()
        async with answers:
            while True:
                with trio.move_on_after(self._limits.idle_after) as scope:
                    data = await stream.receive_some()
                if scope.cancelled_caught or not data:
                    break
                for request in core.feed(data):
                    answer = await self._answer(stream.peer_id, request)
                    try:
                        await answers.send(answer)
                    except trio.BrokenResourceError:
                        return  # sending has failed, which is an error of its own
            core.finish()

    async def _answer(self, peer: PeerId, request: Request) -> Parts:
        """The parts of the answer to one request."""
        publication = self.catalog.get(request.cid)
        if publication is None:
            return (encode_refusal(Refusal.NOT_FOUND, "not published here"),)
        if isinstance(request, ManifestRequest):
            peer_log.log(
                logger, logging.INFO, peer, "%s asks for %s", peer, publication.manifest.name
            )
            if request.offset >= len(publication.encoded):
                raise RemoteProtocolError(f"byte {request.offset} of a manifest was asked for")
            # Views: however many ask for it, and read nothing, it is in memory once.
            encoded = memoryview(publication.encoded)[request.offset :]
            pieces = range(0, len(encoded), MAX_CHUNK_BYTES)
            return (
                encode_body_header(len(encoded)),
                *(encoded[start : start + MAX_CHUNK_BYTES] for start in pieces),
            )
        publication.check_span(request.first, request.count, request.offset)
        try:
            body = await trio.to_thread.run_sync(
                publication.read_span, request.first, request.count
            )
        except ContentChangedError as error:
            self._log_failure(peer, publication, error)
            return (encode_refusal(Refusal.CHANGED, str(error)),)
        except OSError as error:
            self._log_failure(peer, publication, error)
            if is_shortage(error):  # only for now
                return (encode_refusal(Refusal.BUSY, error.strerror or "busy"),)
            message = f"the file cannot be read ({error.strerror})"
            return (encode_refusal(Refusal.UNREADABLE, message),)
        rest = memoryview(body)[request.offset :]
        return encode_body_header(len(rest)), rest

    def _log_failure(self, peer: PeerId, publication: Publication, error: Exception) -> None:
        name = publication.manifest.name
        peer_log.log(
            logger, logging.WARNING, peer, "cannot serve %s: %s peer=%s", name, error, peer
        )
