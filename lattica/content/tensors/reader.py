"""Chunks in a given order, verified, from one provider after the other, under a cap of memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType

import trio

from lattica.content.download.contact import Contact, Retries
from lattica.content.download.fetcher import FoundManifest
from lattica.content.download.link import RETRIED, ProviderStream, refused
from lattica.content.download.options import FetchOptions
from lattica.content.download.plan import Span
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.verifying import verified_chunks
from lattica.content.pace import Pace
from lattica.content.protocol import Body
from lattica.content.publish.served import Served
from lattica.nat.base.errors import LatticaError, RemoteProtocolError

logger = logging.getLogger(__name__)

_MAX_ASKED = 64


class SpanReader:
    """Reads spans of one manifest in order, for one task, within `async with`.

    What is under way is at most `options.window` bytes and 64 requests. A provider that is lost is
    connected to again as in a fetch; one that sends wrong bytes, or cannot serve, is left for the
    next of `contacts`. When that was the last one, or one is lost again, more are looked for by
    `find_more`, once.
    """

    def __init__(
        self,
        cid: Cid,
        found: FoundManifest,
        options: FetchOptions,
        spans: Iterable[Span],
        find_more: Callable[[], Awaitable[Sequence[Contact]]],
    ) -> None:
        self._cid = cid
        self._manifest = found.manifest
        self._contacts = deque(found.contacts)
        self._here = found.here
        self._options = options
        self._retries = Retries(options)
        self._pace = Pace(options.rate)
        self._provider: ProviderStream | None = None
        self._asked: deque[Span] = deque()
        self._arrived: deque[memoryview] = deque()
        self._ahead = deque(spans)
        self._find_more: Callable[[], Awaitable[Sequence[Contact]]] | None = find_more
        self._taken: memoryview | None = None
        """What was returned last."""

    async def __aenter__(self) -> SpanReader:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end("no more is wanted")  # there may be answers under way that nobody wants

    async def _open(self) -> ProviderStream:
        if self._provider is None:
            # What was asked for on another stream is asked for anew.
            self._ahead.extendleft(reversed(self._asked))
            self._asked.clear()
            self._arrived.clear()
            stream = await self._contacts[0].open()
            self._provider = ProviderStream(stream, self._options, self._pace)
        return self._provider

    def _end(self, reason: str) -> None:
        if self._provider is not None:
            self._provider.stream.reset(reason)
            self._provider = None

    async def next(self) -> list[tuple[int, memoryview]] | None:
        """Numbers and verified bytes of the next span's chunks, good until the next call; None:
        that was the last.

        Raises what :func:`~lattica.content.fetch` does.
        """
        if self._provider is not None and self._taken is not None:
            self._provider.core.recycle(self._taken)
        self._taken = None
        while self._ahead or self._asked:
            if self._here is not None:
                chunks = await self._read(self._here)
                if chunks is not None:
                    return chunks
            contact = self._contacts[0]
            try:
                data = await self._receive(await self._open())
                chunks = await trio.to_thread.run_sync(
                    self._verified, self._asked[0], data, contact
                )
            except RETRIED as error:
                self._end(str(error))
                if contact.failures:
                    await self._seek()
                    self._contacts.rotate(-1)  # another one may be there
                pause = self._retries.pause(contact, error, gained=False)
                logger.info("lost %s: %s; trying again in %.1f s", contact.peer_id, error, pause)
                await trio.sleep(pause)
            except (ContentError, RemoteProtocolError) as error:
                await self._leave(contact, error)
            else:
                self._retries.last_gain = trio.current_time()
                contact.failures = 0
                self._asked.popleft()
                self._taken = self._arrived.popleft()
                return chunks
        return None

    async def _read(self, here: Served) -> list[tuple[int, memoryview]] | None:
        """The next span of what this node serves itself; None: it cannot be had there."""
        span = self._ahead[0]

        def read() -> list[tuple[int, memoryview]]:
            data = here.read_span(span.first, span.count)
            return list(verified_chunks(self._manifest, span.first, span.count, data, "this node"))

        try:
            chunks = await trio.to_thread.run_sync(read)
        except (ContentError, OSError) as error:
            self._here = None
            await self._seek()
            if not self._contacts:
                raise ContentError(f"what is published here cannot be read: {error}") from error
            logger.warning("what is published here cannot be read: %s", error)
            return None
        self._ahead.popleft()
        return chunks

    async def _seek(self) -> None:
        """Look for more providers, once."""
        if self._find_more is not None:
            find_more, self._find_more = self._find_more, None
            known = {contact.peer_id for contact in self._contacts}
            self._contacts += (c for c in await find_more() if c.peer_id not in known)

    async def _leave(self, contact: Contact, error: LatticaError) -> None:
        """Ask a provider for nothing more; raises the error where it was the last one."""
        self._end(str(error))
        await self._seek()
        if len(self._contacts) == 1:
            raise error
        logger.warning("asking %s for nothing more: %s", contact.peer_id, error)
        self._contacts.popleft()

    async def _receive(self, provider: ProviderStream) -> memoryview:
        """The bytes of the first span that was asked for."""
        while True:
            requests = bytearray()
            under_way = sum(span.size for span in self._asked)
            while (
                self._ahead
                and len(self._asked) < _MAX_ASKED
                and (not self._asked or under_way + self._ahead[0].size <= self._options.window)
            ):
                span = self._ahead.popleft()
                self._asked.append(span)
                under_way += span.size
                requests += provider.core.request_span(self._cid, span.first, span.count, span.size)
            if requests:
                await provider.send(bytes(requests))
            if self._arrived:
                return self._arrived[0]
            for answer in (await provider.receive())[1]:
                if not isinstance(answer, Body):
                    refused(answer, self._contacts[0].peer_id, self._cid)
                self._arrived.append(answer.data)

    def _verified(
        self, span: Span, data: memoryview, contact: Contact
    ) -> list[tuple[int, memoryview]]:
        source = f"peer {contact.peer_id}"
        return list(verified_chunks(self._manifest, span.first, span.count, data, source))
