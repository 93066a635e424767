"""yamux 1.0.0 as a pure state machine: bytes and clock in; bytes and events out.

Implements hashicorp/yamux spec.md, wire-compatible with go-yamux, rust-yamux and
js-libp2p. What differs between implementations is policy, and ours is:

- **Scheduling.** Frames are made only when the connection can take them
  (:meth:`Session.fill`), so what is urgent overtakes what was queued earlier: first
  control frames and window updates, then streams that send little, then all others in
  turn (:mod:`lattica.nat.yamux_senders`).
- **Windows** start at the 256 KiB of the spec and double while half a window is used
  within four round trips, up to `Windows.maximum` and the connection's memory budget.
- **Violations** (window overrun, unknown frames, streams nobody opened, control frames
  without end) raise :class:`RemoteProtocolError`; the driver then closes the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lattica.errors import (
    ConnectionClosedError,
    RemoteProtocolError,
    ResourceLimitError,
)
from lattica.nat.config import Limits, Timeouts, Windows
from lattica.nat.receive_budget import MemoryBudget
from lattica.nat.yamux_events import Event, EventKind
from lattica.nat.yamux_frames import (
    HEADER_SIZE,
    INITIAL_WINDOW,
    PROTOCOL_VERSION,
    Flag,
    FrameType,
    GoAwayCode,
    pack_header,
    pack_header_into,
    unpack_header,
)
from lattica.nat.yamux_senders import Senders
from lattica.nat.yamux_stream import YamuxStream

_SMALLEST_SPLIT = 512
"""Data is not split just to fill less room than this."""
_MAX_CONTROL_FRAMES = 4096
_LINGER = 60.0
"""Seconds a stream we closed may wait for the peer's FIN before it is reset."""
_EARLY_PINGS = 4
"""The first pongs are often late, as both sides are busy starting; so there are several."""
_SHORTEST_TURN = 0.0005
"""Seconds until a busy process runs again; on loopback that is more than the round trip."""
_LAST_STREAM_ID = 2**32 - 1
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = (int(kind) for kind in FrameType)
_SYN, _ACK, _FIN, _RST = (int(flag) for flag in Flag)


class Session:
    """One multiplexed connection.

    The driver feeds decrypted bytes to :meth:`receive`, calls :meth:`fill` whenever
    :attr:`wants_write` and the connection can take more, and :meth:`tick` about once
    a second. `clock` gives monotonic seconds.
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
    ) -> None:
        limits = limits or Limits()
        self._clock = clock
        self._windows = windows or Windows()
        self._timeouts = timeouts or Timeouts()
        self._budget = budget or MemoryBudget(limits.receive_memory_total)
        self._max_streams = limits.max_streams_per_connection
        self._promise_limit = limits.receive_memory_per_connection
        self._promised = 0
        self._budget.sessions.add(self)
        self.streams: dict[int, YamuxStream] = {}
        self._next_id = 1 if initiator else 2
        self._peer_parity = 0 if initiator else 1
        self._highest_peer_id = 0
        # Receiving.
        self._header = b""
        self._data_left = 0
        self._data_stream: YamuxStream | None = None
        self._data_fin = False
        # Sending.
        self._control: deque[bytes] = deque()
        self.window_updates_due: dict[int, YamuxStream] = {}
        self._senders = Senders(clock)
        self._drained: list[YamuxStream] = []
        self._lingering: dict[int, float] = {}
        self._unreported: list[YamuxStream] = []
        # Liveness.
        self.rtt: float | None = None
        """Shortest round-trip time seen, seconds; None before the first pong.

        The shortest, because what is above it is our own queues, and windows that grew
        with those would make them longer still.
        """
        self._ping_value = 0
        self._ping_sent: float | None = None
        self._pongs = 0
        self._last_received = clock()
        self._last_tick = self._last_received
        self.went_away = False
        """The peer sent GoAway: no new streams."""

    # --- streams ---

    def open(self) -> YamuxStream:
        """Open a stream. Its SYN leaves with its first frame.

        Raises :class:`ConnectionClosedError` after a GoAway or when the 2^31 ids of this
        side are used up, :class:`ResourceLimitError` when a budget is.
        """
        if self.went_away:
            raise ConnectionClosedError("the peer is going away and accepts no new streams")
        if self._next_id > _LAST_STREAM_ID:
            raise ConnectionClosedError("all stream ids of this connection are used; reconnect")
        if not self._may_add_stream():
            raise ResourceLimitError(
                f"the connection has {len(self.streams)} streams, its budget allows no more"
            )
        stream = self._add_stream(self._next_id, initiated=True)
        self._next_id += 2
        self.schedule(stream, was_idle=True)
        return stream

    def _may_add_stream(self) -> bool:
        return (
            len(self.streams) < self._max_streams
            and self._promised + INITIAL_WINDOW <= self._promise_limit
        )

    def _add_stream(self, stream_id: int, *, initiated: bool) -> YamuxStream:
        stream = YamuxStream(self, stream_id, initiated=initiated, now=self._clock())
        self.streams[stream_id] = stream
        self._promised += stream.receive_window
        return stream

    def _remove_stream(self, stream: YamuxStream) -> None:
        """The wire is done with the stream; what it holds may still be read."""
        if self.streams.pop(stream.id, None) is not None:
            self._promised -= stream.receive_window
            self.window_updates_due.pop(stream.id, None)
            self._lingering.pop(stream.id, None)
            if stream.receive_queue:
                self._budget.orphans.add(stream)

    def evict(self, stream: YamuxStream) -> None:
        """Abort a stream for the sake of the memory that it holds."""
        reason = "the memory budget for received data is used up"
        if self.streams.get(stream.id) is stream:
            self.reset(stream, reason)
        else:
            stream.reset_reason = stream.reset_reason or reason
            self.discard_received(stream)

    def reset(self, stream: YamuxStream, reason: str = "reset by this side") -> None:
        """Abort a stream at once and tell the peer; drops what is queued. Idempotent."""
        if self._abort(stream, reason) and not stream.syn_due:
            self._control.append(pack_header(0, _WINDOW_UPDATE, _RST, stream.id, 0))

    def _abort(self, stream: YamuxStream, reason: str) -> bool:
        if stream.reset_reason is not None or self.streams.get(stream.id) is not stream:
            return False
        stream.reset_reason = reason
        self._drop_unsent(stream)
        self.discard_received(stream)
        self._remove_stream(stream)
        return True

    def _drop_unsent(self, stream: YamuxStream) -> None:
        stream.send_queue.clear()
        stream.bytes_framed = stream.bytes_queued
        self._note_drained(stream)

    def discard_received(self, stream: YamuxStream) -> None:
        """Drop what the stream has received, and whatever it will receive."""
        stream.receive_discarded = True
        self._budget.used -= sum(map(len, stream.receive_queue))
        stream.receive_queue.clear()
        if not stream.received_fin and self.streams.get(stream.id) is stream:
            self._lingering[stream.id] = self._clock() + _LINGER
            self.window_updates_due.pop(stream.id, None)

    def consumed(self, stream: YamuxStream, size: int) -> None:
        """The application has read `size` bytes (called by the stream)."""
        self._budget.used -= size
        stream.unread_since = self._last_received
        stream.consumed += size
        if (
            stream.consumed * 2 >= stream.receive_window
            and not stream.received_fin
            and self.streams.get(stream.id) is stream
        ):
            self.window_updates_due[stream.id] = stream

    def forgotten(self, size: int) -> None:
        """A stream is no more, and `size` bytes of it were never read."""
        self._budget.used -= size

    # --- receiving ---

    def receive(self, message: bytes) -> list[Event]:
        """Take the next bytes of the connection and return what they caused.

        Raises :class:`RemoteProtocolError` when the peer breaks the protocol.
        """
        events: list[Event] = []
        self._last_received = self._clock()
        if len(self._control) > _MAX_CONTROL_FRAMES:
            raise RemoteProtocolError("yamux: the peer provokes replies and does not read them")
        try:
            self._receive_frames(message, events)
        except RemoteProtocolError:
            # What happened before it must not be forgotten: somebody may be waiting.
            self._unreported = [event.stream for event in events if event.stream is not None]
            raise
        return events

    def _receive_frames(self, message: bytes, events: list[Event]) -> None:
        position, end = 0, len(message)
        while position < end:
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
                self.went_away = True
                events.append(Event(EventKind.GO_AWAY, value=length))
            else:
                raise RemoteProtocolError(f"yamux: unknown frame type {kind}")

    def _begin_data(self, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        stream = self._find(flags, stream_id, events)
        if stream is not None:
            if length > stream.receive_credit:
                raise RemoteProtocolError(
                    f"yamux: stream {stream_id} overruns its window "
                    f"({length} bytes, {stream.receive_credit} allowed)"
                )
            if length and stream.received_fin:
                raise RemoteProtocolError(f"yamux: data after FIN on stream {stream_id}")
            stream.receive_credit -= length
            if flags & _RST:
                self._on_reset(stream, events)
                stream = None
        self._data_left = length
        self._data_stream = stream
        self._data_fin = bool(flags & _FIN)
        if not length:
            self._end_data(events)

    def _take_data(self, message: bytes, position: int, end: int, events: list[Event]) -> int:
        size = min(end - position, self._data_left)
        stream = self._data_stream
        if stream is not None and stream.reset_reason is None:
            if stream.receive_discarded:
                if stream.receive_credit <= 0:
                    # It is not a straggler: the peer goes on sending what nobody reads.
                    self.reset(stream, "closed by this side while the peer was sending")
            elif self._has_room(stream, size, events):
                if not stream.receive_queue:
                    stream.unread_since = self._last_received
                self._budget.used += size
                stream.append_received(message, position, position + size)
                if not events or events[-1].stream is not stream:
                    events.append(Event(EventKind.READABLE, stream))
        self._data_left -= size
        if not self._data_left:
            self._end_data(events)
        return position + size

    def _has_room(self, stream: YamuxStream, size: int, events: list[Event]) -> bool:
        """Whether the budget allows `size` bytes for the stream, if need be at others' cost."""
        budget = self._budget
        if budget.used + size <= budget.limit:
            return True
        aborted = budget.make_room(size, self._last_received)
        if stream.reset_reason is None and budget.used + size > budget.limit:
            self.evict(stream)
            aborted.append(stream)
        events += [Event(EventKind.RESET, gone) for gone in aborted]
        return stream.reset_reason is None

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
            return
        if flags & _RST:
            self._on_reset(stream, events)
            return
        if delta:
            stream.send_credit += delta
            if stream.send_credit > _LAST_STREAM_ID:
                raise RemoteProtocolError(f"yamux: stream {stream_id} has an impossible window")
            if stream.send_queue:
                self.schedule(stream)
        if flags & _FIN:
            self._on_fin(stream, events)

    def _find(self, flags: int, stream_id: int, events: list[Event]) -> YamuxStream | None:
        """The stream a frame is for; None when it is gone or was refused."""
        if flags & _SYN:
            if not stream_id or stream_id % 2 != self._peer_parity or stream_id in self.streams:
                raise RemoteProtocolError(f"yamux: the peer cannot open stream {stream_id}")
            self._highest_peer_id = max(self._highest_peer_id, stream_id)
            if not self._may_add_stream():
                self._control.append(pack_header(0, _WINDOW_UPDATE, _RST, stream_id, 0))
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

    def _on_fin(self, stream: YamuxStream, events: list[Event]) -> None:
        if stream.received_fin or stream.reset_reason is not None:
            return
        stream.received_fin = True
        self.window_updates_due.pop(stream.id, None)
        self._lingering.pop(stream.id, None)
        if stream.fin_sent:
            self._remove_stream(stream)
        events.append(Event(EventKind.READABLE, stream))

    def _on_reset(self, stream: YamuxStream, events: list[Event]) -> None:
        if self._abort(stream, "reset by the peer"):
            events.append(Event(EventKind.RESET, stream))

    def _on_ping(self, flags: int, value: int, events: list[Event]) -> None:
        if flags & _SYN:
            self._control.append(pack_header(0, _PING, _ACK, 0, value))
        elif flags & _ACK and self._ping_sent is not None and value == self._ping_value:
            sample = self._clock() - self._ping_sent
            self._ping_sent = None
            self._pongs += 1
            self.rtt = sample if self.rtt is None else min(self.rtt, sample)
            events.append(Event(EventKind.PONG))

    # --- sending ---

    def schedule(self, stream: YamuxStream, *, was_idle: bool = False) -> None:
        """The stream may have something to send (called by the stream, too)."""
        self._senders.add(stream, was_idle=was_idle)

    @property
    def wants_write(self) -> bool:
        """There is something for :meth:`fill`."""
        return bool(self._control or self.window_updates_due or self._senders)

    def fill(self, out: memoryview) -> int:
        """Write the most urgent frames into `out` and return how many bytes they take.

        Only whole frames are written. 0 means there is nothing to send.
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

    def _open_flags(self, stream: YamuxStream) -> int:
        flags = 0
        if stream.syn_due:
            stream.syn_due = False
            flags = _SYN
        if stream.ack_due:
            stream.ack_due = False
            flags |= _ACK
        return flags

    def _fill_frame(self, stream: YamuxStream, out: memoryview, start: int, room: int) -> int:
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
        stream.send_credit -= size
        stream.bytes_framed += size
        flags = self._open_flags(stream)
        if stream.fin_queued and not queue and not stream.fin_sent and not size:
            # In a frame of its own: js-libp2p acts on a frame's flags before its data.
            flags |= _FIN
            stream.fin_sent = True
            if stream.received_fin:
                self._remove_stream(stream)
        kind = _DATA if size or not flags & _SYN else _WINDOW_UPDATE
        pack_header_into(out, start, 0, kind, flags, stream.id, size)
        if stream.wake_below is not None and stream.send_pending <= stream.wake_below:
            self._note_drained(stream)
        return size

    def _note_drained(self, stream: YamuxStream) -> None:
        if stream.wake_below is not None:
            stream.wake_below = None
            self._drained.append(stream)

    def take_drained(self) -> list[YamuxStream]:
        """Streams whose queue has sunk to their `wake_below` since the last call."""
        drained = self._drained
        if drained:
            self._drained = []
        return drained

    def _reopen_window(self, stream: YamuxStream) -> int:
        """Return the credit to give, doubling the window where the link can use it."""
        now = self._clock()
        delta = stream.consumed
        window = stream.receive_window
        if (
            self.rtt is not None
            and now - stream.last_update < 4 * max(self.rtt, _SHORTEST_TURN)
            and window < self._windows.maximum
        ):
            # Half of the budget stays with new streams.
            left = self._promise_limit // 2 - self._promised
            growth = min(window, self._windows.maximum - window, left)
            if growth > 0:
                stream.receive_window += growth
                self._promised += growth
                delta += growth
        stream.last_update = now
        stream.consumed = 0
        stream.receive_credit += delta
        return delta

    # --- time and end ---

    def ping(self) -> None:
        """Send a ping unless one is on its way; the pong updates :attr:`rtt`."""
        if self._ping_sent is None:
            self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
            self._ping_sent = self._clock()
            self._control.append(pack_header(0, _PING, _SYN, 0, self._ping_value))

    def tick(self) -> None:
        """Do what is due; call it about once a second.

        Raises :class:`ConnectionClosedError` when the peer has been silent for
        `Timeouts.keep_alive_timeout`.
        """
        now = self._clock()
        # If this process was suspended, the peer's silence is not the peer's fault.
        suspended = max(0.0, now - self._last_tick - 2.0)
        self._last_received = min(now, self._last_received + suspended)
        self._last_tick = now
        silent = now - self._last_received
        if silent >= self._timeouts.keep_alive_timeout:
            raise ConnectionClosedError(f"the peer has not answered for {silent:.0f} s")
        if silent >= self._timeouts.keep_alive_interval or self._pongs < _EARLY_PINGS:
            self.ping()
        for stream_id in [key for key, due in self._lingering.items() if due <= now]:
            stream = self.streams[stream_id]
            if stream.fin_sent:
                self.reset(stream, "the peer did not close its side")
            else:  # the peer reads slowly, and cannot know yet that we are done
                self._lingering[stream_id] = now + _LINGER

    def go_away(self, code: GoAwayCode) -> None:
        """Queue a GoAway, the last thing a connection says."""
        self._control.append(pack_header(0, _GO_AWAY, 0, 0, code))

    def close(self, reason: str) -> list[YamuxStream]:
        """The connection is gone: end every stream; return all that somebody may wait for.

        Data that has arrived stays readable, before the reader learns of the end.
        """
        self.went_away = True
        streams = list(self.streams.values())
        for stream in streams:
            if stream.receive_discarded:
                self._abort(stream, reason)
                continue
            if not stream.received_fin:
                stream.reset_reason = reason
            self._remove_stream(stream)
            self._drop_unsent(stream)
        self._budget.sessions.discard(self)
        return streams + self._unreported + self.take_drained()
