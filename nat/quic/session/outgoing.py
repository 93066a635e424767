"""What goes to qh3, when, and in which order.

Data is handed over packet by packet where streams share (:mod:`lattica.nat.quic.session.room`), so
that what is urgent does not queue behind bulk data: first resets, credit and messages, then streams
in the order of :mod:`lattica.nat.mux.senders`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.config import KIB
from lattica.nat.mux.senders import Senders
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.quic.qh3.native import NativeDrive, Runs
from lattica.nat.quic.session.credit import encode_credit
from lattica.nat.quic.session.room import SendRoom
from lattica.nat.quic.session.streams import QuicStreams

MAX_MESSAGE = 1100
"""Longest message, bytes; it fits into every packet."""
MESSAGE_QUEUE = 256
"""Messages that wait to be sent; beyond it the oldest are dropped."""

LAST_BYTE = b"\0"
"""Ends a stream, and is none of its data. An end without a byte is lost for good by qh3 (2.1.0)
when its packet is, and data before it is not acknowledged yet; and when it is acknowledged before
that data, the stream never ends for its sender."""
_BURST = 512 * KIB
"""Bytes of one :meth:`Outgoing.transmit`, roughly."""
_BURST_DATAGRAMS = 512
"""And how many datagrams: small ones, which a peer may ask for by the thousand, take as long."""
_TURN = 32 * KIB
_CREDIT_BACKLOG = 16 * KIB


class Outgoing:
    """Feeds qh3 from the streams of one session.

    Args:
        senders: whose turn it is.
        credit_due: the streams whose readers have made room.
        reopen_window: gives the credit that a stream's peer is to get, in bytes.
        on_progress: told of a stream whose end was sent, or whose queue has sunk to what its
            writer waits for.
    """

    __slots__ = (
        "_credit_due", "_drive", "_messages", "_on_progress", "_reopen_window", "_room", "_senders",
        "_streams", "_turn",
    )  # fmt: skip

    def __init__(
        self,
        drive: NativeDrive,
        room: SendRoom,
        streams: QuicStreams,
        senders: Senders,
        *,
        credit_due: dict[int, MuxStream],
        reopen_window: Callable[[MuxStream], int],
        on_progress: Callable[[MuxStream], None],
    ) -> None:
        self._drive = drive
        self._room = room
        self._streams = streams
        self._senders = senders
        self._credit_due = credit_due
        self._reopen_window = reopen_window
        self._on_progress = on_progress
        self._messages: deque[bytes] = deque(maxlen=MESSAGE_QUEUE)
        self._turn = 0
        """Bytes that the stream whose turn it is has sent in it."""

    def add_message(self, data: bytes) -> None:
        """Queue a message that may be lost.

        Raises :class:`LocalProtocolError` if it is longer than :data:`MAX_MESSAGE`.
        """
        if len(data) > MAX_MESSAGE:
            raise LocalProtocolError(f"a datagram has at most {MAX_MESSAGE} bytes")
        self._messages.append(data)

    @property
    def is_due(self) -> bool:
        """There is something that :meth:`transmit` could hand over now."""
        room = self._room
        room.look()
        return bool(
            self._streams.wants_aborts
            or (self._senders and room.bytes > 0)
            or self._may_give_credit
            or (self._messages and not room.congested)
        )

    @property
    def _may_give_credit(self) -> bool:
        return bool(self._credit_due) and self._room.backlog_of(0) < _CREDIT_BACKLOG

    def transmit(self, now: float, runs: Runs) -> bool:
        """Add what may leave now to `runs`, up to a burst; return whether there may be more."""
        room, drive, senders = self._room, self._drive, self._senders
        room.begin_burst()
        self._move_control()
        size = 0
        for _ in range(_BURST_DATAGRAMS):
            if size >= _BURST:
                break
            if senders:
                self._move_streams()
            sent = drive.transmit_one(now, runs)
            if not sent:
                return False
            size += sent
            room.note_sent(sent)
        return True

    def _move_control(self) -> None:
        native = self._drive.native
        for stream_id in self._streams.hand_over_aborts():
            self._room.forget(stream_id)
        if self._may_give_credit:
            credit = bytearray()
            while self._credit_due and len(credit) < _CREDIT_BACKLOG:
                stream_id, stream = self._credit_due.popitem()
                credit += encode_credit(stream_id, self._reopen_window(stream))
            native.send_stream(0, credit, False)
            self._room.note_credit(len(credit))
        while self._messages and not self._room.congested:
            native.send_datagram(self._messages.popleft())

    def _move_streams(self) -> None:
        """Hand data to qh3, in the order of :class:`Senders`, as far as there is room."""
        senders = self._senders
        while senders and (room := self._room.bytes) > 0:
            if senders.is_one:
                room = self._room.bytes_alone
            stream, allowance = senders.first()
            sent = None
            waits = False
            if stream.sendable and (stream.send_queue or stream.fin_queued):
                waits = stream.syn_due and not self._streams.open(stream)
                if not waits:
                    sent = self._move(stream, int(min(room, allowance)))
                    self._turn += sent
                    if allowance > _TURN and self._turn < _TURN and stream.sendable:
                        continue
                    if allowance > _TURN:
                        sent, self._turn = self._turn, 0
            senders.finish_turn(sent)
            if not waits and (stream.send_queue or stream.fin_queued):
                senders.add(stream, was_idle=False)

    def _move(self, stream: MuxStream, room: int) -> int:
        """Hand up to `room` bytes of one stream to qh3; return how many."""
        queue, stream_id = stream.send_queue, stream.id
        send = self._drive.native.send_stream
        limit = min(room, stream.send_credit)
        moved = 0
        while queue and moved < limit:
            chunk = queue[0]
            size = len(chunk)
            if moved + size <= limit:
                queue.popleft()
            else:
                size = limit - moved
                queue[0] = chunk[size:]
                chunk = chunk[:size]
            moved += size
            send(stream_id, chunk, False)
        if stream.fin_queued and not queue and not stream.fin_sent:
            send(stream_id, LAST_BYTE, True)
            stream.fin_sent = True
        stream.send_credit -= moved
        stream.bytes_framed += moved
        if moved:
            self._room.note_handed(stream_id, moved)
        threshold = stream.wake_below
        if stream.fin_sent or (threshold is not None and stream.send_pending <= threshold):
            self._on_progress(stream)
        return moved

    def let_go(self) -> None:
        """Hold nothing of the session, which holds this."""
        self._reopen_window = _no_credit
        self._on_progress = _nothing

    def clear(self) -> None:
        """The connection is over."""
        self._messages.clear()


def _no_credit(stream: MuxStream) -> int:
    return 0


def _nothing(stream: MuxStream) -> None:
    pass
