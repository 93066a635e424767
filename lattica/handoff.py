"""Streams and events between the trio thread and the threads and loops that use them.

A stream of a facade is in two places: the :class:`~lattica.nat.stream.Stream` in the trio
thread, and a :class:`StreamHandle` in the hands of the caller. Between them lies a buffer
that is filled by a crossing into the trio thread with all that has arrived, and emptied
without one; so small reads seldom cross. Nothing that was received is lost when a read is
cancelled: it stays in the buffer, or returns to it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from lattica.errors import IncompleteReadError, LocalProtocolError

if TYPE_CHECKING:
    from lattica.bridge import Bridge
    from lattica.identity import PeerId
    from lattica.nat.stream import Stream

log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview
E = TypeVar("E")

MIN_READ = 16 * 1024
MAX_READ = 1024 * 1024
"""Bytes: a crossing into the trio thread takes at most so much at a time of what has arrived.

It begins with the minimum, and grows as long as more has arrived.
"""


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

    def take_into(self, target: memoryview) -> int:
        """Fill as much of `target` as there is; return how many bytes."""
        with self._lock:
            done = 0
            while self._chunks and done < len(target):
                part = self._next(len(target) - done)
                target[done : done + len(part)] = part
                done += len(part)
            return done

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


class StreamCore:
    """What is done to a stream in the trio thread; every coroutine here is run there.

    Sends of several callers do not mix, each is whole; receives take turns.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.buffer = ReceiveBuffer()
        self._send_lock = trio.Lock()
        self._receive_lock = trio.Lock()
        self._read_size = MIN_READ

    async def send_all(self, data: Buffer) -> None:
        async with self._send_lock:
            await self.stream.send_all(data)

    async def send_eof(self) -> None:
        async with self._send_lock:
            await self.stream.send_eof()

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

    async def receive_into(self, target: memoryview, fill: bool) -> int:
        async with self._receive_lock:
            done = 0
            try:
                while done < len(target) and (fill or not done):
                    more = self.buffer.take_into(target[done:])
                    if not more and not self.buffer.ended:
                        more = await self.stream.receive_into(target[done:])
                        if not more:
                            self.buffer.append(b"")
                    if not more:
                        break
                    done += more
            except BaseException:
                self.buffer.put_back(bytes(target[:done]))
                raise
            return done

    async def _fill(self) -> None:
        """Wait for data, then take all that there is, or as much as expected."""
        space = bytearray(self._read_size)
        count = await self.stream.receive_into(space)
        self.buffer.append(memoryview(space)[:count])
        if count == len(space):
            self._read_size = min(self._read_size * 4, MAX_READ)
        elif count < len(space) // 4:
            self._read_size = max(self._read_size // 2, MIN_READ)

    def reset(self) -> None:
        try:
            self.stream.reset()
        except Exception:
            log.exception("a stream could not be reset")


class StreamHandle:
    """What the streams of both facades have in common."""

    def __init__(self, bridge: Bridge[Any], stream: Stream) -> None:
        self._bridge = bridge
        self._core = StreamCore(stream)
        self._buffer = self._core.buffer
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

    def reset(self) -> None:
        """Abort both directions at once; what was not delivered is lost. Does not wait."""
        self._closed = True
        self._buffer.clear()
        self._bridge.soon(self._core.reset)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.protocol} with {self.peer_id}>"

    def _begin_close(self) -> bool:
        """Whether there is something to close."""
        if self._closed or self._bridge.closing:
            return False
        self._closed = True
        self._buffer.clear()
        return True

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

    def _target(self, buffer: bytearray | memoryview) -> memoryview:
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise LocalProtocolError("cannot receive into a read-only buffer")
        if not len(view):
            raise LocalProtocolError("cannot receive into an empty buffer")
        return view

    def _give_back_from(self, target: memoryview) -> Callable[[int], None]:
        """For a `receive_into` whose caller went away."""
        return lambda count: self._buffer.put_back(bytes(target[:count]))


class EventsCore(Generic[E]):
    """A subscription to events; every method is run in the trio thread."""

    def __init__(self) -> None:
        self._manager: AbstractContextManager[AsyncIterator[E]] | None = None
        self._events: AsyncIterator[E] | None = None
        self._scope: trio.CancelScope | None = None
        self._returned: deque[E] = deque()
        self._lock = trio.Lock()

    def open(self, subscribe: Callable[[], AbstractContextManager[AsyncIterator[E]]]) -> None:
        """Events from now on are kept for this subscription."""
        self._manager = subscribe()
        self._events = self._manager.__enter__()

    async def receive(self) -> E | None:
        """The next event; None when there will be no more."""
        async with self._lock:
            if self._returned:
                return self._returned.popleft()
            event = None
            if self._events is not None:
                with trio.CancelScope() as self._scope:
                    event = await anext(self._events, None)
            return event

    def put_back(self, event: E | None) -> None:
        """Take back an event that came to nobody."""
        if event is not None:
            self._returned.appendleft(event)

    def close(self) -> None:
        """No more events; whoever waits for one gets None."""
        manager, self._manager, self._events = self._manager, None, None
        self._returned.clear()
        if self._scope is not None:
            self._scope.cancel()
        if manager is not None:
            manager.__exit__(None, None, None)
