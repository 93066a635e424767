"""`/lattica/content/1.0.0`: asking a peer for a manifest or for chunks. Pure, no I/O.

One stream carries many requests, answered in their order, so a client keeps as many in flight
as it likes and the stream's flow control does the rest. Messages are msgpack arrays preceded by
their length as a varint; the bytes themselves follow a message raw::

    request  [0, cid, offset]          the manifest with this id, from byte `offset` on
             [1, cid, first, count, offset]
                                       chunks first … first + count - 1 of this manifest, from
                                       byte `offset` of them together on
             [2, cid, number]          a list of chunks of this manifest
    answer   [0, length]               then `length` raw bytes
             [1, code, message]        refused; the stream goes on

Chunks are numbered as in :class:`~lattica.content.manifest.manifest.Manifest`, and those of one
request may have 1 MiB together, or it is for one. A client half-closes when it wants no more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import msgpack

from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES, MAX_MANIFEST_BYTES
from lattica.nat.base.errors import IncompleteReadError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.wire import (
    LengthPrefixed,
    encode_length_prefixed,
    find_message,
)

PROTOCOL = "/lattica/content/1.0.0"

MAX_SPAN_BYTES = 1024 * 1024
"""Chunks of one request have at most this size together; a single chunk may be longer."""
MAX_SPAN_CHUNKS = 4096
MAX_REFUSAL_BYTES = 512
"""UTF-8 bytes of a refusal's message."""

_MAX_REQUEST = 64
_MAX_ANSWER = MAX_REFUSAL_BYTES + 16
_MAX_NUMBER = (1 << 32) - 1
_SCRATCH = 4096
_MAX_SPARE = 8


class Refusal(IntEnum):
    """Why a server does not send what was asked for. Unknown codes count as `UNREADABLE`."""

    NOT_FOUND = 1
    """It does not publish that manifest."""
    CHANGED = 2
    """The file is not what it was when it was published."""
    UNREADABLE = 3
    """The file cannot be read."""
    BUSY = 4
    """Too many streams; come back later."""
    MISSING = 5
    """It does not have these chunks, or not yet."""
    LATER = 6
    """Another peer that shares has just asked for the same: it will be had there. Who asks again
    gets it."""


@dataclass(frozen=True, slots=True)
class ManifestRequest:
    """Ask for a manifest."""

    cid: Cid
    offset: int = 0
    """Bytes of it that the client has already."""


@dataclass(frozen=True, slots=True)
class SpanRequest:
    """Ask for consecutive chunks of a manifest."""

    cid: Cid
    first: int
    count: int
    offset: int = 0
    """Bytes of them that the client has already."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes that were asked for; not yet checked against any hash."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Refused:
    """The server's answer instead of bytes; `message` is for people and may be anything."""

    code: Refusal
    message: str


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Ask for a list of a manifest's chunks (:mod:`~lattica.content.manifest.lists`)."""

    cid: Cid
    number: int


Request: TypeAlias = ManifestRequest | SpanRequest | ListRequest
Answer: TypeAlias = Body | Refused


def _unpack(message: bytes) -> list[object]:
    """A msgpack array of at most five scalars; raises :class:`RemoteProtocolError`."""
    try:
        fields = msgpack.unpackb(message, max_array_len=5, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"a content message is not msgpack: {error!r}") from None
    if not isinstance(fields, list) or not fields:
        raise RemoteProtocolError("a content message is not an array")
    return fields


def encode_request(request: Request) -> bytes:
    """The bytes of a request."""
    fields: list[object]
    if isinstance(request, ManifestRequest):
        fields = [0, bytes(request.cid), request.offset]
    elif isinstance(request, ListRequest):
        fields = [2, bytes(request.cid), request.number]
    else:
        fields = [1, bytes(request.cid), request.first, request.count, request.offset]
    return encode_length_prefixed(msgpack.packb(fields))


def encode_body_header(length: int) -> bytes:
    """What precedes `length` raw bytes."""
    return encode_length_prefixed(msgpack.packb([0, length]))


def encode_refusal(code: Refusal, message: str) -> bytes:
    """A refusal; the message is cut to 512 bytes."""
    text = message.encode(errors="replace")[:MAX_REFUSAL_BYTES].decode(errors="ignore")
    return encode_length_prefixed(msgpack.packb([1, int(code), text]))


class ContentServerCore:
    """Decodes the requests of one stream."""

    def __init__(self) -> None:
        self._messages = LengthPrefixed(_MAX_REQUEST)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Request]:
        """Take bytes in any split; return the requests they complete.

        Raises:
            RemoteProtocolError: a request is malformed.
        """
        return [self._parse(message) for message in self._messages.feed(data)]

    def finish(self) -> None:
        """The client wants no more.

        Raises:
            IncompleteReadError: it has ended inside a request.
        """
        self._messages.finish()

    @staticmethod
    def _parse(message: bytes) -> Request:
        match _unpack(message):
            case [0, bytes(cid), offset] if (
                isinstance(offset, int) and 0 <= offset < MAX_MANIFEST_BYTES
            ):
                return ManifestRequest(Cid.from_bytes(cid), offset)
            case [1, bytes(cid), first, count, offset] if (
                isinstance(first, int)
                and isinstance(count, int)
                and isinstance(offset, int)
                and 0 <= first <= _MAX_NUMBER
                and 0 < count <= MAX_SPAN_CHUNKS
                and 0 <= offset < MAX_CHUNK_BYTES
            ):
                return SpanRequest(Cid.from_bytes(cid), first, count, offset)
            case [2, bytes(cid), number] if isinstance(number, int) and 0 <= number <= _MAX_NUMBER:
                return ListRequest(Cid.from_bytes(cid), number)
        raise RemoteProtocolError("not a content request")


@dataclass(frozen=True, slots=True)
class _Expected:
    """An answer that has not come: its least and greatest permitted length, bytes."""

    least: int
    greatest: int
    kept: memoryview | None = None
    """The memory of the whole answer, whose beginning is there already."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The beginning of an answer: the memory of all of it, and how many bytes are there."""

    body: memoryview
    filled: int


class ContentClientCore:
    """The client's end of one stream: encodes requests, takes answers in their order.

    Received bytes are put where they belong without a detour: read into :meth:`buffer`, then
    say how many came with :meth:`received`. An answer's memory is taken only after its length
    has been compared with what was asked for; who is done with a body gives it back with
    :meth:`recycle`, since fresh memory costs the kernel as much time as filling it.
    """

    def __init__(self) -> None:
        self._expected: deque[_Expected] = deque()
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._header = bytearray()
        self._body: memoryview | None = None
        self._filled = 0
        self._spare: dict[int, list[bytearray]] = {MAX_SPAN_BYTES: [], MAX_CHUNK_BYTES: []}
        """Memory that nobody uses, by its size."""

    def request_manifest(self, cid: Cid, begun: Begun | None = None) -> bytes:
        """The bytes to send to ask for a manifest, or for what is missing of it."""
        if begun is None:
            self._expected.append(_Expected(1, MAX_MANIFEST_BYTES))
            return encode_request(ManifestRequest(cid))
        return encode_request(ManifestRequest(cid, self._expect_rest(begun)))

    def request_span(
        self, cid: Cid, first: int, count: int, size: int, begun: Begun | None = None
    ) -> bytes:
        """The bytes to send to ask for `count` chunks, which have `size` bytes together.

        `begun` is what another stream brought of them: only the rest is asked for.

        Raises:
            LocalProtocolError: that is more than one request may ask for.
        """
        most = MAX_CHUNK_BYTES if count == 1 else MAX_SPAN_BYTES
        if not (0 < count <= MAX_SPAN_CHUNKS and 0 < size <= most):
            raise LocalProtocolError(f"a span of {count} chunks and {size} bytes")
        if begun is None:
            self._expected.append(_Expected(size, size))
            return encode_request(SpanRequest(cid, first, count))
        if size != len(begun.body):
            raise LocalProtocolError(f"{len(begun.body)} bytes of a span of {size}")
        return encode_request(SpanRequest(cid, first, count, self._expect_rest(begun)))

    def request_list(self, cid: Cid, number: int, size: int) -> bytes:
        """The bytes to send to ask for a list of chunks, which has `size` bytes."""
        self._expected.append(_Expected(size, size))
        return encode_request(ListRequest(cid, number))

    def _expect_rest(self, begun: Begun) -> int:
        """Expect what is missing of an answer; return how much there is of it."""
        rest = len(begun.body) - begun.filled
        if not 0 < rest < len(begun.body):
            raise LocalProtocolError(f"{begun.filled} of {len(begun.body)} bytes are no beginning")
        self._expected.append(_Expected(rest, rest, begun.body))
        return begun.filled

    @property
    def begun(self) -> Begun | None:
        """What there is of the answer that is coming in; for when the stream breaks."""
        if self._body is None or not self._filled:
            return None
        return Begun(self._body, self._filled)

    def buffer(self) -> memoryview:
        """Where the next bytes from the stream belong; never empty."""
        if self._body is not None:
            return self._body[self._filled :]
        return self._scratch

    def received(self, count: int) -> list[Answer]:
        """Note that `count` bytes were read into :meth:`buffer`; return finished answers.

        Raises:
            RemoteProtocolError: for whatever the protocol does not allow.
        """
        if self._body is not None:
            self._filled += count
            return self._finished()
        self._header += self._scratch[:count]
        answers: list[Answer] = []
        while (answer := self._next_header()) is not None:
            answers += answer
        return answers

    def recycle(self, data: memoryview) -> None:
        """Take back the memory of a body that nobody uses any more."""
        memory = data.obj
        if isinstance(memory, bytearray):
            spare = self._spare.get(len(memory))
            if spare is not None and len(spare) < _MAX_SPARE:
                spare.append(memory)

    def _allocate(self, size: int) -> memoryview:
        if size > MAX_CHUNK_BYTES:
            return memoryview(bytearray(size))
        taken = MAX_SPAN_BYTES if size <= MAX_SPAN_BYTES else MAX_CHUNK_BYTES
        spare = self._spare[taken]
        memory = spare.pop() if spare else bytearray(taken)
        return memoryview(memory)[:size]

    def feed(self, data: bytes | bytearray | memoryview) -> list[Answer]:
        """Take bytes in any split by copying them; returns and raises as :meth:`received`."""
        answers: list[Answer] = []
        view = memoryview(data)
        while view:
            buffer = self.buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            view = view[count:]
            answers += self.received(count)
        return answers

    def finish(self) -> None:
        """The server has ended the stream.

        Raises:
            IncompleteReadError: before all answers had come.
        """
        if self._expected or self._header:
            raise IncompleteReadError(
                f"the provider ended the stream with {len(self._expected)} answers missing"
            )

    def _finished(self) -> list[Answer]:
        body = self._body
        if body is None or self._filled < len(body):
            return []
        self._body = None
        self._filled = 0
        return [Body(body)]

    def _next_header(self) -> list[Answer] | None:
        """Parse one answer's message from what is held; None when more bytes are needed."""
        if self._body is not None:
            return None
        held = self._header
        span = find_message(held, _MAX_ANSWER)
        if span is None or span[1] > len(held):
            return None
        fields = _unpack(bytes(held[span[0] : span[1]]))
        rest = held[span[1] :]
        self._header = bytearray()
        if not self._expected:
            raise RemoteProtocolError("an answer to nothing that was asked")
        expected = self._expected.popleft()
        match fields:
            case [0, int(size)]:
                if not expected.least <= size <= expected.greatest:
                    raise RemoteProtocolError(
                        f"an answer of {size} bytes, where {expected.least} to "
                        f"{expected.greatest} belong"
                    )
                if expected.kept is None:
                    self._body, start = self._allocate(size), 0
                else:
                    self._body, start = expected.kept, len(expected.kept) - size
                taken = min(len(rest), size)
                self._filled = start + taken
                self._body[start : self._filled] = rest[:taken]
                self._header = rest[taken:]
                return self._finished()
            case [1, int(code), str(message)]:
                self._header = rest
                known = code if code in set(Refusal) else Refusal.UNREADABLE
                return [Refused(Refusal(known), message)]
        raise RemoteProtocolError("not a content answer")
