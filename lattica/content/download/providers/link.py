"""One stream to one provider: what it is asked for, and what comes, in that order."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NoReturn

import trio

from lattica.content.download.options import FetchOptions
from lattica.content.download.plan import Span
from lattica.content.errors import ContentError, ContentNotFoundError, IntegrityError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.lists import NumberedList
from lattica.content.protocol import Answer, Begun, Body, ContentClientCore, Refusal, Refused
from lattica.content.swarm.schedule import Schedule
from lattica.nat.base.errors import (
    ConnectionClosedError,
    DialError,
    IncompleteReadError,
    NotConnectedError,
    StreamClosedError,
    StreamResetError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.pace import Pace
from lattica.nat.mux.stream import Stream

_JOINED_WRONG = 2
"""Times that parts of two streams may be wrong together; then all is to come on one stream."""
_LISTS_AHEAD = 32
"""Lists of chunks that are asked for at a time, of at most 144 KiB each."""
_RELAYED_WINDOW = 4 * 1024 * 1024
"""Bytes under way at most through a relay: there may be a better path soon."""


class StalledError(ContentError):
    """The provider has sent nothing for too long."""


class JoinedWrongError(ContentError):
    """The beginning of an answer and its rest, from two streams, do not make what was asked for."""


class BusyError(ContentError):
    """The provider serves too many others, or has only just been started."""


RETRIED = (
    ConnectionClosedError,
    DialError,
    IncompleteReadError,
    NotConnectedError,
    StreamClosedError,
    StreamResetError,
    BusyError,
    JoinedWrongError,
    StalledError,
)
"""What costs a provider its stream, which is then made anew."""


def refused(answer: Refused, peer: PeerId, cid: Cid) -> NoReturn:
    """Raise what a refusal means."""
    # The message is a stranger's text: quoted, it cannot drive the terminal.
    detail = repr(answer.message[:200])
    if answer.code is Refusal.NOT_FOUND:
        raise ContentNotFoundError(
            f"peer {peer} does not serve {cid}; is `lattica publish` still running "
            "there, and is this the ticket that it printed last?"
        )
    if answer.code is Refusal.CHANGED:
        raise ContentError(
            f"peer {peer} has changed a file since it made the ticket ({detail}); "
            "ask for a new ticket"
        )
    if answer.code is Refusal.BUSY:
        raise BusyError(f"peer {peer} is busy ({detail})")
    raise ContentError(f"peer {peer} cannot serve this: {detail}")


class ProviderStream:
    """A stream to a provider, who has to take requests and to send, no slower than the options say.

    The methods raise :class:`StalledError` for one that does not, and what streams do.
    """

    def __init__(self, stream: Stream, options: FetchOptions, pace: Pace) -> None:
        self.stream = stream
        self.core = ContentClientCore()
        self._options = options
        self._pace = pace
        self._came, self._waited = 0, 0.0
        """Bytes that have come, and seconds that were waited for them."""

    async def send(self, requests: bytes) -> None:
        """Send requests."""
        patience = self._options.stalled_after
        with trio.move_on_after(patience) as scope:
            await self.stream.send_all(requests)
        if scope.cancelled_caught:
            self._stall(f"has not taken what it is asked for in {patience:.0f} s")

    async def receive(self) -> tuple[int, list[Answer]]:
        """Wait for bytes; return how many came, and the answers that they complete."""
        patience = self._options.stalled_after
        began = trio.current_time()
        with trio.move_on_after(patience) as scope:
            count = await self.stream.receive_into(self.core.buffer())
            if not count:
                self.core.finish()
                raise IncompleteReadError("the provider ended the stream")
        if scope.cancelled_caught:
            self._stall(f"has sent nothing for {patience:.0f} s")
        now = trio.current_time()
        self._check_rate(count, now - began)
        answers = self.core.received(count)
        delay = self._pace.delay(count, now)
        if delay:
            await trio.sleep(delay)
        return count, answers

    def _check_rate(self, count: int, waited: float) -> None:
        """So many bytes have come after a wait; only waiting counts, and not what is done here."""
        self._came += count
        self._waited += waited
        if self._waited < self._options.stalled_after:
            return
        if self._came < self._options.least_rate * self._waited:
            self._stall(f"has sent no more than {self._came} bytes in {self._waited:.0f} s")
        self._came, self._waited = 0, 0.0

    def _stall(self, what: str) -> NoReturn:
        reason = f"peer {self.stream.peer_id} {what}"
        self.stream.leave_path(reason)
        raise StalledError(reason)


@dataclass(slots=True)
class Kept:
    """What came of an answer before its stream broke: the next one brings only the rest.

    A relay may cut a circuit after less than one answer, and that must not be for nothing.
    """

    manifest: Begun | None = None
    piece: tuple[int, Begun] | None = None
    wrong_manifests: int = 0
    """How often what two streams brought of it was wrong together."""
    wrong_chunks: Counter[int] = field(default_factory=Counter)
    """The same of chunks, by number."""

    def doubts(self, span: Span) -> bool:
        """Whether a span has to come on one stream, which shows whose fault it is."""
        return bool(self.wrong_chunks) and any(
            self.wrong_chunks[number] >= _JOINED_WRONG for number in span.numbers
        )


@dataclass(frozen=True, slots=True)
class Arrived:
    """A piece that is here, and not verified."""

    link: Link
    piece: int
    data: memoryview
    continued: bool
    """Its beginning came on another stream."""


class Link:
    """One stream to a provider, and what is expected from it."""

    def __init__(
        self, stream: Stream, cid: Cid, options: FetchOptions, kept: Kept, pace: Pace
    ) -> None:
        self.peer_id = stream.peer_id
        self._kept = kept
        self._continued: int | None = None
        """What another stream had begun to bring."""
        self._waiting: deque[int] = deque()
        self._stream = stream
        self._cid = cid
        self._options = options
        self._provider = ProviderStream(stream, options, pace)
        self._core = self._provider.core

    def recycle(self, data: memoryview) -> None:
        """Take back the memory of an answer."""
        self._core.recycle(data)

    async def manifest(self) -> bytes:
        """Fetch the bytes of the manifest and check their hash."""
        request = self._core.request_manifest(self._cid, self._kept.manifest)
        try:
            await self._provider.send(request)
            while not (answers := (await self._provider.receive())[1]):
                pass
        except RETRIED:
            if self._kept.wrong_manifests < _JOINED_WRONG:
                self._kept.manifest = self._core.begun or self._kept.manifest
            raise
        continued, self._kept.manifest = self._kept.manifest is not None, None
        answer = answers[0]
        if not isinstance(answer, Body):
            refused(answer, self.peer_id, self._cid)
        data = bytes(answer.data)
        if Cid.of(data) != self._cid:
            if continued:
                self._kept.wrong_manifests += 1
                raise JoinedWrongError("what two streams brought of the manifest is wrong together")
            raise IntegrityError(
                f"peer {self.peer_id} has sent a manifest that is not {self._cid}; "
                "do not trust this provider"
            )
        self._kept.wrong_manifests = 0
        return data

    async def lists(self, wanted: Iterable[NumberedList], got: dict[int, bytes]) -> None:
        """Fetch lists of the manifest's chunks, and check their hashes; what comes is in `got`."""
        waiting: deque[NumberedList] = deque()
        left = iter(wanted)
        while True:
            asked = list(islice(left, _LISTS_AHEAD - len(waiting)))
            waiting += asked
            if not waiting:
                return
            if asked:
                requests = (
                    self._core.request_list(self._cid, one.number, one.encoded_size)
                    for one in asked
                )
                await self._provider.send(b"".join(requests))
            for answer in (await self._provider.receive())[1]:
                one = waiting.popleft()
                if not isinstance(answer, Body):
                    refused(answer, self.peer_id, self._cid)
                data = bytes(answer.data)
                self.recycle(answer.data)
                if hashlib.sha256(data).digest() != one.ref.digest:
                    raise IntegrityError(
                        f"peer {self.peer_id} has sent a list of chunks that is not the one of "
                        "the manifest; do not trust this provider"
                    )
                got[one.number] = data

    async def transfer(
        self,
        schedule: Schedule[PeerId],
        sink: trio.MemorySendChannel[Arrived],
        changed: Callable[[], Awaitable[object]],
    ) -> None:
        """Ask for what the schedule has for this provider, and pass on what comes.

        `changed` waits a moment for the schedule to have something. Asks for no more when there is
        a better path, or all is here, and returns when what was asked for has come, or the
        provider is not in the schedule any more.
        """
        most = self._options.window
        if self._stream.is_relayed:
            most = min(most, _RELAYED_WINDOW)
        if self.peer_id not in schedule:
            return  # given up while the stream was opened
        schedule.limit(self.peer_id, most)
        waiting = self._waiting
        while self.peer_id in schedule:
            requests = self._requests(schedule)
            if requests:
                await self._provider.send(requests)
            if not waiting:
                if self._stream.is_superseded or schedule.is_finished:
                    return
                await changed()
                continue
            count, answers = await self._provider.receive()
            if self.peer_id not in schedule:
                return
            schedule.came(self.peer_id, count, trio.current_time())
            for answer in answers:
                piece = waiting.popleft()
                self._kept.piece = None  # the first answer is whole
                continued, self._continued = piece == self._continued, None
                if not isinstance(answer, Body):
                    if answer.code is Refusal.LATER:
                        schedule.deferred(self.peer_id, piece, trio.current_time())
                    elif answer.code is Refusal.MISSING:
                        schedule.refused(self.peer_id, piece, trio.current_time())
                    else:
                        refused(answer, self.peer_id, self._cid)
                    if not schedule.keeps_its_word(self.peer_id):
                        raise ContentError(
                            f"peer {self.peer_id} says again and again that it has what it does "
                            "not send"
                        )
                elif schedule.arrived(self.peer_id, piece, trio.current_time()):
                    try:
                        await sink.send(Arrived(self, piece, answer.data, continued))
                    except trio.Cancelled:
                        schedule.failed(piece)  # banned while this waited for room
                        raise
                    if self.peer_id not in schedule:
                        return  # given up while this waited for room
                else:
                    self.recycle(answer.data)

    def _requests(self, schedule: Schedule[PeerId]) -> bytes:
        """The bytes that ask for more, as much as is to be asked for now."""
        if self._stream.is_superseded or not schedule.has_room(self.peer_id):
            return b""
        now = trio.current_time()
        requests = bytearray()
        if self._kept.piece is not None and not self._waiting:
            piece, begun = self._kept.piece
            if schedule.take(self.peer_id, piece, now):
                self._continued = piece
                requests += self._request(schedule, piece, begun)
            else:
                self._kept.piece = None
        while (found := schedule.next(self.peer_id, now)) is not None:
            requests += self._request(schedule, found, None)
        return bytes(requests)

    def _request(self, schedule: Schedule[PeerId], piece: int, begun: Begun | None) -> bytes:
        span = schedule.span(piece)
        self._waiting.append(piece)
        return self._core.request_span(self._cid, span.first, span.count, span.size, begun)

    def keep(self, schedule: Schedule[PeerId]) -> bool:
        """The stream is broken: keep what came of an answer. Returns whether that is more.

        Nobody knows yet whether it is right, so that it is no progress.
        """
        begun = self._core.begun
        if begun is None or not self._waiting or self._kept.doubts(schedule.span(self._waiting[0])):
            return False
        before, self._kept.piece = self._kept.piece, (self._waiting[0], begun)
        return before is None or before[1].filled < begun.filled
