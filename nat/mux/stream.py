"""A stream of a connection, as applications and protocol handlers use it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import Abort, Task

from lattica.nat.base.buffers import AnyBuffer, AnyWritableBuffer, flat_bytes, writable_view
from lattica.nat.base.checks import check_error_code
from lattica.nat.base.errors import (
    ConnectionClosedError,
    IncompleteReadError,
    LatticaError,
    PeerLimitError,
    RemoteProtocolError,
    StreamClosedError,
    StreamResetError,
    UnsupportedProtocolError,
    renewed,
)
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Source
from lattica.nat.base.wire import encode_length_prefixed, find_message
from lattica.nat.config import KIB
from lattica.nat.mux.priority import Priority
from lattica.nat.mux.session import RESOURCE_LIMIT
from lattica.nat.mux.stream_state import Buffer, MuxStream
from lattica.nat.secure.multistream import Initiator

if TYPE_CHECKING:
    from lattica.nat.mux.connection import Connection

_TURN = 1024 * KIB
"""Bytes that a task may receive before it lets others run. A pass of trio's scheduler asks the
kernel for events, which costs more than to receive a frame."""
_LEAST_COST = 32 * KIB
"""Bytes that a call counts for at least."""
_MOST = 64 * KIB
"""Bytes that one read returns at most, unless it asks for more."""
_PART = 1 * KIB
_WANTED = 256 * KIB
"""Bytes for which a reader that needs more waits, if a quarter of the window is no less."""
_GIVEN_AT_ONCE = 16 * KIB
"""Bytes of a piece for which no task is woken by :meth:`Stream.receive_by`."""
_GIVEN_PER_UNIT = 128
"""Bytes of it that count as a unit of work of the connection's turn."""
# A small mutable buffer is cheaper to copy than to wait for.
_COPY_BELOW = 16 * 1024


class Waiter:
    """One task's place to sleep until it is woken."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: Task | None = None

    @property
    def occupied(self) -> bool:
        """A task waits here."""
        return self._task is not None

    async def wait(self) -> None:
        if self._task is not None:
            raise trio.BusyResourceError("another task is already waiting here")
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> bool:
        """Let the task go on; return whether there was one."""
        task, self._task = self._task, None
        if task is None:
            return False
        trio.lowlevel.reschedule(task)
        return True


class Stream(InProcess):
    """A bidirectional stream of bytes to a peer, reliable, ordered and encrypted.

    One task may send while another receives; two tasks in the same direction get
    :class:`trio.BusyResourceError`. Every method may be cancelled at any point without harm to
    the connection, and is a checkpoint, with one exception: receiving what has arrived already
    lets other tasks run not each time, but once in 1 MiB or 32 calls.

    How streams end, and what is lost then, is in `docs/guides/streams.md`.

    Errors of all methods: :class:`StreamResetError` when either side aborted the stream, and of
    those that send also when the peer has stopped reading (what it has sent can be received),
    :class:`ConnectionClosedError` when the connection is gone, :class:`StreamClosedError`
    when this side has closed what it tries to use, :class:`UnsupportedProtocolError` when
    a protocol that was proposed without waiting turns out to be refused.
    """

    __slots__ = (
        "__weakref__",
        "_core",
        "_gone",
        "_gone_scope",
        "_negotiation",
        "_readable",
        "_refusal",
        "_sending",
        "_taker",
        "_turn",
        "_writable",
        "connection",
        "protocol",
    )

    def __init__(self, connection: Connection, core: MuxStream) -> None:
        self.connection = connection
        self.protocol = ""
        """The agreed protocol; empty while it is being negotiated."""
        self._core = core
        self._readable = Waiter()
        self._writable = Waiter()
        self._turn = _TURN
        """Bytes to be received before other tasks are let run."""
        self._sending = False
        self._taker: Callable[[memoryview], bool] | None = None
        """Who is given what arrives, in place of a task that is woken for it."""
        self._gone: trio.Event | None = None
        self._gone_scope: trio.CancelScope | None = None
        """What is cancelled when nobody receives any more what this side sends."""
        self._negotiation: Initiator | None = None
        self._refusal: LatticaError | None = None
        core.owner = self

    def __repr__(self) -> str:
        reason = self._core.reset_reason
        state = "" if reason is None else f" ({reason})"
        return f"<Stream {self.id} {self.protocol or '?'} with {self.peer_id}{state}>"

    @property
    def id(self) -> int:
        """The id, unique within the connection."""
        return self._core.id

    @property
    def peer_id(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self.connection.peer_id

    @property
    def source(self) -> Source:
        """Who the peer is where places are shared (:mod:`lattica.nat.base.limits.places`)."""
        return self.connection.source

    @property
    def is_awaited(self) -> bool:
        """Whoever uses the stream waits for the peer to send, or to take what is sent."""
        return self._readable.occupied or self._writable.occupied

    @property
    def progress(self) -> tuple[float, int]:
        """Something that changes when data was received and read, or was sent."""
        return self._core.unread_since, self._core.bytes_framed

    @property
    def is_superseded(self) -> bool:
        """There is a better path to the peer by now, which a new stream would take."""
        return self.connection.retired_at is not None

    @property
    def is_relayed(self) -> bool:
        """Whether it goes through a third peer."""
        return self.connection.is_relayed

    @property
    def rtt(self) -> float | None:
        """Shortest round-trip time of the connection so far, seconds; None: not yet known."""
        return self.connection.rtt

    @property
    def priority(self) -> Priority:
        """How urgent what this side sends is, beside the other streams of the connection.

        May be set at any time; the peer sets its own. It holds for what has not been sent yet, over
        TCP and QUIC alike, and not for what a relay has taken already.
        """
        return self._core.priority

    @priority.setter
    def priority(self, priority: Priority) -> None:
        self._core.session.set_priority(self._core, Priority(priority))

    # --- sending ---

    async def send_all(self, data: AnyBuffer) -> None:
        """Send all of `data`: bytes, anything with the buffer protocol, or a torch tensor.

        Of arrays and tensors the elements' bytes are sent, in C order, without a copy if they lie
        in memory like that (:mod:`lattica.nat.base.buffers`).

        Backpressure: returns when at most `Windows.send_buffer` bytes of an immutable
        `bytes` object still wait for credit or the socket; waits without limit for a
        peer that does not read. A mutable buffer may be changed once this has returned.
        If cancelled, an unknown prefix of `data` has been sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        core = self._core
        self._check_sendable()
        data = flat_bytes(data)
        view = memoryview(data)
        size = len(view)
        stable = type(data) is bytes
        if not stable and size <= _COPY_BELOW:
            view = memoryview(bytes(view))
            stable = True
        self.connection.write(core, view)
        threshold = self.connection.send_buffer if stable else 0
        if core.send_pending <= threshold:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._sending = True
        try:
            core.wake_below = threshold // 2
            await self._wait_drained()
        except BaseException:
            core.wake_below = None
            if core.reset_reason is None:
                core.unwrite(min(size, core.send_pending))
                self.connection.wake_writer()
            raise
        finally:
            self._sending = False
        self._raise_if_unsendable()

    @property
    def has_backlog(self) -> bool:
        """Something that was sent waits for credit or the socket."""
        return self._core.send_pending > 0

    def send_nowait(self, data: bytes | memoryview) -> bool:
        """Queue all of `data`, which must not change, without waiting; whether there is room for
        more.

        For those who keep what they queue within a bound of their own: after False they should
        queue no more until :meth:`wait_sendable` has returned. Raises what :meth:`send_all` does.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        core = self._core
        self._check_sendable()
        self.connection.write(core, memoryview(data))
        return core.send_pending <= self.connection.send_buffer

    async def wait_sendable(self) -> None:
        """Wait until at most half of `Windows.send_buffer` waits for credit or the socket.

        For one task at a time. Raises what :meth:`send_all` does.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        core = self._core
        self._raise_if_unsendable()
        threshold = self.connection.send_buffer // 2
        if core.send_pending <= threshold:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        core.wake_below = threshold
        try:
            await self._wait_drained()
        except BaseException:
            core.wake_below = None
            raise
        self._raise_if_unsendable()

    async def _wait_drained(self) -> None:
        while self._core.wake_below is not None:  # woken for other reasons too
            await self._writable.wait()

    async def wait_sent(self) -> None:
        """Wait until all that was sent has left the stream's buffer: a reset takes none of it back.

        For a task that sends. Waits without limit for a peer that does not read.
        """
        core = self._core
        await trio.lowlevel.checkpoint()
        if core.send_pending and core.reset_reason is None:
            core.wake_below = 0
            try:
                await self._wait_drained()
            except BaseException:
                core.wake_below = None
                raise
        self._raise_if_unsendable()

    def leave_path(self, reason: str) -> None:
        """The peer owes something that does not come, though it is alive: perhaps for the path.

        The connection is ended, and its address tried last from now on, unless other streams use
        it; this stream is reset in any case.
        """
        connection = self.connection
        if connection.stream_count <= 1 and connection.closed_reason is None:
            connection.stalled = True
            connection.abort(reason)
        else:
            self.reset(reason)

    def keep_received(self) -> None:
        """From now on what has arrived can be read even after the peer has reset the stream."""
        self._core.keeps_received = True

    async def send_message(self, data: AnyBuffer) -> None:
        """Send `data` with its length, a varint, in front (:mod:`lattica.nat.base.wire`).

        Backpressure and cancellation are those of :meth:`send_all`: after cancellation the
        peer may have a part of the message, so no other can follow.
        """
        await self.send_all(encode_length_prefixed(flat_bytes(data)))

    async def send_eof(self) -> None:
        """Half-close: the peer reads the end of the stream after what was sent."""
        await trio.lowlevel.checkpoint()
        self._raise_if_unsendable()
        self._core.finish()
        self.connection.wake_writer()

    def _check_sendable(self) -> None:
        self._raise_if_unsendable()
        if self._core.fin_queued:
            raise StreamClosedError("this side has ended the stream, nothing more can be sent")

    def _raise_if_unsendable(self) -> None:
        self._raise_if_dead()
        if self._core.stopped:
            raise StreamResetError(
                "the peer reads no more of the stream; what it has sent can be received",
                self._core.error_code,
            )
        # A stream whose peer had finished outlives the connection, but only for reading.
        self.connection.raise_if_closed()

    def _raise_if_dead(self) -> None:
        if self._refusal is not None:
            raise renewed(self._refusal)
        reason = self._core.reset_reason
        if reason is not None:
            if self.connection.closed_reason is not None:
                raise ConnectionClosedError(f"the connection is gone: {reason}")
            code = self._core.error_code
            kind = PeerLimitError if code == RESOURCE_LIMIT else StreamResetError
            raise kind(f"the stream was aborted: {reason}", code)

    # --- receiving ---

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for data and return at most `max_bytes` (default 64 KiB); `b""` at the end."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is at least 1, not {max_bytes}")
        await self._wait_data()
        return bytes(self._take(_MOST if max_bytes is None else max_bytes))

    async def receive_view(self) -> memoryview:
        """As :meth:`receive_some`, without a copy; empty at the end."""
        await self._wait_data()
        return memoryview(self._take(_MOST))

    async def receive_by(self, take: Callable[[memoryview], bool]) -> None:
        """Give `take` all that arrives, as :meth:`receive_view` returns it, until it returns False
        or the stream ends.

        A small piece it gets while the connection is being read, with no task woken for it: that
        saves a pass of trio's scheduler. So it must not wait, take long or raise.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._raise_if_awaited()
        core = self._core
        self._taker = take
        try:
            while self._taker is not None:
                if self._turn <= 0:
                    self._turn = _TURN
                    await trio.lowlevel.cancel_shielded_checkpoint()
                if self._is_readable and core.receive_queue:
                    self._give()
                    continue
                self._raise_if_unreadable()
                if core.received_fin:
                    break
                await self._readable.wait()
                self._turn = _TURN
        finally:
            self._taker = None
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _give(self) -> None:
        if self._taker is not None and not self._taker(memoryview(self._take(_MOST))):
            self._taker = None

    def _give_at_once(self) -> bool:
        """Give a small piece, if it is all that has happened; whether no task need look at it."""
        core = self._core
        queue = core.receive_queue
        if len(queue) != 1 or len(queue[0]) > _GIVEN_AT_ONCE or not self._is_readable:
            return False
        core.session.turn -= len(queue[0]) // _GIVEN_PER_UNIT
        self._give()
        self._turn = _TURN
        return self._taker is not None and not core.received_fin and core.reset_reason is None

    async def receive_into(self, buffer: AnyWritableBuffer, *, fill: bool = False) -> int:
        """Receive into the caller's memory; return how many bytes, 0 at the end.

        Args:
            buffer: as :meth:`send_all` takes, but writable. Where its elements do not lie in
                memory in C order, a copy of all of it is received into first.
            fill: wait until it is full; less only at the end of the stream. By default what has
                arrived is enough, which may end within an element.

        If it raises or is cancelled, the buffer's content is undefined, and what has arrived is
        there to be read again.

        Raises:
            LocalProtocolError: the buffer is empty or read-only.
        """
        view, settle = writable_view(buffer)
        self._raise_if_awaited()
        room, filled = len(view), 0
        try:
            while await self._wait_data(place=view[filled:] if fill else None):
                filled += self._take_sunk()
                while filled < room and (chunk := self._take(room - filled)):
                    view[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
                if not fill or filled == room:
                    break
            filled += self._take_sunk()
            if settle is not None:
                settle()
        except BaseException:
            filled += self._take_sunk()
            if filled:
                self._core.put_back((bytes(view[:filled]),))
            raise
        return filled

    async def receive_exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Memory is taken as the bytes arrive, so a large `size` that a peer names costs nothing by
        itself. If cancelled, what has arrived is there to be read again.

        Raises:
            IncompleteReadError: the stream ends before.
        """
        if size <= 0:  # there need not be anything to come
            if size:
                raise ValueError(f"cannot receive {size} bytes")
            await trio.lowlevel.checkpoint()
            self._raise_if_dead()
            return b""
        await self._wait_data(size)
        chunk = self._take(size)
        if len(chunk) == size:
            return bytes(chunk)
        parts, received = [chunk], len(chunk)
        try:
            while received < size:
                if not await self._wait_data(size - received):
                    raise IncompleteReadError(f"the stream ended after {received} of {size} bytes")
                part = self._take(size - received)
                received += len(part)
                if len(part) >= _PART:
                    parts.append(part)
                elif type(last := parts[-1]) is bytearray and len(last) < _MOST:
                    last += part
                else:  # many tiny ones must not cost an object each
                    parts.append(bytearray(part))
        except BaseException:
            self._core.put_back(parts)
            raise
        return b"".join(parts)

    async def receive_message(self, limit: int) -> bytes:
        """Wait for a message as :meth:`send_message` sends it; return it without its length.

        What follows the message stays on the stream, for any method. `limit` is in bytes, and
        checked before memory is taken. If cancelled, nothing is lost: the message can be
        received again.

        Raises:
            RemoteProtocolError: for a longer message or what is no length.
            IncompleteReadError: the stream ends before the message does.
        """
        if not await self._wait_data():
            raise IncompleteReadError("the stream ended where a message was expected")
        first = self._core.receive_queue[0]
        span = find_message(first, limit)
        if span is not None and span[1] <= len(first):  # as most are: in one piece
            return bytes(memoryview(self._take(span[1]))[span[0] :])
        prefix = b""
        try:
            while (span := find_message(prefix, limit)) is None:
                prefix += await self.receive_exactly(1)
            return await self.receive_exactly(span[1] - span[0])
        except BaseException:
            self.push_back(prefix)
            raise

    async def _wait_data(self, wanted: int = 0, place: memoryview | None = None) -> bool:
        """Wait until there is data (True) or the end of the stream (False).

        With `wanted`, until there is so much where that is not much; there may be less. With
        `place`, until what arrives has filled it (:meth:`_take_sunk`), unless something is queued.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._raise_if_awaited()
        if self._turn <= 0:
            self._turn = _TURN
            await trio.lowlevel.cancel_shielded_checkpoint()
        core = self._core
        while True:
            # What came before the connection was lost comes before the news of it.
            if self._is_readable and core.receive_queue:
                return True
            self._raise_if_unreadable()
            if core.received_fin:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return False
            if place is None and wanted <= _PART:
                await self._readable.wait()
            else:
                await self._wait_for_more(wanted, place)
                if place is not None and core.sink_filled == len(place):
                    return True
            self._turn = _TURN

    def _raise_if_awaited(self) -> None:
        if self._readable.occupied:
            raise trio.BusyResourceError("another task is receiving from this stream")

    async def _wait_for_more(self, wanted: int, place: memoryview | None) -> None:
        core = self._core
        if self._negotiation is None and place is not None:
            core.sink = place
        # The peer gets credit for what is taken only, and a quarter of the window is always on
        # its way.
        core.wanted = min(wanted, _WANTED, core.receive_window // 4)
        try:
            await self._readable.wait()
        finally:
            core.sink, core.wanted = None, 0

    def _take_sunk(self) -> int:
        """How many bytes have arrived where :meth:`_wait_data` let them."""
        sunk, self._core.sink_filled = self._core.sink_filled, 0
        return sunk

    @property
    def _is_readable(self) -> bool:
        return self._is_negotiated() and not self._core.receive_discarded

    def _raise_if_unreadable(self) -> None:
        self._raise_if_dead()
        if self._core.receive_discarded:
            raise StreamClosedError("this side has closed the stream")
        if self._negotiation is not None and self._core.received_fin:
            raise RemoteProtocolError("the peer closed the stream while negotiating")

    def _take(self, max_bytes: int | None) -> Buffer:
        chunk = self._core.take(max_bytes)
        self._turn -= max(len(chunk), _LEAST_COST)
        if self._core.id in self._core.session.window_updates_due:
            self.connection.wake_writer()
        return chunk

    # --- negotiation ---

    def begin_negotiation(self, negotiation: Initiator) -> None:
        """Propose protocols; the answer is taken from what is received first."""
        self._negotiation = negotiation
        self._core.write(memoryview(negotiation.data_to_send()))
        self.connection.wake_writer()

    def assume_protocol(self, protocol: str) -> None:
        """Go on as if `protocol`, the only one proposed, were accepted already."""
        self.protocol = protocol

    async def finish_negotiation(self) -> None:
        """Wait for the answer to what was proposed."""
        await trio.lowlevel.checkpoint()
        while not self._is_negotiated():
            self._raise_if_unreadable()
            await self._readable.wait()

    def _is_negotiated(self) -> bool:
        """Whether the protocol is agreed on, by what has arrived: the news of that may be late."""
        while self._negotiation is not None and self._core.receive_queue:
            self._continue_negotiation(self._negotiation)
        return self._negotiation is None

    def _continue_negotiation(self, negotiation: Initiator) -> None:
        try:
            negotiation.receive(bytes(self._take(None)))
            if negotiation.failed:
                self.connection.known_protocols.difference_update(negotiation.protocols)
                raise UnsupportedProtocolError(self.peer_id, negotiation.protocols)
        except LatticaError as error:
            # For whoever uses the stream next; with its frames it would hold the stream.
            self._refusal = error.with_traceback(None)
            self.reset()
            return
        if answer := negotiation.data_to_send():
            self._core.write(memoryview(answer))
            self.connection.wake_writer()
        if negotiation.selected is not None:
            self._negotiation = None
            self.protocol = negotiation.selected
            self.connection.known_protocols.add(negotiation.selected)
            self.push_back(negotiation.rest)

    def push_back(self, data: bytes | memoryview) -> None:
        """Put bytes in front of what will be received next."""
        self._core.put_back((data,))

    # --- end ---

    async def aclose(self) -> None:
        """Close both directions in good order; what was sent still arrives.

        Does not wait for the peer. What the peer still sends is thrown away; if it goes on for
        10 s or 16 MiB it is told to stop, which its sender sees as :class:`StreamResetError` and
        its reader not at all. Idempotent; never raises for a stream that is dead.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self, *, stop_peer: bool = False) -> None:
        """:meth:`aclose` without the checkpoint.

        With `stop_peer` the peer is told to stop sending at once, or for yamux as soon as all that
        was sent has gone out, and not after a while.
        """
        core = self._core
        core.finish()
        if not core.receive_discarded:
            core.session.discard_received(core)
        if stop_peer:
            core.session.stop_peer(core)
        self._readable.wake()
        self.connection.wake_writer()

    def reset(self, reason: str = "reset by this side", code: int = 0) -> None:
        """Abort both directions at once; the peer gets an error. Idempotent.

        What the peer has not read is lost, except after :meth:`send_eof`. `reason` is for this
        side; `code`, 0 to 2**32 - 1, arrives as :attr:`StreamResetError.code`.
        """
        check_error_code(code)
        self._core.session.reset(self._core, reason, code)
        self._core.session.discard_received(self._core)
        self.connection.wake_writer()
        self.wake()

    @property
    def is_dead(self) -> bool:
        """The stream was aborted by either side, or its connection is gone."""
        return self._core.reset_reason is not None

    @property
    def is_gone(self) -> bool:
        """Nobody receives any more what this side sends.

        The stream was aborted by either side, the peer has stopped reading, or the connection is
        gone.
        """
        core = self._core
        return (
            core.reset_reason is not None
            or core.stopped
            or self.connection.closed_reason is not None
        )

    async def wait_gone(self) -> None:
        """Wait until :attr:`is_gone`: whoever works on an answer need not go on.

        A peer that has closed the stream in good order is noticed only where it says so: it has
        more to receive, and stops that. Any number of tasks may wait.
        """
        await trio.lowlevel.checkpoint()
        while not self.is_gone:
            self._gone = self._gone or trio.Event()
            await self._gone.wait()

    def cancel_when_gone(self, scope: trio.CancelScope) -> None:
        """Cancel a scope, one at a time, once the stream :attr:`is_gone`.

        A task that waits for that takes as much memory as whoever works on an answer.
        """
        self._gone_scope = scope
        if self.is_gone:
            scope.cancel()

    def wake(self) -> bool:
        """Something arrived: let whoever waits look again (for the connection).

        Returns whether a task goes on for that.
        """
        self._is_negotiated()
        is_given = self._taker is not None and self._readable.occupied and self._give_at_once()
        is_read = not is_given and self._readable.wake()
        is_written = self._writable.wake()
        gone, scope = self._gone, self._gone_scope
        if (gone is None and scope is None) or not self.is_gone:
            return is_read or is_written
        if gone is not None:
            gone.set()
        if scope is not None:
            scope.cancel()
        return True

    def wake_sender(self) -> None:
        self._writable.wake()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            await self.aclose()
        else:
            self.reset()
