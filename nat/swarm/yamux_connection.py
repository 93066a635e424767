"""The trio driver of yamux over a secured pipe: a reader task and the one writer task.

The writer owns the sending side of the socket and the cipher. It makes frames only when
the previous batch has left, so urgent frames never queue behind bulk data in user space,
and a cancelled application write cannot tear a frame.

A small message for which the writer would have to be woken, and that comes alone, is sent in its
place by who has it: that saves a pass of the loop. Where messages come one upon the other, they are
gathered, and sent when they are enough, or when the writer runs.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import trio

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.config import KIB, MIB
from lattica.nat.mux.connection import CLOSE_GRACE, Connection, Direction
from lattica.nat.mux.delivery import Delivery
from lattica.nat.mux.session import GATED, NOT_LET_IN
from lattica.nat.mux.stream import Stream, Waiter
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.turns import SLOW_TURN, TURN, Turnstile
from lattica.nat.mux.yamux.frames import HEADER_SIZE, GoAwayCode
from lattica.nat.mux.yamux.session import Session
from lattica.nat.secure.noise import MAX_PLAINTEXT, TAG_SIZE, TransportWriter
from lattica.nat.secure.upgrade import Upgraded
from lattica.nat.transport.base import RawConn

_MESSAGES_PER_BATCH = 10
"""Messages that are made and sent at a time: what is urgent waits for one such batch. They are two
long frames of streams that take turns, each with a message before it; or one, of all but two."""
_MESSAGES_PER_LARGE_BATCH = 18
_LARGE_BATCH_TIME = 0.005
"""Seconds: batches are large while one takes less, which is nothing to what is urgent."""
_SMALLEST_MESSAGE = 1024
_MESSAGES_PER_LIMIT = 64
"""Messages into which is divided what a pipe with a limit carries (2 KiB for libp2p's 128 KiB)."""
_POOLED_BATCHES = 4
_SMALL = 16 * 1024
"""Up to this many bytes are sent without a batch buffer."""
_ALONE = 0.0001
"""Seconds since the message before after which one counts as alone."""
_GATHERING = 0.02
"""Seconds for which the writer gathers after one that was not."""
_GATHERED = 4 * KIB
"""Bytes of small messages that leave without waiting for the writer: the peer works on them while
this side makes the next ones. Were all that a pass makes sent at its end, one side would rest while
the other works."""
_WITHOUT_GOOD_BYE = (
    "the peer is gone without a good-bye: its program was killed or has crashed, or something on "
    "the way has cut the connection"
)


class _Buffers(threading.local):
    """Buffers of a thread's writers: only those that are sending hold one."""

    def __init__(self) -> None:
        self.plain = memoryview(bytearray(MAX_PLAINTEXT))
        self._batches: dict[int, list[memoryview]] = {
            _MESSAGES_PER_BATCH: [],
            _MESSAGES_PER_LARGE_BATCH: [],
        }
        """Those that nobody uses, by the messages for which there is room in each."""

    def take_batch(self, messages: int) -> memoryview:
        batches = self._batches[messages]
        if batches:
            return batches.pop()
        return memoryview(bytearray(messages * (MAX_PLAINTEXT + TransportWriter.OVERHEAD)))

    def return_batch(self, messages: int, batch: memoryview) -> None:
        if len(self._batches[messages]) < _POOLED_BATCHES:
            self._batches[messages].append(batch)


_buffers = _Buffers()

# Freeing a large block makes glibc keep up to twice its size of free heap from then on
# (mallopt(3), M_MMAP_THRESHOLD). Without that, the heap shrinks and grows again for nearly
# every received message: measured as a fifth of a receiver's CPU time.
_block = bytearray(16 * MIB)
del _block


class YamuxConnection(Connection):
    """A connection over a pipe that Noise secures and yamux divides."""

    __slots__ = (
        "_cipher",
        "_early",
        "_flushed",
        "_gathered",
        "_gathers_until",
        "_messages_per_batch",
        "_raw",
        "_reader",
        "_sent_at",
        "_unsent",
        "_write_wake",
        "_writer",
    )

    session: Session

    def __init__(
        self,
        raw: RawConn,
        upgraded: Upgraded,
        session: Session,
        *,
        turnstile: Turnstile,
        direction: Direction,
        send_buffer: int,
        on_stream: Callable[[Stream], None],
    ) -> None:
        super().__init__(
            session,
            upgraded.remote,
            local_addr=raw.local_addr,
            remote_addr=raw.remote_addr,
            turnstile=turnstile,
            direction=direction,
            send_buffer=send_buffer,
            on_stream=on_stream,
        )
        self._raw = raw
        self._cipher = upgraded.cipher
        self._reader = upgraded.reader
        self._writer = upgraded.writer
        self._early = upgraded.early
        self._write_wake = Waiter()
        self._flushed = Waiter()
        self._messages_per_batch = _MESSAGES_PER_BATCH
        self._sent_at = self._gathers_until = -math.inf
        self._unsent = b""
        """What is left of a message that was sent in the writer's place."""
        self._gathered: int | None = None
        """Bytes that wait for the writer to run, which has been woken; None: it is at work, or what
        waits is left to it."""

    @property
    def cipher(self) -> str:
        return self._cipher.value

    def wake_writer(self) -> None:
        self._write_wake.wake()

    def write(self, stream: MuxStream, data: memoryview) -> None:
        if not self._write_wake.occupied:
            stream.write(data)  # the writer takes it along
            self._gather(len(data))
            return
        before, now = self._sent_at, time.perf_counter()
        self._sent_at = now
        if now - before < _ALONE:
            self._gathers_until = now + _GATHERING
        if now < self._gathers_until or len(data) > _SMALL or self._raw.most_bytes is not None:
            stream.write(data)
            self._gathered = 0
            self._write_wake.wake()
            self._gather(len(data))
        elif (frame := self.session.frame_alone(stream, data)) is not None:
            self._send_now(frame)
        else:
            stream.write(data)
            self._fill_now()

    def _gather(self, size: int) -> None:
        """A message more waits for the writer, which has been woken and may not have run yet."""
        if self._gathered is None:
            return
        if size > _GATHERED // 4 or self._raw.most_bytes is not None:
            self._gathered = None
            return
        self._gathered += size
        if self._gathered >= _GATHERED and not self._unsent:
            self._gathered = 0
            self._fill_now()

    def _fill_now(self) -> None:
        """Send what there is, in the place of the writer."""
        plain = _buffers.plain[: _SMALL + HEADER_SIZE]
        if filled := self.session.fill(plain):
            self._send_now(plain[:filled])
            self._wake_drained()
        if self.session.wants_write:
            self._write_wake.wake()

    def _send_now(self, plain: bytes | memoryview) -> None:
        """Send a message in the place of the writer, which waits, and sends what is left of it."""
        sealed = self._writer.seal(plain)
        self._unsent = sealed[self._raw.send_nowait(sealed) :]
        if self._unsent:
            self._write_wake.wake()

    def _machine_seen(self) -> bool | None:
        unanswered = self._raw.unanswered()
        return None if unanswered is None else unanswered < self.session.timeouts.keep_alive_timeout

    def delivery(self) -> Delivery | None:
        return self._raw.delivery()

    async def _serve(self) -> str:
        reason = "closed by this side"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_loop, nursery.cancel_scope)
            reason = await self._read_loop()
            nursery.cancel_scope.cancel()
        if self._closing:
            with trio.move_on_after(CLOSE_GRACE):
                await self._raw.aclose()
        return reason

    def _let_go(self) -> None:
        self._raw.abort()

    async def _release(self) -> None:
        await self._raw.aclose()  # some pipes can only let go of what is below them by waiting

    async def _read_loop(self) -> str:
        await trio.lowlevel.checkpoint()  # it may have been aborted before it began
        raw, reader = self._raw, self._reader
        self.session.ping()  # windows grow by the round-trip time, so know it early
        self.session.turn = TURN
        early, self._early = self._early, ()
        try:
            await self._feed(early)
            while data := await raw.receive():
                await self._feed(self._take(reader.split(data)))
        except RemoteProtocolError as error:
            self._log_violation(error)
            self.session.go_away(GoAwayCode.PROTOCOL_ERROR)
            self._write_wake.wake()
            with trio.move_on_after(0.2):
                await self._flushed.wait()
            # Not raised: it would hold this connection until the cycle collector runs.
            return str(error)
        if not self.session.went_away:
            return _WITHOUT_GOOD_BYE
        return NOT_LET_IN if self.session.goodbye_code == GATED else "closed by the peer"

    def _take(self, sealed: list[memoryview]) -> list[bytes]:
        """Decrypt what was received and let the session take it, in a turn; return what is left.

        What belongs into the memory of a reader that waits is decrypted to where it belongs. All is
        decrypted at once, for it lies in a buffer that is used again.
        """
        session, reader = self.session, self._reader
        if not sealed:
            return [b""]  # a part of a message gives no bytes yet, but is a sign of life
        for index, each in enumerate(sealed):
            size = len(each) - TAG_SIZE
            place = session.place(size)
            if place is not None:
                reader.open_into(each, place)
                self._handle(session.placed(size))
            elif plain := reader.open(each):
                self._handle(session.receive(plain))
                if session.unfinished:
                    return reader.open_all(sealed[index + 1 :])
        return []

    async def _feed(self, messages: list[bytes] | tuple[bytes, ...]) -> None:
        """Let the session take decrypted bytes, after what it has not finished; act on what
        happens.

        Others run after each turn; as a rule all is done in one. Nothing more is read of the pipe
        while the connection rests (:mod:`lattica.nat.mux.turns`).
        """
        session = self.session
        await self._finish_turns()
        for message in messages:
            self._handle(session.receive(message))
            await self._finish_turns()
        if session.wants_write:
            self._write_wake.wake()
        await self._begin_turn()

    async def _finish_turns(self) -> None:
        session = self.session
        while session.unfinished or self._events:
            if session.wants_write:
                self._write_wake.wake()
            await self._turnstile.wait(session.source.network)
            if self._events:
                self._handle_more()
            else:
                await self._begin_turn()
                self._handle(session.go_on())

    async def _begin_turn(self) -> None:
        self.session.turn = SLOW_TURN if await self._rest() else TURN
        self._handle_more()

    async def _write_loop(self, scope: trio.CancelScope) -> None:
        try:
            while not self._closing:
                await self._flush()
                if not (self.session.wants_write or self._closing):
                    self._flushed.wake()
                    await self._write_wake.wait()
                    self._gathered = None
            await self._flush()
            # Not earlier: to some implementations it means that no more data follows.
            self.session.go_away(GoAwayCode.NORMAL)
            await self._flush()
            scope.cancel()
        except (OSError, trio.BrokenResourceError):
            # A peer that has closed may have said something before: let the reader have it.
            await trio.sleep(CLOSE_GRACE)
            raise

    async def _flush(self) -> None:
        """Send until the session has nothing more; only bulk takes a batch buffer."""
        session, raw, writer, plain = self.session, self._raw, self._writer, _buffers.plain
        if self._unsent:
            rest, self._unsent = self._unsent, b""
            await raw.send(rest)
        if (most := raw.most_bytes) is not None:
            size = max(_SMALLEST_MESSAGE, most // _MESSAGES_PER_LIMIT)
            if size < MAX_PLAINTEXT:
                await self._flush_small(size)
                return
        while session.wants_write:
            filled, payload = self._fill(self._messages_per_batch - 2)
            if payload is not None or filled > _SMALL:
                await self._send_batch(filled, payload)
            elif filled:
                sealed = writer.seal(plain[:filled])
                self._wake_drained()
                await raw.send(sealed)

    async def _send_batch(self, filled: int, payload: memoryview | None) -> None:
        messages, start = self._messages_per_batch, time.perf_counter()
        batch = _buffers.take_batch(messages)
        try:
            size = self._seal_batch(filled, payload, batch, messages)
            self._wake_drained()
            await self._raw.send(batch[:size])
        finally:
            _buffers.return_batch(messages, batch)
        is_fast = time.perf_counter() - start < _LARGE_BATCH_TIME
        self._messages_per_batch = _MESSAGES_PER_LARGE_BATCH if is_fast else _MESSAGES_PER_BATCH

    async def _flush_small(self, size: int) -> None:
        """As :meth:`_flush`, in small messages, for a pipe that will be cut after so many bytes:
        of the message that it is cut in nothing can be used.
        """
        plain = _buffers.plain[:size]
        while self.session.wants_write and (filled := self.session.fill(plain)):
            sealed = self._writer.seal(plain[:filled])
            self._wake_drained()
            await self._raw.send(sealed)

    def _fill(self, units: int) -> tuple[int, memoryview | None]:
        """Fill one message, at whose end a long frame of up to `units` may begin: how much is
        filled, and what of that frame is to be sent in messages of its own.
        """
        session, plain = self.session, _buffers.plain
        filled = session.fill(plain, MAX_PLAINTEXT)
        long = session.fill_long(plain[filled:], MAX_PLAINTEXT, units) if units >= 2 else None
        return (filled, None) if long is None else (filled + long[0], long[1])

    def _seal_batch(
        self, filled: int, payload: memoryview | None, batch: memoryview, messages: int
    ) -> int:
        """Encrypt what was filled, and more of it while there is, into `batch`.

        A `payload` is encrypted from where it lies, after the message with its header.
        """
        writer, plain = self._writer, _buffers.plain
        size, left = 0, messages
        while filled:
            size += writer.seal_into(plain[:filled], batch[size:])
            left -= 1
            if payload is not None:
                for start in range(0, len(payload), MAX_PLAINTEXT):
                    piece = payload[start : start + MAX_PLAINTEXT]
                    size += writer.seal_into(piece, batch[size:])
                    left -= 1
            if left <= 0 or (payload is None and filled < MAX_PLAINTEXT // 2):
                break
            filled, payload = self._fill(left - 1)
        return size
