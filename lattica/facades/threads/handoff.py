"""Streams between the trio thread and the threads and loops that use them.

A stream of a facade is in two places: the :class:`~lattica.nat.mux.stream.Stream` in the trio
thread, and a :class:`StreamHandle` in the hands of the caller. Between them lie two buffers.
That of what was received is filled by a crossing into the trio thread with all that has
arrived, and emptied without one; nothing is lost when a read is cancelled: it stays in the
buffer, or returns to it. That of what is to be sent takes pieces without a crossing while there
is room. So small reads and writes seldom wait for another thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from lattica.nat.base.checks import check_error_code
from lattica.nat.base.errors import IncompleteReadError, LocalProtocolError, StreamClosedError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.wire import MAX_UVARINT_BYTES, encode_length_prefixed, find_message
from lattica.nat.mux.priority import Priority

if TYPE_CHECKING:
    from lattica.facades.threads.bridge import Bridge
    from lattica.nat.base.keys.identity import PeerId
    from lattica.nat.mux.stream import Stream

logger = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview

MIN_READ = 16 * 1024
MAX_READ = 1024 * 1024
"""Bytes: a crossing into the trio thread takes at most so much at a time of what has arrived.

It begins with the minimum, and grows as long as more has arrived.
"""
MAX_QUEUED = 512 * 1024
"""Bytes of one stream that wait, at most, for the trio thread to send them."""
MAX_COPIED = 16 * 1024
"""Bytes up to which a piece is rather copied than waited for."""


class ReceiveBuffer:
    """Chunks that have been received and not yet been asked for. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: deque[memoryview] = deque()
        self._ended = False
        self.size = 0

    @property
    def ended(self) -> bool:
        """Whether the peer has ended its direction; what is buffered comes before that."""
        return self._ended

    def append(self, chunk: Buffer) -> None:
        """Add what was received last; an empty chunk means the end of the stream."""
        with self._lock:
            if len(chunk):
                self._chunks.append(memoryview(chunk))
                self.size += len(chunk)
            else:
                self._ended = True

    def put_back(self, chunk: Buffer) -> None:
        """Put bytes that were taken, and came to nobody, before all others."""
        with self._lock:
            if len(chunk):
                self._chunks.appendleft(memoryview(chunk))
                self.size += len(chunk)

    def clear(self) -> None:
        """Forget everything, the end too: the stream has been closed on this side."""
        with self._lock:
            self._chunks.clear()
            self._ended = False
            self.size = 0

    def take(self, max_bytes: int | None) -> bytes | None:
        """Up to `max_bytes` (None: all there is); b"" at the end; None when empty."""
        with self._lock:
            if not self._chunks:
                return b"" if self._ended else None
            return self._pop(self.size if max_bytes is None else min(max_bytes, self.size))

    def take_exactly(self, size: int) -> bytes | None:
        """`size` bytes; None when there are fewer, unless it is the end: IncompleteReadError.

        Then what there is stays, and can still be read.
        """
        with self._lock:
            if self.size >= size:
                return self._pop(size)
            if self._ended:
                raise IncompleteReadError(
                    f"the peer ended the stream after {self.size} of {size} bytes"
                )
            return None

    def take_message(self, limit: int) -> bytes | None:
        """A message that has its length in front, without it; None when it is not all there.

        At the end IncompleteReadError, and for what is no message of up to `limit` bytes
        RemoteProtocolError; then what there is stays, and can still be read.
        """
        with self._lock:
            span = find_message(self._head(), limit)
            if span is not None and span[1] <= self.size:
                self._pop(span[0])
                return self._pop(span[1] - span[0])
            if self._ended:
                raise IncompleteReadError(
                    "the peer ended the stream in a message"
                    if self.size
                    else "the peer ended the stream where a message was expected"
                )
            return None

    def put_message_back(self, message: bytes) -> None:
        """:meth:`put_back` for what :meth:`take_message` returned."""
        self.put_back(encode_length_prefixed(message))

    def take_into(self, target: memoryview) -> int:
        """Fill as much of `target` as there is; return how many bytes."""
        with self._lock:
            done = 0
            while self._chunks and done < len(target):
                part = self._next(len(target) - done)
                target[done : done + len(part)] = part
                done += len(part)
            return done

    def _head(self) -> bytes:
        """Enough of the beginning for a length."""
        head = b""
        for chunk in self._chunks:
            if len(head) >= MAX_UVARINT_BYTES:
                break
            head += chunk[: MAX_UVARINT_BYTES - len(head)]
        return head

    def _next(self, limit: int) -> memoryview:
        chunk = self._chunks.popleft()
        if len(chunk) > limit:
            self._chunks.appendleft(chunk[limit:])
            chunk = chunk[:limit]
        self.size -= len(chunk)
        return chunk

    def _pop(self, size: int) -> bytes:
        parts = []
        while size > 0:
            parts.append(self._next(size))
            size -= len(parts[-1])
        return b"".join(parts)


class SendQueue:
    """Small sends that were accepted without waiting for the trio thread, and are on their way.

    A bulk transfer in pieces of 64 KiB would otherwise wait for two thread switches a piece.
    At most `MAX_QUEUED` bytes wait here, besides `Windows.send_buffer` in the stream; what does
    not fit is sent by `send`, which waits. An error of the stream is met by the next `send`.
    """

    def __init__(self, bridge: Bridge[Any], stream: Stream) -> None:
        self._bridge = bridge
        self._stream = stream
        self._lock = threading.Lock()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._pumping = False
        """For `offer`: a pump will look into the queue again before it ends."""
        self._running = False
        """In the trio thread: there is a pump."""
        self._direct = 0
        self._refusing = False
        self._closing = False
        self._idle = trio.Event()
        self._turn = trio.Lock()

    def offer(self, data: Buffer) -> bool:
        """From any thread: take the data, to be sent soon, or refuse it."""
        if type(data) is not bytes:
            if memoryview(data).nbytes > MAX_COPIED:
                return False
            data = bytes(data)
        with self._lock:
            if self._direct or self._refusing or self._size + len(data) > MAX_QUEUED:
                return False
            if not self._pumping:
                # First: an interrupt between these lines must not leave data without a pump.
                self._bridge.soon(self._start)
            self._queue.append(data)
            self._size += len(data)
            self._pumping = True
            return True

    async def send(self, data: Buffer) -> None:
        """Send after all that was taken before; nothing is taken meanwhile."""
        with self._held():
            async with self._turn:
                self._check_open()
                await self.flush()
                self._check_open()
                await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """End the stream after all that was taken before."""
        with self._held():
            async with self._turn:
                self._check_open()
                await self.flush()
                self._check_open()
                await self._stream.send_eof()
            self._refusing = True  # whoever sends more asks the stream, and gets its error

    async def flush(self) -> None:
        """Wait until all that was taken has been sent, or cannot be."""
        while self._pumping or self._queue:
            await self._idle.wait()

    async def aclose(self) -> None:
        """Close the stream when all has been sent; does not wait for that."""
        self._refusing = self._closing = True
        if not self._pumping and not self._queue:
            await self._stream.aclose()

    def _check_open(self) -> None:
        if self._closing:
            raise StreamClosedError("this side has closed the stream")

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:
            self._direct += 1
        try:
            yield
        finally:
            with self._lock:
                self._direct -= 1

    def _start(self) -> None:
        nursery = self._bridge.background
        if nursery is None:
            self._break()
        elif not self._running:
            self._running = True
            self._idle = trio.Event()
            nursery.start_soon(self._pump)

    async def _pump(self) -> None:
        try:
            while (data := self._next()) is not None:
                await self._stream.send_all(data)
        except BaseException as exc:
            self._break()
            if not isinstance(exc, Exception):
                raise
            logger.debug("a stream broke with data on its way: %s", exc)
        if self._closing:
            await self._stream.aclose()

    def _next(self) -> bytes | None:
        """What is to be sent next, small pieces together; None, and no pump, when empty."""
        with self._lock:
            if not self._queue:
                self._pumping = self._running = False
                self._idle.set()
                return None
            data = self._queue.popleft()
            if self._queue and len(data) < MAX_COPIED:
                parts, size = [data], len(data)
                while self._queue and size + len(self._queue[0]) <= 4 * MAX_COPIED:
                    parts.append(self._queue.popleft())
                    size += len(parts[-1])
                data = b"".join(parts)
            self._size -= len(data)
            return data

    def _break(self) -> None:
        with self._lock:
            self._queue.clear()
            self._size = 0
            self._pumping = self._running = False
            self._refusing = True
            self._idle.set()


class StreamCore:
    """What is done to a stream in the trio thread; every coroutine here is run there.

    Sends of several callers do not mix, each is whole; receives take turns.
    """

    def __init__(self, bridge: Bridge[Any], stream: Stream) -> None:
        self.bridge = bridge
        self.stream = stream
        self.buffer = ReceiveBuffer()
        self.queue = SendQueue(bridge, stream)
        self._receive_lock = trio.Lock()
        self._receiving: trio.CancelScope | None = None
        self._read_size = MIN_READ
        self._closed = False

    def set_priority(self, priority: Priority) -> None:
        self.stream.priority = priority

    async def receive_some(self, max_bytes: int | None) -> bytes:
        async with self._receive_lock:
            while (data := self.buffer.take(max_bytes)) is None:
                await self._fill()
            return data

    async def receive_exactly(self, size: int) -> bytes:
        async with self._receive_lock:
            while (data := self.buffer.take_exactly(size)) is None:
                await self._fill()
            return data

    async def receive_message(self, limit: int) -> bytes:
        async with self._receive_lock:
            while (data := self.buffer.take_message(limit)) is None:
                await self._fill()
            return data

    async def receive_into(self, target: memoryview, fill: bool) -> int:
        async with self._receive_lock:
            done = 0
            try:
                while done < len(target) and (fill or not done):
                    more = self.buffer.take_into(target[done:])
                    if not more and not self.buffer.ended:
                        more = await self._receive(target[done:])
                        if not more:
                            self.buffer.append(b"")
                    if not more:
                        break
                    done += more
            except BaseException:
                self.buffer.put_back(bytes(target[:done]))
                raise
            return done

    async def aclose(self) -> None:
        """Close both directions in good order, without waiting for the peer."""
        self._closed = True
        if self._receiving is not None:
            self._receiving.cancel()
        await self.queue.aclose()

    def reset(self, reason: str = "reset by this side", code: int = 0) -> None:
        try:
            self.stream.reset(reason, code)
        except Exception:
            logger.exception("a stream could not be reset")

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Round the wait for a handler. One that the end of the node has broken off is no news,
        but its stream is reset, lest the peer take the end for a proper one."""
        try:
            yield
        except LocalProtocolError:
            if not self.bridge.closing:
                raise
            self.reset()

    async def _fill(self) -> None:
        """Wait for data, then take all that there is, or as much as expected."""
        space = bytearray(self._read_size)
        count = await self._receive(space)
        self.buffer.append(memoryview(space)[:count])
        if count == len(space):
            self._read_size = min(self._read_size * 4, MAX_READ)
        elif count < len(space) // 4:
            self._read_size = max(self._read_size // 2, MIN_READ)

    async def _receive(self, target: bytearray | memoryview) -> int:
        count = None
        if not self._closed:
            with trio.CancelScope() as self._receiving:
                count = await self.stream.receive_into(target)
        if count is None:
            raise StreamClosedError("this side has closed the stream")
        return count


class StreamHandle(InProcess):
    """What the streams of both facades have in common."""

    def __init__(self, core: StreamCore) -> None:
        self._bridge = core.bridge
        self._core = core
        self._buffer = core.buffer
        self._closed = False

    @property
    def protocol(self) -> str:
        """The protocol that was agreed on."""
        return self._core.stream.protocol

    @property
    def peer_id(self) -> PeerId:
        """The peer at the other end."""
        return self._core.stream.peer_id

    @property
    def id(self) -> int:
        """The stream's number on its connection."""
        return self._core.stream.id

    @property
    def is_gone(self) -> bool:
        """Nobody receives any more what this side sends; see `Stream.is_gone`."""
        return self._core.stream.is_gone

    @property
    def is_relayed(self) -> bool:
        """Whether it goes through a third peer."""
        return self._core.stream.is_relayed

    @property
    def is_superseded(self) -> bool:
        """There is a better path to the peer by now, which a new stream would take."""
        return self._core.stream.is_superseded

    @property
    def priority(self) -> Priority:
        """How urgent what this side sends is; see `Stream.priority`. May be set at any time."""
        return self._core.stream.priority

    @priority.setter
    def priority(self, priority: Priority) -> None:
        self._bridge.soon(self._core.set_priority, Priority(priority))

    @property
    def rtt(self) -> float | None:
        """Shortest round-trip time of the connection so far, seconds; None: not yet known."""
        return self._core.stream.rtt

    def reset(self, reason: str = "reset by this side", code: int = 0) -> None:
        """Abort both directions at once; what was not delivered is lost. Does not wait.

        `reason` is for this side; `code`, 0 to 2**32 - 1, arrives as `StreamResetError.code`.
        """
        check_error_code(code)
        self._closed = True
        self._buffer.clear()
        self._bridge.soon(self._core.reset, reason, code)

    def __repr__(self) -> str:
        state = " (closed)" if self._closed else " (gone)" if self.is_gone else ""
        return f"<{type(self).__name__} {self.id} {self.protocol} with {self.peer_id}{state}>"

    def _begin_close(self) -> bool:
        """Whether there is something to close."""
        if self._closed or self._bridge.closing:
            return False
        self._closed = True
        self._buffer.clear()
        return True

    def _offer(self, data: Buffer) -> bool:
        """Whether the data has been taken, to be sent soon."""
        self._bridge.check()
        return not self._closed and self._core.queue.offer(data)

    def _take(self, max_bytes: int | None) -> bytes | None:
        """What can be had without crossing into the trio thread."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is at least 1, not {max_bytes}")
        self._bridge.check()
        return self._buffer.take(max_bytes)

    def _take_exactly(self, size: int) -> bytes | None:
        if size < 0:
            raise ValueError(f"cannot receive {size} bytes")
        self._bridge.check()
        return self._buffer.take_exactly(size)

    def _take_message(self, limit: int) -> bytes | None:
        self._bridge.check()
        return self._buffer.take_message(limit)

    def _give_back_from(self, target: memoryview) -> Callable[[int], None]:
        """For a `receive_into` whose caller went away."""
        return lambda count: self._buffer.put_back(bytes(target[:count]))
