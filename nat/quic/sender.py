"""The sending half of a QUIC session: what goes to qh3, when, and in which order.

Data is handed to qh3 packet by packet, so that what is urgent does not queue behind bulk data
there; first resets, credit and datagrams, then streams in the order of
:mod:`lattica.nat.mux.senders`. And only while two packets may leave: what qh3 has prepared and
may not send holds up its acknowledgements.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.config import KIB, Limits, Timeouts, Windows
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.session import MuxSession
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.quic.control import encode_credit
from lattica.nat.quic.qh3.core import QuicCore
from lattica.nat.quic.qh3.native import NativeDrive, Runs
from lattica.nat.secure.noise_identity import RemoteIdentity

MAX_DATAGRAM_PAYLOAD = 1100
"""Longest message of :meth:`QuicSender.send_datagram`, bytes; it fits into every packet."""
DATAGRAM_QUEUE = 256
"""Messages that wait to be sent, or to be taken; beyond it the oldest are dropped."""

_EARLY_DATA = 32 * KIB
"""What an initiator sends before it knows that its last Noise message has arrived: if that is
lost, what follows must not break the responder's limit for strangers."""
_PACKET_OVERHEAD = 64
"""Bytes that qh3 leaves free in a packet with data of a stream."""
_STALL = 0.03
"""Seconds after which an acknowledgement that is due has been held back."""
_PROBE_AHEAD = 3.0
"""Seconds by which a probe may come early."""
_BURST = 512 * KIB
"""Bytes of one :meth:`QuicSender.transmit`, roughly."""
_TURN = 32 * KIB
_PACING_INTERVAL = 0.001
"""Seconds between bursts of paced datagrams; at most a quarter of the round trip."""
_CONTROL_BACKLOG = 16 * KIB
_LAST_STREAM_ID = 2**62 - 1
_RESET_CODE = 0


class QuicSender(MuxSession):
    """What :class:`~lattica.nat.quic.session.QuicSession` sends."""

    def __init__(
        self,
        core: QuicCore,
        *,
        initiator: bool,
        clock: Callable[[], float],
        windows: Windows | None,
        limits: Limits | None,
        timeouts: Timeouts | None,
        budget: MemoryBudget | None,
    ) -> None:
        super().__init__(
            first_id=4 if initiator else 1,
            id_step=4,
            last_id=_LAST_STREAM_ID,
            clock=clock,
            windows=windows,
            limits=limits,
            timeouts=timeouts,
            budget=budget,
        )
        self._drive = NativeDrive(core)
        self.remote: RemoteIdentity | None = None
        """Who the peer is, once it has proved that."""
        self.closed: tuple[int, str] | None = None
        """Code and reason of the connection's end, or of its beginning end; None: it lives."""
        self._live: set[int] = set()
        """Streams that qh3 has. Of others it must not be asked: it would make them anew."""
        self._aborts: dict[int, bool] = {}
        """Streams to abort in qh3, and whether the peer has to be told to stop sending."""
        self._unopened: dict[int, MuxStream] = {}
        """Streams that wait for the peer to allow more streams."""
        self._stream_limit_hit = False
        self._backlogged: dict[int, int] = {}
        self._backlog = 0
        self._early_left: float = _EARLY_DATA if initiator else float("inf")
        self._outgoing_datagrams: deque[bytes] = deque(maxlen=DATAGRAM_QUEUE)
        self._packet = 0
        self._allowed = 0
        """What is left of the congestion window, bytes."""
        self._turn = 0
        """Bytes that the stream whose turn it is has sent in it."""
        self._unanswered = 0
        """Packets received since something was sent."""
        self._stalled_since: float | None = None
        self._mute = False
        self._dirty = True
        self._paced_at = 0.0
        self._ping_uid = 0

    # --- timers and signs of life ---

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` is due, by the clock; None: never."""
        if not self._drive.started:
            return None
        timer = self._drive.native.get_timer()
        if timer is None:
            return None
        kind, deadline = timer
        if self._stalled_since is not None:
            return min(deadline, self._stalled_since + _STALL)
        if kind == "pacing":
            # qh3 would send each datagram at its own time; several at once cost far less.
            return max(deadline, self._paced_at + self._pacing_interval)
        return deadline

    @property
    def _pacing_interval(self) -> float:
        return min(_PACING_INTERVAL, (self._drive.native.smoothed_rtt or 0.0) / 4)

    def ping(self) -> None:
        if self.remote is not None and self.closed is None:
            super().ping()

    def _send_ping(self) -> None:
        self._ping_uid += 1
        self._drive.native.send_ping(self._ping_uid)
        self._dirty = True

    # --- streams ---

    def _send_reset(self, stream: MuxStream) -> None:
        # Also of a stream that was never used: its number counts against the peer's limit
        # until it has ended. And later: qh3 may have ended the stream by an event that is yet
        # to be handled.
        self._aborts[stream.id] = not stream.received_fin

    def send_datagram(self, data: bytes) -> None:
        """Send a message that may be lost, or dropped here when the connection is slow.

        Raises :class:`LocalProtocolError` for more than :data:`MAX_DATAGRAM_PAYLOAD` bytes.
        """
        if len(data) > MAX_DATAGRAM_PAYLOAD:
            raise LocalProtocolError(f"a datagram has at most {MAX_DATAGRAM_PAYLOAD} bytes")
        self._outgoing_datagrams.append(data)

    @property
    def flushed(self) -> bool:
        """All that was written has arrived at the peer."""
        if self.closed is not None:
            return True
        if self.remote is None or self.wants_write or self._senders or self._backlog:
            return False
        native = self._drive.native
        timer = native.get_timer()
        return not native.bytes_in_flight and (timer is None or timer[0] != "pacing")

    @property
    def wants_write(self) -> bool:
        """There is something for :meth:`transmit`."""
        if self._dirty:
            return True
        if self.remote is None or self.closed is not None:
            return False
        self._look_at_window()
        return bool(
            (self._aborts and not self._stream_limit_hit)
            or (self._senders and self._room > 0)
            or (self.window_updates_due and self._backlogged.get(0, 0) < _CONTROL_BACKLOG)
            or (self._outgoing_datagrams and not self._congested)
        )

    @property
    def _room(self) -> float:
        """Bytes that qh3 may be handed now."""
        if self._allowed < 2 * self._packet:
            return 0
        return min(self._packet - _PACKET_OVERHEAD - self._backlog, self._early_left)

    def _look_at_window(self) -> None:
        native = self._drive.native
        in_flight = native.bytes_in_flight
        self._allowed = native.congestion_window - in_flight
        if self._early_left <= 0 and not in_flight:
            self._early_left = float("inf")  # all has arrived, and so has Noise's last message

    @property
    def _congested(self) -> bool:
        native = self._drive.native
        return native.bytes_in_flight >= native.congestion_window

    def transmit(self) -> Runs:
        """Return the datagrams to send now, as (datagrams, address), in order.

        What cannot be sent is lost, like any datagram. Call it again while
        :attr:`wants_write`; then there is nothing until something is received, written or
        :meth:`next_timer` is due.
        """
        runs: Runs = []
        self._dirty = False
        drive = self._drive
        if not drive.started or self._mute:
            return runs
        self._paced_at = now = self._clock()
        if self.remote is not None and self.closed is None:
            self._packet = drive.native.active_path[5]
            self._look_at_window()
            self._move_control()
            size = 0
            while size < _BURST:
                if self._senders:
                    self._move_streams()
                sent = drive.transmit_one(now, runs)
                if not sent:
                    break
                size += sent
                self._allowed -= sent
                self._measure_backlog()
            else:
                self._dirty = True
                return runs
        while drive.transmit_one(now, runs):
            pass
        self._measure_backlog()
        self._notice_stall(now, sent_something=bool(runs))
        return runs

    def _notice_stall(self, now: float, *, sent_something: bool) -> None:
        """Watch for packets of the peer that are not acknowledged."""
        if sent_something:
            self._unanswered = 0
            self._stalled_since = None
        elif self._unanswered < 2 or not self._congested:
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = now

    def _break_stall(self, now: float) -> None:
        """Have qh3 send a probe now, to get at the acknowledgement behind what it holds.

        Frames that qh3 has prepared for sending wait, once the congestion window is full, and
        acknowledgements that come later wait behind them (qh3 2.1.0). If that happens to both
        sides, neither hears what it waits for, and only probes go on, ever more slowly.
        """
        since = self._stalled_since
        if since is None or now < since + _STALL:
            return
        self._stalled_since = None
        native = self._drive.native
        timer = native.get_timer()
        if timer is not None and timer[0] == "loss_detection" and timer[1] < now + _PROBE_AHEAD:
            native.handle_timer(max(now, timer[1]))

    def _measure_backlog(self) -> None:
        measure = self._drive.native.get_send_buffer_size
        total = 0
        for stream_id in list(self._backlogged):
            if size := measure(stream_id):
                self._backlogged[stream_id] = size
                total += size
            else:
                del self._backlogged[stream_id]
        self._backlog = total

    def _move_control(self) -> None:
        """Hand resets, credit and datagrams to qh3."""
        native = self._drive.native
        if self._aborts:
            self._move_aborts()
        if self.window_updates_due and self._backlogged.get(0, 0) < _CONTROL_BACKLOG:
            credits = bytearray()
            while self.window_updates_due and len(credits) < _CONTROL_BACKLOG:
                stream_id, stream = self.window_updates_due.popitem()
                credits += encode_credit(stream_id, self._reopen_window(stream))
            native.send_stream(0, credits, False)
            self._backlogged[0] = len(credits)
        while self._outgoing_datagrams and not self._congested:
            native.send_datagram(self._outgoing_datagrams.popleft())

    def _move_aborts(self) -> None:
        native = self._drive.native
        waiting: dict[int, bool] = {}
        for stream_id, stop in self._aborts.items():
            if stream_id not in self._live:
                if stream_id >> 2 >= native.stream_limits[0]:
                    waiting[stream_id] = stop
                    continue
                self._live.add(stream_id)
            native.reset_stream(stream_id, _RESET_CODE)
            if stop:
                native.stop_sending(stream_id, _RESET_CODE)
            self._backlogged.pop(stream_id, None)
        self._aborts = waiting
        self._stream_limit_hit = bool(waiting)

    def _move_streams(self) -> None:
        """Hand data to qh3, in the order of :class:`Senders`, as far as there is room."""
        senders = self._senders
        while senders and (room := self._room) > 0:
            stream, allowance = senders.first()
            sent = None
            waits = False
            if stream.sendable and (stream.send_queue or stream.fin_queued):
                waits = stream.syn_due and not self._open(stream)
                if not waits:
                    sent = self._move(stream, int(min(room, allowance)))
                    self._turn += sent
                    if allowance > _TURN and self._turn < _TURN and stream.sendable:
                        continue
                    if allowance > _TURN:
                        sent, self._turn = self._turn, 0
            senders.finish_turn(sent)
            if not waits and (stream.send_queue or stream.fin_queued):
                self.schedule(stream)

    def _open(self, stream: MuxStream) -> bool:
        """The stream's first bytes are to be sent; False if the peer allows no more streams."""
        if stream.id >> 2 >= self._drive.native.stream_limits[0]:
            self._unopened[stream.id] = stream
            return False
        stream.syn_due = False
        self._live.add(stream.id)
        return True

    def _open_waiting(self) -> None:
        self._stream_limit_hit = False
        unopened, self._unopened = self._unopened, {}
        for stream in unopened.values():
            self.schedule(stream)

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
            last = stream.fin_queued and not queue
            send(stream_id, chunk, last)
            stream.fin_sent = last
        if stream.fin_queued and not queue and not stream.fin_sent:
            send(stream_id, b"", True)
            stream.fin_sent = True
        if stream.fin_sent and stream.received_fin:
            self._remove_stream(stream)
        stream.send_credit -= moved
        stream.bytes_framed += moved
        if moved:
            self._backlogged[stream_id] = self._backlogged.get(stream_id, 0) + moved
            self._backlog += moved
            self._early_left -= moved
        if stream.wake_below is not None and stream.send_pending <= stream.wake_below:
            self._note_drained(stream)
        return moved

    def close(self, reason: str) -> list[MuxStream]:
        self._unopened.clear()
        self._aborts.clear()
        self._outgoing_datagrams.clear()
        return super().close(reason)
