"""The trio driver of one connection: a reader task and the one writer task.

The writer owns the sending side of the socket and the cipher. It makes frames only when
the previous batch has left, so urgent frames never queue behind bulk data in user space,
and a cancelled application write cannot tear a frame.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from enum import Enum

import trio
from multiaddr.multiaddr import Multiaddr

from lattica.errors import ConnectionClosedError, LatticaError, RemoteProtocolError
from lattica.identity import PeerId
from lattica.nat.config import MIB
from lattica.nat.noise import MAX_PLAINTEXT, TransportWriter
from lattica.nat.stream import Stream, Waiter
from lattica.nat.transport import RawConn
from lattica.nat.upgrade import Upgraded
from lattica.nat.yamux import Session
from lattica.nat.yamux_events import EventKind
from lattica.nat.yamux_frames import GoAwayCode
from lattica.nat.yamux_stream import YamuxStream

logger = logging.getLogger(__name__)

_MESSAGES_PER_BATCH = 4
_BATCH_SIZE = _MESSAGES_PER_BATCH * (MAX_PLAINTEXT + TransportWriter.OVERHEAD)
_POOLED_BATCHES = 4
_SMALL = 16 * 1024
"""Up to this many bytes are sent without a batch buffer."""
_CLOSE_GRACE = 1.0
"""Seconds to wait for the peer's end of a connection that this side closes."""
_serial_numbers = itertools.count(1)


class Direction(Enum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class _Buffers(threading.local):
    """Buffers of a thread's writers: only those that are sending hold one."""

    def __init__(self) -> None:
        self.plain = memoryview(bytearray(MAX_PLAINTEXT))
        self._batches: list[memoryview] = []

    def take_batch(self) -> memoryview:
        return self._batches.pop() if self._batches else memoryview(bytearray(_BATCH_SIZE))

    def return_batch(self, batch: memoryview) -> None:
        if len(self._batches) < _POOLED_BATCHES:
            self._batches.append(batch)


_buffers = _Buffers()

# Freeing a large block makes glibc keep up to twice its size of free heap from then on
# (mallopt(3), M_MMAP_THRESHOLD). Without that, the heap shrinks and grows again for nearly
# every received message: measured as a fifth of a receiver's CPU time.
bytearray(16 * MIB).clear()


class Connection:
    """An authenticated connection to a peer, carrying many streams.

    Made by the swarm, which also runs it; use :meth:`open_stream` and :meth:`close`.
    """

    __slots__ = (
        "__weakref__",
        "_closing",
        "_early",
        "_flushed",
        "_on_stream",
        "_raw",
        "_reader",
        "_scope",
        "_write_wake",
        "_writer",
        "agent",
        "closed",
        "closed_reason",
        "direction",
        "established_at",
        "known_protocols",
        "last_stream_at",
        "local_addr",
        "peer_id",
        "public_key",
        "remote_addr",
        "retired",
        "send_buffer",
        "serial",
        "session",
    )

    def __init__(
        self,
        raw: RawConn,
        upgraded: Upgraded,
        session: Session,
        *,
        direction: Direction,
        send_buffer: int,
        on_stream: Callable[[Stream], None],
    ) -> None:
        self.serial = next(_serial_numbers)
        self.peer_id: PeerId = upgraded.remote.peer_id
        self.public_key = upgraded.remote.public_key
        self.direction = direction
        self.local_addr: Multiaddr = raw.local_addr
        self.remote_addr: Multiaddr = raw.remote_addr
        self.session = session
        self.send_buffer = send_buffer
        self.established_at = self.last_stream_at = trio.current_time()
        self.agent = ""
        """What the peer says it runs, once it has been identified."""
        self.known_protocols: set[str] = set()
        """Protocols the peer has named, or agreed to, on this connection."""
        self.retired = False
        """Another connection to the peer is preferred; this one ends when it is idle."""
        self.closed_reason: str | None = None
        self.closed = trio.Event()
        self._raw = raw
        self._reader = upgraded.reader
        self._writer = upgraded.writer
        self._on_stream = on_stream
        self._write_wake = Waiter()
        self._flushed = Waiter()
        self._closing = False
        self._scope = trio.CancelScope()
        self._early = upgraded.early

    def __repr__(self) -> str:
        return f"<Connection {self.serial} {self.direction.value} {self.remote_addr}>"

    @property
    def stream_count(self) -> int:
        return len(self.session.streams)

    def open_stream(self) -> Stream:
        """Open a stream, not negotiated yet.

        Raises :class:`ConnectionClosedError`, or
        :class:`~lattica.errors.ResourceLimitError` when a budget is used up.
        """
        if self.closed_reason is not None:
            raise ConnectionClosedError(f"the connection is gone: {self.closed_reason}")
        if self._closing:
            raise ConnectionClosedError("the connection is being closed by this side")
        stream = Stream(self, self.session.open())
        self.last_stream_at = trio.current_time()
        return stream

    def wake_writer(self) -> None:
        """There may be something to send."""
        self._write_wake.wake()

    async def run(self) -> None:
        """Serve the connection until it ends; the swarm's task."""
        reason = "closed by this side"
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_loop, nursery.cancel_scope)
                    reason = await self._read_loop()
                    nursery.cancel_scope.cancel()
                if self._closing:
                    with trio.move_on_after(_CLOSE_GRACE):
                        await self._raw.aclose()
        except* LatticaError as group:
            reason = str(_first(group))
        except* (OSError, trio.ClosedResourceError, trio.BrokenResourceError) as group:
            reason = f"network error: {_first(group)}"
        except* Exception as group:
            # A defect of ours costs this connection, not the node.
            logger.error("closing connection: internal error peer=%s", self.peer_id, exc_info=group)
            reason = "internal error"
        finally:
            self._end(reason)
            # Some pipes can only let go of what is below them by waiting.
            with trio.move_on_after(_CLOSE_GRACE, shield=True):
                await self._raw.aclose()

    async def _read_loop(self) -> str:
        await trio.lowlevel.checkpoint()  # it may have been aborted before it began
        raw, reader = self._raw, self._reader
        self.session.ping()  # windows grow by the round-trip time, so know it early
        early, self._early = self._early, ()
        try:
            self._feed(early)
            while data := await raw.receive():
                # A part of a message gives no bytes yet, but is a sign of life.
                self._feed(reader.receive(data) or [b""])
        except RemoteProtocolError as error:
            logger.warning(
                "closing connection: peer breaks the protocol: %s peer=%s addr=%s",
                error,
                self.peer_id,
                self.remote_addr,
            )
            self.session.go_away(GoAwayCode.PROTOCOL_ERROR)
            self._write_wake.wake()
            with trio.move_on_after(0.2):
                await self._flushed.wait()
            raise
        return "closed by the peer"

    def _feed(self, messages: list[bytes] | tuple[bytes, ...]) -> None:
        """Let the session take decrypted bytes, and act on what happens."""
        session = self.session
        for message in messages:
            for event in session.receive(message):
                kind, yamux = event.kind, event.stream
                if yamux is not None:
                    if kind is EventKind.ACCEPTED:
                        self._accept(yamux)
                    elif isinstance(yamux.owner, Stream):
                        yamux.owner.wake()
                        if yamux.session is not session:  # it was aborted for its memory
                            yamux.owner.connection.wake_writer()
                elif kind is EventKind.GO_AWAY and event.value:
                    logger.info(
                        "peer ends the connection with code %d peer=%s", event.value, self.peer_id
                    )
        if session.wants_write:
            self._write_wake.wake()

    def _accept(self, yamux: YamuxStream) -> None:
        self.last_stream_at = trio.current_time()
        self._on_stream(Stream(self, yamux))

    async def _write_loop(self, scope: trio.CancelScope) -> None:
        try:
            while not self._closing:
                await self._flush()
                if not (self.session.wants_write or self._closing):
                    self._flushed.wake()
                    await self._write_wake.wait()
            await self._flush()
            # Not earlier: to some implementations it means that no more data follows.
            self.session.go_away(GoAwayCode.NORMAL)
            await self._flush()
            scope.cancel()
        except (OSError, trio.BrokenResourceError):
            # A peer that has closed may have said something before: let the reader have it.
            await trio.sleep(_CLOSE_GRACE)
            raise

    async def _flush(self) -> None:
        """Send until the session has nothing more; only bulk takes a batch buffer."""
        session, raw, writer, plain = self.session, self._raw, self._writer, _buffers.plain
        batch: memoryview | None = None
        try:
            while session.wants_write:
                filled = session.fill(plain)
                if filled > _SMALL:
                    batch = batch or _buffers.take_batch()
                    size = self._seal_batch(filled, batch)
                    self._wake_drained()
                    await raw.send(batch[:size])
                elif filled:
                    sealed = writer.seal(plain[:filled])
                    self._wake_drained()
                    await raw.send(sealed)
        finally:
            if batch is not None:
                _buffers.return_batch(batch)

    def _seal_batch(self, filled: int, batch: memoryview) -> int:
        """Encrypt what was filled, and more of it while there is, into `batch`."""
        session, writer, plain = self.session, self._writer, _buffers.plain
        size = writer.seal_into(plain[:filled], batch)
        for _ in range(_MESSAGES_PER_BATCH - 1):
            if filled < MAX_PLAINTEXT // 2 or not (filled := session.fill(plain)):
                break
            size += writer.seal_into(plain[:filled], batch[size:])
        return size

    def _wake_drained(self) -> None:
        for yamux in self.session.take_drained():
            if isinstance(yamux.owner, Stream):
                yamux.owner.wake_sender()

    # --- end ---

    def tick(self) -> None:
        """Keep-alive and clean-up; the swarm calls it about once a second."""
        try:
            self.session.tick()
        except LatticaError as error:
            logger.info(
                "closing connection: %s peer=%s addr=%s", error, self.peer_id, self.remote_addr
            )
            self.abort(str(error))
            return
        if self.session.wants_write:
            self._write_wake.wake()

    async def aclose(self) -> None:
        """Send what was accepted for sending, say GoAway, and close.

        Streams that are still open fail. The caller bounds the time.
        """
        if self.closed_reason is None and not self._closing:
            self._closing = True
            self._write_wake.wake()
        await self.closed.wait()

    def abort(self, reason: str) -> None:
        """Close at once; `reason` is what the streams' users are told. Idempotent."""
        self._end(reason)
        self._scope.cancel()

    def _end(self, reason: str) -> None:
        if self.closed_reason is not None:
            return
        self.closed_reason = reason
        self._raw.abort()
        for yamux in self.session.close(reason):
            if isinstance(yamux.owner, Stream):
                yamux.owner.wake()
        self.closed.set()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
