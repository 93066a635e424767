"""The serving side of the control plane, pure: frames in, requests out; answers in, frames out.

See :mod:`lattica.rpc.protocol.client_core` for what a session is. A request is handed out once,
whatever streams it came by. Answers are kept until the client says that they have arrived. The
driver says how many frames it takes at once; the others wait undecoded, and count as not arrived:
if the stream is lost, the client sends them again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.wire import LengthPrefixed
from lattica.nat.config import KIB
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.protocol.frames import (
    GOING_AWAY,
    MAX_FRAME,
    MAX_FRAME_ITEMS,
    Kind,
    check_frame,
    check_frame_items,
    check_options,
    encode_welcome,
    session_of,
    split_arguments,
)

MAX_ANSWERS_KEPT: Final = 16_384
"""Answers that a client may leave unacknowledged: it has at most as many calls under way, and
64.
"""
MANY: Final = 80
"""Frames that are handed out at once: 64 calls and what goes with them, as a client acknowledges
after as many."""
MUCH: Final = 16 * KIB
"""Bytes of frames that are handed out at once, or one frame: reading them takes time."""
_MAX_UNREAD_FRAMES: Final = 40_000
_ACK: Final = bytes((0x92, Kind.ACK))
_SIZES: Final[dict[int, tuple[int, ...]]] = {
    Kind.HELLO: (5,),
    Kind.REQUEST: (4, 6),
    Kind.CANCEL: (2,),
    Kind.ACK: (2,),
}


_NO_KEYWORDS: Final[dict[str, Any]] = {}


class Request:
    """A call that has arrived."""

    __slots__ = ("args", "id", "keywords", "metadata", "method", "refusal", "timeout_ms")

    def __init__(self, fields: list[Any], refusal: RefusedValueError | None) -> None:
        """Raises RemoteProtocolError."""
        self.id: int = fields[1]
        self.method: str = fields[2]
        self.timeout_ms: int | None = None
        self.metadata: dict[str, Any] | None = None
        self.refusal = refusal
        """Why the arguments cannot be had here."""
        if type(self.method) is not str:
            raise RemoteProtocolError("RPC: a request names a method")
        if len(fields) > 4:
            self.timeout_ms, self.metadata = fields[3:5]
            check_options(self.timeout_ms, self.metadata)
        self.args: list[Any] = fields[-1]
        self.keywords: dict[str, Any] = _NO_KEYWORDS
        if type(self.args) is not list:
            self.args, self.keywords = split_arguments(self.args)


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client has given a call up."""

    id: int


class Hello:
    """The first frame of a stream, which says which session it is for.

    Feed it until :attr:`session` is there; what follows the frame is in :attr:`rest`.
    """

    def __init__(self) -> None:
        self.session: bytes | None = None
        self.answers = 0
        self.stream = 0
        """Which of the session's streams it is."""
        self.rest: list[bytes] = []
        self._reader = LengthPrefixed(MAX_FRAME)

    def feed(self, data: bytes | memoryview, decoder: Decoder) -> bool:
        """Whether it is complete. Raises RemoteProtocolError."""
        frames = self._reader.feed(data)
        if not frames:
            return False
        check_frame_items(frames[0])
        fields = check_frame(decoder.decode_partly(frames[0])[0], _SIZES)
        if fields[0] != Kind.HELLO:
            raise RemoteProtocolError("RPC: the client's first frame is no hello")
        session, self.answers = session_of(fields)
        if type(fields[4]) is not int or fields[4] < 1:
            raise RemoteProtocolError("RPC: a hello without the number of its stream")
        self.session, self.stream = session, fields[4]
        self.rest = frames[1:]
        return True

    @property
    def lost(self) -> bytes | None:
        """What to answer, before the stream's end, where the session is not known; or None: it is
        the first stream of a new one. What was sent on others, the server of before may have got.
        """
        if self.session is None or self.stream == 1:
            return None
        return encode_welcome(self.session, self.answers, None)

    @property
    def reader(self) -> LengthPrefixed:
        """What goes on with the stream."""
        return self._reader


class ServerCore:
    """A session with one client."""

    def __init__(self, session: bytes, decoder: Decoder) -> None:
        self.session = session
        self.is_live = False
        self.running: set[int] = set()
        """Calls that have arrived and have no answer."""
        self._decoder = decoder
        self._stream = 0
        self._highest = -1
        self._acked = 0
        """Answers that the client has."""
        self._answers: deque[bytes] = deque()
        """Those after them."""
        self.bytes_kept = 0
        """Bytes of them."""
        self._unread: deque[bytes] = deque()
        self.bytes_unread = 0
        """Bytes of frames that wait to be taken."""
        self._reader = LengthPrefixed(MAX_FRAME)

    @property
    def answers_kept(self) -> int:
        """Answers of which it is not known that they have arrived."""
        return len(self._answers)

    def is_stale(self, hello: Hello) -> bool:
        """It came late: the session is on a later stream, or was."""
        return hello.stream <= self._stream

    def attach(
        self, hello: Hello, *, going_away: bool = False
    ) -> tuple[list[Request | Cancel], bytes]:
        """The session goes over to the stream that `hello` came by, and reads no other any more.

        What arrived behind the hello, and what to write. Raises RemoteProtocolError.
        """
        if self.is_stale(hello):
            raise RemoteProtocolError("RPC: a hello that has been used")
        self._stream = hello.stream
        self._reader = hello.reader
        self._on_ack(hello.answers)
        self._unread.clear()
        self.bytes_unread = 0
        self.is_live = True
        greeting = [encode_welcome(self.session, self._acked, self._highest), *self._answers]
        if going_away:
            greeting.append(GOING_AWAY)
        self._queue(hello.rest)
        return self.take(MANY), b"".join(greeting)

    def detach(self) -> None:
        """The stream is lost: answers are kept for the next."""
        self.is_live = False

    def receive(self, data: bytes | memoryview, most: int = MANY) -> list[Request | Cancel]:
        """Take bytes in any split; what at most `most` frames say, and :meth:`take` the others.

        Which answers have arrived is seen at once. Raises RemoteProtocolError.
        """
        frames = self._reader.feed(data)
        if len(frames) <= most and len(data) <= MUCH and not self._unread:
            return self._read(frames)
        self._queue(frames)
        return self.take(most)

    def _queue(self, frames: list[bytes]) -> None:
        for frame in frames:
            if frame.startswith(_ACK):
                self._read([frame])
            else:
                self._unread.append(frame)
                self.bytes_unread += len(frame)
        if len(self._unread) > _MAX_UNREAD_FRAMES:
            raise RemoteProtocolError("RPC: more calls than a client may have under way")

    def take(self, most: int) -> list[Request | Cancel]:
        """What at most `most` of the frames that wait say. Raises RemoteProtocolError."""
        frames: list[bytes] = []
        size = 0
        while self._unread and len(frames) < most and (not frames or size < MUCH):
            frames.append(self._unread.popleft())
            size += len(frames[-1])
        self.bytes_unread -= size
        return self._read(frames)

    def _read(self, frames: list[bytes]) -> list[Request | Cancel]:
        if len(self._answers) > MAX_ANSWERS_KEPT:
            raise RemoteProtocolError("RPC: the client does not say which answers have arrived")
        events: list[Request | Cancel] = []
        for frame in frames:
            if len(frame) > MAX_FRAME_ITEMS:
                check_frame_items(frame)
            value, refusal = self._decoder.decode_partly(frame)
            fields = check_frame(value, _SIZES)
            kind = fields[0]
            if kind == Kind.REQUEST:
                request = Request(fields, refusal)
                if request.id <= self._highest:
                    raise RemoteProtocolError("RPC: calls are not numbered in order")
                self._highest = request.id
                self.running.add(request.id)
                events.append(request)
            elif kind == Kind.CANCEL:
                if fields[1] in self.running:
                    events.append(Cancel(fields[1]))
            elif kind == Kind.ACK:
                # There are no more of them than answers: they are read however many have come.
                if fields[1] == self._acked:
                    raise RemoteProtocolError("RPC: an acknowledgement of nothing new")
                self._on_ack(fields[1])
            else:
                raise RemoteProtocolError("RPC: a second hello on a stream")
        return events

    def _on_ack(self, answers: int) -> None:
        if not self._acked <= answers <= self._acked + len(self._answers):
            raise RemoteProtocolError("RPC: the client claims answers that were not sent")
        while self._acked < answers:
            self.bytes_kept -= len(self._answers.popleft())
            self._acked += 1

    def answer(self, call: int, frame: bytes) -> bytes:
        """The answer of a call, encoded: what to write now. Exactly one for each request."""
        self.running.remove(call)
        self._answers.append(frame)
        self.bytes_kept += len(frame)
        return frame if self.is_live else b""
