"""yamux 1.0.0 as a pure state machine: bytes and clock in; bytes and events out.

Implements hashicorp/yamux spec.md, wire-compatible with go-yamux, rust-yamux and
js-libp2p. Windows, budgets and scheduling are those of :mod:`lattica.nat.mux.session`; frames are
made only when the connection can take them (:meth:`Session.fill`). Violations (window
overrun, unknown frames, streams nobody opened, control frames without end) raise
:class:`RemoteProtocolError`; the driver then closes the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.limits.places import NOBODY, Source
from lattica.nat.config import Limits, Timeouts, Windows
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import Event, EventKind
from lattica.nat.mux.senders import SPARSE_BYTES
from lattica.nat.mux.session import RESOURCE_LIMIT, MuxSession
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.turns import OPENING, SMALL_CREDIT, Nuisance
from lattica.nat.mux.yamux.frames import (
    HEADER_SIZE,
    MAX_BODY,
    PROTOCOL_VERSION,
    Flag,
    FrameType,
    GoAwayCode,
    pack_header,
    pack_header_into,
    unpack_header,
)

_LONG_TURN = 4
"""Units of a long frame for which other streams have to wait."""
_SMALLEST_SPLIT = 512
"""Data is not split just to fill less room than this."""
_MAX_CONTROL_FRAMES = 4096
_LAST_STREAM_ID = 2**32 - 1
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = (int(kind) for kind in FrameType)
_SYN, _ACK, _FIN, _RST = (int(flag) for flag in Flag)
_MEANT = _SYN | _FIN | _RST
"""A frame with one of these says something without data."""


class Session(MuxSession):
    """One connection multiplexed by yamux.

    The driver feeds decrypted bytes to :meth:`receive`, and lets others have their turn whenever
    :attr:`unfinished`; it calls :meth:`fill` whenever :attr:`wants_write` and the connection can
    take more, and :meth:`tick` about once a second. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        clock: Callable[[], float],
        windows: Windows | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        budget: MemoryBudget | None = None,
        source: Source = NOBODY,
        nuisance: Nuisance | None = None,
        relayed: bool = False,
    ) -> None:
        super().__init__(
            first_id=1 if initiator else 2,
            id_step=2,
            last_id=_LAST_STREAM_ID,
            clock=clock,
            windows=windows,
            limits=limits,
            timeouts=timeouts,
            budget=budget,
            source=source,
            nuisance=nuisance,
            relayed=relayed,
        )
        self._peer_parity = 0 if initiator else 1
        self._highest_peer_id = 0
        # Receiving.
        self._unread = b""
        self._position = 0
        """What of it is done."""
        self._header = b""
        self._data_left = 0
        self._data_stream: MuxStream | None = None
        self._data_fin = False
        # Sending.
        self._control: deque[bytes] = deque()
        self._ping_value = 0
        self.said_goodbye = False
        """The peer has said that it is going."""
        self.goodbye_code = 0
        """Why, if it is not for nothing."""

    def _send_reset(self, stream: MuxStream) -> None:
        if not stream.syn_due:  # otherwise the peer has never heard of it
            # libp2p's error codes are where a window update has its credit.
            self._control.append(pack_header(0, _WINDOW_UPDATE, _RST, stream.id, stream.error_code))

    def _stop_peer(self, stream: MuxStream, reason: str) -> None:
        # yamux can only reset both directions, which harms nothing that came before our FIN.
        if stream.fin_sent:
            self.reset(stream, reason)

    def _send_ping(self) -> None:
        self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
        self._control.append(pack_header(0, _PING, _SYN, 0, self._ping_value))

    # --- receiving ---

    def receive(self, message: bytes) -> list[Event]:
        """Take the next bytes of the connection and return what they caused.

        When the turn is over before they are done, there are :attr:`unfinished` ones.

        Raises:
            RemoteProtocolError: the peer breaks the protocol.
        """
        self._unread = self._unread[self._position :] + message if self._unread else message
        self._position = 0
        return self.go_on()

    @property
    def unfinished(self) -> bool:
        """Received bytes wait for the next turn: give one to :attr:`turn`, then :meth:`go_on`."""
        return bool(self._unread)

    def place(self, size: int) -> memoryview | None:
        """Where the next `size` bytes of the connection belong: the memory of a reader that waits.

        Whoever has put them there says so by :meth:`placed`. None: they are for :meth:`receive`.
        """
        stream = self._data_stream
        if stream is None or not 0 < size <= self._data_left or self._unread:
            return None
        sink, filled = stream.sink, stream.sink_filled
        if sink is None or size > len(sink) - filled or stream.receive_discarded:
            return None
        return sink[filled : filled + size]

    def placed(self, size: int) -> list[Event]:
        """`size` bytes are in their :meth:`place`; return what that caused."""
        events: list[Event] = []
        stream = self._data_stream
        assert stream is not None
        self.last_received = self._clock()
        self._sunk(stream, size, events)
        self._data_left -= size
        if not self._data_left:
            self._end_data(events)
        return events

    def go_on(self) -> list[Event]:
        """Take what is left of the received bytes, as far as the turn allows.

        Raises as :meth:`receive` does.
        """
        events: list[Event] = []
        self.last_received = self._clock()
        if len(self._control) > _MAX_CONTROL_FRAMES:
            raise RemoteProtocolError("yamux: the peer provokes replies and does not read them")
        try:
            self._position = self._receive_frames(self._unread, self._position, events)
        except RemoteProtocolError:
            # What happened before it must not be forgotten: somebody may be waiting.
            self._unreported = [event.stream for event in events if event.stream is not None]
            self._unread = b""
            raise
        if self._position >= len(self._unread):
            self._unread, self._position = b"", 0
        return events

    def _receive_frames(self, message: bytes, position: int, events: list[Event]) -> int:
        """Act on frames from `position` on; return where the turn was over."""
        end = len(message)
        while position < end:
            if self.turn <= 0:
                break
            if self._data_left:
                position = self._take_data(message, position, end, events)
                continue
            if self._header or end - position < HEADER_SIZE:
                take = HEADER_SIZE - len(self._header)
                self._header += message[position : position + take]
                position += take
                if len(self._header) < HEADER_SIZE:
                    break
                header = unpack_header(self._header)
                self._header = b""
            else:
                header = unpack_header(message, position)
                position += HEADER_SIZE
            self.turn -= 1
            version, kind, flags, stream_id, length = header
            if version != PROTOCOL_VERSION:
                raise RemoteProtocolError(f"yamux: version {version} instead of 0")
            if kind == _DATA:
                self._begin_data(flags, stream_id, length, events)
            elif kind == _WINDOW_UPDATE:
                self._on_window_update(flags, stream_id, length, events)
            elif kind == _PING:
                self._on_ping(flags, length, events)
            elif kind == _GO_AWAY:
                self._on_go_away(length, events)
            else:
                raise RemoteProtocolError(f"yamux: unknown frame type {kind}")
        return position

    def _begin_data(self, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        stream = self._find(flags, stream_id, events)
        if stream is None:
            if not length and not flags & _SYN:
                self.nuisance.count("news of a stream that is no more")
        else:
            if length > stream.receive_credit:
                raise RemoteProtocolError(
                    f"yamux: stream {stream_id} overruns its window "
                    f"({length} bytes, {stream.receive_credit} allowed)"
                )
            if length and stream.received_fin:
                raise RemoteProtocolError(f"yamux: data after FIN on stream {stream_id}")
            stream.receive_credit -= length
            if not length and not flags:
                self.nuisance.refuse("data without data")
            elif not length and (stream.received_fin or not flags & _MEANT):
                self.nuisance.count("data without data")
            if flags & _RST:
                self._on_rst(stream, 0, events)
                stream = None
        self._data_left = length
        self._data_stream = stream
        self._data_fin = bool(flags & _FIN)
        if not length:
            self._end_data(events)

    def _take_data(self, message: bytes, position: int, end: int, events: list[Event]) -> int:
        size = min(end - position, self._data_left)
        if self._data_stream is not None:
            self._deliver(self._data_stream, message, position, position + size, events)
        self._data_left -= size
        if not self._data_left:
            self._end_data(events)
        return position + size

    def _end_data(self, events: list[Event]) -> None:
        if self._data_fin and self._data_stream is not None:
            self._on_fin(self._data_stream, events)
        self._data_stream = None
        self._data_fin = False

    def _on_window_update(
        self, flags: int, stream_id: int, delta: int, events: list[Event]
    ) -> None:
        stream = self._find(flags, stream_id, events)
        if stream is None:
            if not flags & _SYN:
                self.nuisance.count("news of a stream that is no more")
            return
        if flags & _RST:
            self._on_rst(stream, delta, events)
            return
        if delta < SMALL_CREDIT and (stream.received_fin or not flags & _MEANT):
            self.nuisance.count("credit in small change")
        if delta:
            stream.send_credit += delta
            if stream.send_credit > _LAST_STREAM_ID:
                raise RemoteProtocolError(f"yamux: stream {stream_id} has an impossible window")
            if stream.send_queue:
                self.schedule(stream)
        if flags & _FIN:
            self._on_fin(stream, events)

    def _on_rst(self, stream: MuxStream, code: int, events: list[Event]) -> None:
        if stream.received_fin:  # all that the peer had to say is here
            self._on_stop(stream, code, events)
        else:
            self._on_reset(stream, code, events)

    def _find(self, flags: int, stream_id: int, events: list[Event]) -> MuxStream | None:
        """The stream a frame is for; None when it is gone or was refused."""
        if flags & _SYN:
            if not stream_id or stream_id % 2 != self._peer_parity or stream_id in self.streams:
                raise RemoteProtocolError(f"yamux: the peer cannot open stream {stream_id}")
            self._highest_peer_id = max(self._highest_peer_id, stream_id)
            self.turn -= OPENING
            if not self.has_place:
                self.nuisance.count("a stream beyond the limit")
                self._control.append(
                    pack_header(0, _WINDOW_UPDATE, _RST, stream_id, RESOURCE_LIMIT)
                )
                return None
            stream = self._add_stream(stream_id, initiated=False)
            events.append(Event(EventKind.ACCEPTED, stream))
            return stream
        found = self.streams.get(stream_id)
        if found is None:
            ours = stream_id % 2 != self._peer_parity
            unused = stream_id >= self._next_id if ours else stream_id > self._highest_peer_id
            if unused or not stream_id:
                raise RemoteProtocolError(f"yamux: nobody opened stream {stream_id}")
        return found

    def _on_go_away(self, code: int, events: list[Event]) -> None:
        if self.said_goodbye:
            self.nuisance.refuse("another goodbye")
            return
        self.said_goodbye = self.went_away = True
        self.goodbye_code = code
        events.append(Event(EventKind.GO_AWAY, value=code))

    def _on_ping(self, flags: int, value: int, events: list[Event]) -> None:
        if flags & _SYN:
            self._control.append(pack_header(0, _PING, _ACK, 0, value))
        elif flags & _ACK and value == self._ping_value:
            self._on_pong(events)

    # --- sending ---

    @property
    def wants_write(self) -> bool:
        """There is something for :meth:`fill`."""
        return bool(self._control or self.window_updates_due or self._senders)

    def fill(self, out: memoryview, unit: int = 0) -> int:
        """Write the most urgent frames into `out` and return how many bytes they take.

        Only whole frames are written. 0 means there is nothing to send. With `unit`, a stream whose
        turn it is and that has two of these or more in one piece is left to :meth:`fill_long`.
        """
        position, room = 0, len(out)
        control = self._control
        while control and room - position >= HEADER_SIZE:
            out[position : position + HEADER_SIZE] = control.popleft()
            position += HEADER_SIZE
        while self.window_updates_due and room - position >= HEADER_SIZE:
            _, stream = self.window_updates_due.popitem()
            pack_header_into(
                out, position, 0, _WINDOW_UPDATE, self._open_flags(stream), stream.id,
                self._reopen_window(stream),
            )  # fmt: skip
            position += HEADER_SIZE
        senders = self._senders
        while room - position > HEADER_SIZE and senders:
            stream, allowance = senders.first()
            sent = None
            if stream.sendable:
                if allowance <= SPARSE_BYTES:
                    allowance = stream.whole_pieces(allowance)
                    if not allowance and stream.send_queue:
                        senders.end_sparse()
                        continue
                elif unit and self._may_be_long(stream, unit):
                    break
                left = room - position - HEADER_SIZE
                most = min(stream.send_pending, stream.send_credit)
                if position and left < min(most, _SMALLEST_SPLIT):
                    break
                sent = self._fill_frame(stream, out, position, min(left, allowance))
                position += HEADER_SIZE + sent
            senders.finish_turn(sent)
            if stream.send_queue or stream.fin_queued:
                self.schedule(stream)
        return position

    def frame_alone(self, stream: MuxStream, data: memoryview) -> bytes | None:
        """The frame with which a stream sends `data` at once, as nothing else waits to be sent.

        None, and nothing has happened, if something does, or if it takes more than one plain frame.
        """
        size = len(data)
        if (
            not size
            or self.wants_write
            or size > stream.send_credit
            or stream.syn_due
            or stream.ack_due
            or stream.stopped
        ):
            return None
        stream.bytes_queued += size
        stream.bytes_framed += size
        stream.send_credit -= size
        return pack_header(0, _DATA, 0, stream.id, size) + data

    def _may_be_long(self, stream: MuxStream, unit: int) -> bool:
        queue = stream.send_queue
        if not queue or min(len(queue[0]), stream.send_credit) < 2 * unit:
            return False
        return self._senders.long_turn is not None

    def fill_long(self, out: memoryview, unit: int, units: int) -> tuple[int, memoryview] | None:
        """Write the head of a long frame into `out`; return its size, and what to send after it.

        What follows is 2 to `units` times `unit` bytes, and lies where the application has it: it
        must be sent before anything else is asked of the session. The head is the frame's header
        with what is too much for whole units. None, and nothing written, when a control frame or a
        sparse stream waits, there is not that much in one piece, or others wait and `units` is too
        little for a turn.
        """
        if self._control or self.window_updates_due or len(out) < HEADER_SIZE:
            return None
        turn = self._senders.long_turn
        if turn is None or not turn[0].send_queue or not turn[0].sendable:
            return None
        stream, is_alone = turn
        if not is_alone:
            if units < _LONG_TURN:
                return None
            units = _LONG_TURN
        chunk = stream.send_queue[0]
        left = min(len(chunk), stream.send_credit, MAX_BODY)
        units = min(units, left // unit)
        if units < 2:
            return None
        over = left - units * unit
        if over >= unit or over > len(out) - HEADER_SIZE:
            over = 0
        size = over + units * unit
        out[HEADER_SIZE : HEADER_SIZE + over] = chunk[:over]
        if size == len(chunk):
            stream.send_queue.popleft()
        else:
            stream.send_queue[0] = chunk[size:]
        self._finish_frame(stream, out, 0, size)
        self._senders.finish_turn(size)
        if not is_alone:
            stream.ahead += size - unit
        self.schedule(stream)
        return HEADER_SIZE + over, chunk[over:size]

    def _open_flags(self, stream: MuxStream) -> int:
        flags = 0
        if stream.syn_due:
            stream.syn_due = False
            flags = _SYN
        if stream.ack_due:
            stream.ack_due = False
            flags |= _ACK
        return flags

    def _fill_frame(self, stream: MuxStream, out: memoryview, start: int, room: int) -> int:
        """Write one frame of the stream; return its payload's size."""
        queue = stream.send_queue
        size_limit = min(room, stream.send_credit)
        begin = position = start + HEADER_SIZE
        end = begin + size_limit
        while queue and position < end:
            chunk = queue[0]
            size = len(chunk)
            if position + size <= end:
                out[position : position + size] = chunk
                queue.popleft()
            else:
                size = end - position
                out[position:end] = chunk[:size]
                queue[0] = chunk[size:]
            position += size
        size = position - begin
        self._finish_frame(stream, out, start, size)
        return size

    def _finish_frame(self, stream: MuxStream, out: memoryview, start: int, size: int) -> None:
        """Write the header of a frame with `size` bytes, which the stream has sent with it."""
        stream.send_credit -= size
        stream.bytes_framed += size
        flags = self._open_flags(stream)
        if stream.fin_queued and not stream.send_queue and not stream.fin_sent and not size:
            # In a frame of its own: js-libp2p acts on a frame's flags before its data.
            flags |= _FIN
            stream.fin_sent = True
            if stream.received_fin:
                self._remove_stream(stream)
            elif stream.stops_peer:
                self.reset(stream, "closed by this side while the peer was sending")
        kind = _DATA if size or not flags & _SYN else _WINDOW_UPDATE
        pack_header_into(out, start, 0, kind, flags, stream.id, size)
        if stream.wake_below is not None and stream.send_pending <= stream.wake_below:
            self._note_drained(stream)

    def go_away(self, code: GoAwayCode) -> None:
        """Queue a GoAway, the last thing a connection says."""
        self._control.append(pack_header(0, _GO_AWAY, 0, 0, code))

    def close(self, reason: str) -> list[MuxStream]:
        self._data_stream = None  # it holds this session
        return super().close(reason)
