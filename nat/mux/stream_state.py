"""One stream's state: windows, queues and half-close, without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

from lattica.nat.mux.priority import Priority

if TYPE_CHECKING:
    from lattica.nat.mux.session import MuxSession

Buffer: TypeAlias = bytes | bytearray | memoryview

_COALESCE_BELOW = 1024
_COALESCED_CHUNK = 16 * 1024
_MANY_WRITES = 64


class MuxStream:
    """State of one stream; created by :class:`~lattica.nat.mux.session.MuxSession` only.

    The send side is a queue of buffers that the session cuts into frames when the
    connection can take them. The receive side is a queue of what arrived, within the
    window promised to the peer.
    """

    __slots__ = (
        "__weakref__",
        "_owner",
        "ack_due",
        "ahead",
        "bytes_framed",
        "bytes_queued",
        "consumed",
        "error_code",
        "fin_queued",
        "fin_sent",
        "id",
        "keeps_received",
        "last_update",
        "priority",
        "receive_credit",
        "receive_discarded",
        "receive_queue",
        "receive_window",
        "received_again",
        "received_fin",
        "released",
        "reset_reason",
        "scheduled",
        "send_credit",
        "send_queue",
        "session",
        "sink",
        "sink_filled",
        "sparse_left",
        "sparse_until",
        "stopped",
        "stops_peer",
        "syn_due",
        "unread_since",
        "wake_below",
        "wanted",
    )

    def __init__(
        self, session: MuxSession, stream_id: int, *, initiated: bool, now: float, window: int
    ) -> None:
        self.session = session
        self.id = stream_id
        self._owner: ref[Any] | None = None
        self.syn_due = initiated
        self.ack_due = not initiated
        # Send side.
        self.send_queue: deque[memoryview] = deque()
        self.bytes_queued = 0
        """Bytes ever written by the application."""
        self.bytes_framed = 0
        """Bytes of them that left in frames."""
        self.send_credit = window
        self.fin_queued = False
        self.fin_sent = False
        self.wake_below: int | None = None
        """The driver is told once when no more than this many bytes are queued."""
        self.priority = Priority.NORMAL
        self.scheduled = False
        self.sparse_left = 0
        self.sparse_until = 0.0
        self.ahead = 0
        """Bytes that it has sent beyond its turns."""
        # Receive side.
        # A deque has 760 bytes, but a list of all frames of a window is moved up with each taken.
        self.receive_queue: deque[Buffer] = deque()
        self.wanted = 0
        """Bytes for which the reader waits: it is told no sooner, unless something else happens."""
        self.sink: memoryview | None = None
        """Memory of a reader that waits until it is full, while nothing is queued."""
        self.sink_filled = 0
        """Bytes of it that have arrived, and that the reader has not seen yet."""
        self.receive_window = window
        self.released = False
        """The window does not count any more against what the peer may make us hold."""
        self.receive_credit = window
        """Bytes the peer may still send."""
        self.consumed = 0
        """Bytes read since the last window update."""
        self.last_update = now
        self.unread_since = now
        """When the application last read, or the first of what it has not read arrived."""
        self.received_again = 0
        """Bytes at the front that were put back, for which the peer has got its credit."""
        self.received_fin = False
        self.receive_discarded = False
        self.keeps_received = False
        """What has arrived can be read even after the peer's reset."""
        self.reset_reason: str | None = None
        """Why the stream was aborted, by either side; None while it lives."""
        self.stopped = False
        """The peer reads no more, so nothing can be sent; what it sends can be read."""
        self.stops_peer = False
        """It was closed, and the peer is told to send no more."""
        self.error_code = 0
        """What the application that aborted or stopped it says of the cause."""

    @property
    def owner(self) -> object:
        """For the driver: its object for this stream, as long as somebody else has it.

        It has this one, and what is in no cycle is freed as soon as it has ended.
        """
        return None if self._owner is None else self._owner()

    @owner.setter
    def owner(self, owner: object) -> None:
        self._owner = ref(owner)

    def __del__(self) -> None:
        if self.receive_queue:
            self.session.forgotten(sum(map(len, self.receive_queue)))

    # --- sending ---

    @property
    def send_pending(self) -> int:
        """Bytes written and not yet framed."""
        return self.bytes_queued - self.bytes_framed

    @property
    def sendable(self) -> bool:
        """There is a frame that may leave now."""
        if self.reset_reason is not None:
            return False
        if self.send_queue:
            return self.send_credit > 0 or self.syn_due
        return self.syn_due or (self.fin_queued and not self.fin_sent)

    def whole_pieces(self, most: int) -> int:
        """Bytes of the first pieces of what is queued that are at most `most` together."""
        total = 0
        for piece in self.send_queue:
            if total + len(piece) > most:
                break
            total += len(piece)
        return total

    def write(self, data: memoryview) -> None:
        """Queue `data` (format "B") to be sent. It must not change until it is framed."""
        if data.nbytes and not self.stopped:
            queue = self.send_queue
            if len(queue) >= _MANY_WRITES and len(queue[-1]) + data.nbytes <= _COALESCE_BELOW:
                # Nor must many tiny writes to a peer that does not read.
                queue[-1] = memoryview(b"".join((queue[-1], data)))
            else:
                queue.append(data)
            was_idle = not self.send_pending
            self.bytes_queued += data.nbytes
            self.session.schedule(self, was_idle=was_idle)

    def unwrite(self, size: int) -> int:
        """Take back up to `size` bytes from the end of the queue; return how many."""
        taken = 0
        queue = self.send_queue
        while queue and taken < size:
            last = queue.pop()
            excess = len(last) - (size - taken)
            if excess > 0:
                queue.append(last[:excess])
                taken = size
            else:
                taken += len(last)
        self.bytes_queued -= taken
        self.session.schedule(self)  # a FIN may have waited for these bytes only
        return taken

    def finish(self) -> None:
        """Half-close: a FIN follows what has been written. Idempotent."""
        if not self.fin_queued and self.reset_reason is None:
            self.fin_queued = True
            self.session.schedule(self, was_idle=not self.send_pending)

    # --- receiving ---

    def take(self, max_bytes: int | None = None) -> Buffer:
        """Remove and return the first chunk (or its first `max_bytes`); empty when none.

        Reading is what opens the window again.
        """
        queue = self.receive_queue
        if not queue:
            return b""
        chunk = queue[0]
        if max_bytes is not None and len(chunk) > max_bytes:
            view = memoryview(chunk)
            queue[0] = view[max_bytes:]
            chunk = view[:max_bytes]
        else:
            queue.popleft()
        self.session.consumed(self, len(chunk))
        return chunk

    def put_back(self, parts: Sequence[Buffer]) -> None:
        """Put what was taken last in front of what will be taken next, without a copy.

        It counts for the memory budget again, and the peer gets no credit for it a second time.
        """
        if not self.receive_discarded:
            kept = [part for part in parts if len(part)]
            self.receive_queue.extendleft(reversed(kept))
            self.session.returned(self, sum(map(len, kept)))

    def append_received(self, message: bytes, start: int, end: int) -> None:
        """Queue `message[start:end]`, keeping memory within twice the payload."""
        size = end - start
        queue = self.receive_queue
        if size < _COALESCE_BELOW and queue:
            # Many tiny frames must not cost an object each.
            last = queue[-1]
            if type(last) is bytearray and len(last) < _COALESCED_CHUNK:
                last += message[start:end]
            else:
                queue.append(bytearray(message[start:end]))
        elif size * 2 < len(message):
            queue.append(message[start:end])
        else:
            queue.append(memoryview(message)[start:end])
