"""One QUIC connection as a multiplexed session, without I/O.

Datagrams and clock in; datagrams, events and timers out. Here is what comes in, and what joins
:mod:`lattica.nat.mux.session` (streams, windows, budgets, whose turn it is) with qh3 (packets,
recovery, encryption), by way of

- :mod:`~lattica.nat.quic.session.introduction`: who the peer is, and what strangers may do;
- :mod:`~lattica.nat.quic.session.streams`: which streams QUIC has, beside those that are served;
- :mod:`~lattica.nat.quic.session.outgoing`: what goes to qh3, when, and in which order;
- :mod:`~lattica.nat.quic.session.cost` and :mod:`~lattica.nat.quic.session.reassembly`: what a
  peer makes qh3 do and hold;
- :mod:`~lattica.nat.quic.session.stall`: a way round a fault of qh3.

Our streams are QUIC's bidirectional ones.

- **Stream 0** is the client's first: Noise, then control frames, in both directions. No other
  stream is served before the peer is authenticated.
- **Credit.** qh3 renews QUIC's flow control as soon as it hands data over, so a reader that does
  not read would be sent everything. Each stream therefore begins with
  :data:`~lattica.nat.mux.session.INITIAL_WINDOW` and goes on with what CREDIT frames grant. QUIC's
  own limits stay as backstop: they bound what qh3 holds for reordering on the one side and until it
  is acknowledged on the other (:data:`~lattica.nat.quic.qh3.core.MAX_CONNECTION_DATA`).
- **Scheduling.** Data is handed to qh3 only as far as it leaves soon, so that what is urgent
  does not queue behind bulk data there.
- **Resets** abort both directions, as yamux has it: RESET_STREAM and STOP_SENDING. The latter alone
  leaves the other direction as it is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import NOBODY, Source
from lattica.nat.config import Limits, Timeouts, Windows
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import Event, EventKind
from lattica.nat.mux.session import RESOURCE_LIMIT, MuxSession
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.turns import OPENING, SMALL_CREDIT, Nuisance
from lattica.nat.quic.fec.policy import PathState
from lattica.nat.quic.qh3.core import MIN_DATAGRAM, QuicCore
from lattica.nat.quic.qh3.native import NativeDrive, NativeEvent, Runs
from lattica.nat.quic.session.cost import Cost
from lattica.nat.quic.session.credit import ControlReader
from lattica.nat.quic.session.introduction import Introduction, MakeNoise
from lattica.nat.quic.session.outgoing import MESSAGE_QUEUE, Outgoing
from lattica.nat.quic.session.reassembly import Reassembly
from lattica.nat.quic.session.room import SendRoom
from lattica.nat.quic.session.stall import StallWatch
from lattica.nat.quic.session.streams import QuicStreams
from lattica.nat.secure.noise_identity import RemoteIdentity

_LAST_STREAM_ID = 2**62 - 1
_MAX_CREDIT = 2**62
PATH_DEAD = 0x2001
"""Code of CONNECTION_CLOSE, above those of libp2p: no good-bye, the peer was not heard for long."""
_MAX_REASON = 99
_SHORTEST_PING_WAIT = 1.0
_PACING_INTERVAL = 0.001
"""Seconds between bursts of paced datagrams; at most a quarter of the round trip."""
_DOUBTFUL_PTOS = 2
"""Probes in a row without an acknowledgement, after which packets count as lost."""
_SECOND_PACKET_FIRST = "packet contains no CRYPTO frame"
"""What qh3 says of a client's first packet that is only a sign of life."""
Address = Any


class QuicSession(MuxSession):
    """One connection over QUIC; the driver owns the socket.

    It feeds datagrams to :meth:`receive`, calls :meth:`on_timer` when :meth:`next_timer` is due,
    sends what :meth:`transmit` returns whenever :attr:`wants_write`, and calls :meth:`tick` about
    once a second. When one of them raises :class:`RemoteProtocolError`, it calls :meth:`shut` and
    sends what that leaves.

    `initiator` is the QUIC client, whose core has been, or will be, connected. `clock` is also the
    core's clock.
    """

    def __init__(
        self,
        core: QuicCore,
        noise: MakeNoise,
        *,
        initiator: bool,
        clock: Callable[[], float],
        windows: Windows | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        budget: MemoryBudget | None = None,
        source: Source = NOBODY,
        nuisance: Nuisance | None = None,
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
            source=source,
            nuisance=nuisance,
        )
        self._drive = drive = NativeDrive(core)
        self._cost = Cost(drive, self.nuisance)
        self._introduction = Introduction(drive, noise, initiator=initiator)
        self._quic_streams = QuicStreams(drive, initiator=initiator)
        self._reassembly = Reassembly(drive, self._quic_streams, self.nuisance, self.budget)
        self._room = SendRoom(drive, initiator=initiator)
        self._outgoing = Outgoing(
            drive,
            self._room,
            self._quic_streams,
            self._senders,
            credit_due=self.window_updates_due,
            reopen_window=self._reopen_window,
            on_progress=self._on_progress,
        )
        self._stall = StallWatch()
        self._control = ControlReader()
        self.is_client = initiator
        """Whether this side is the one that dialed."""
        self._local_bit = 0 if initiator else 1
        self.remote: RemoteIdentity | None = None
        """Who the peer is, once it has proved that."""
        self.closed: tuple[int, str] | None = None
        """Code and reason of the connection's end, or of its beginning end; None: it lives."""
        self.heard = False
        """Something authentic was in what was received last."""
        self.messages: deque[bytes] = deque(maxlen=MESSAGE_QUEUE)
        """Received by DATAGRAM frames; the oldest are dropped when nobody takes them."""
        self.wants_messages = False
        """Somebody takes those; until then none is kept."""
        self.peer_reset_token: bytes | None = None
        """What the peer's stateless resets end in, once both it and that are known."""
        self._mute = False
        self._dirty = True
        """qh3 may have something to send."""
        self._paced_at = 0.0
        self._ping_uid = 0
        self._lost_before = 0

    def connect(self, address: Address) -> None:
        """Begin the handshake with a server; :meth:`transmit` has the first packet."""
        self._drive.core.connect(address, self._clock())
        self._dirty = True

    def expect(self, peer: PeerId | None) -> None:
        """Whom the other end has to prove to be; None: anybody. Before TLS is done."""
        self._introduction.expected_peer = peer

    # --- the connection ---

    @property
    def connection_ids(self) -> tuple[bytes, ...]:
        """The IDs by which the peer addresses this connection."""
        return self._drive.connection_ids

    def take_connection_ids(self) -> tuple[list[bytes], list[bytes]]:
        """IDs that have come and that have gone since the last call."""
        return self._drive.take_connection_ids()

    def path_state(self) -> PathState:
        """How the connection fares on its path."""
        native = self._drive.native
        window = native.congestion_window / MIN_DATAGRAM
        return PathState(native.loss_total, native.latest_rtt, window)

    @property
    def datagram_size(self) -> int:
        """Bytes of the largest datagrams that qh3 makes now."""
        size: int = self._drive.native.active_path[5]
        return size

    @property
    def loses_packets(self) -> bool:
        """Packets were lost since this was last asked, or seem to be, and some are in flight."""
        native = self._drive.native
        lost, before = native.loss_total, self._lost_before
        self._lost_before = lost
        return (lost > before or native.pto_count >= _DOUBTFUL_PTOS) and native.bytes_in_flight > 0

    def export(self, label: bytes) -> bytes:
        """32 secret bytes that only this connection's two ends can make, for another use."""
        return self._introduction.export(label)

    def shut(self, code: int, reason: str) -> None:
        """Close the connection; :meth:`transmit` has the packets that say so. Idempotent."""
        if self._drive.started and self.closed is None:
            text = reason.encode()[:_MAX_REASON].decode(errors="ignore")
            self._drive.core.close(code, None, text)
            self._dirty = True
        if self.closed is None:
            self.closed = (code, reason)
        self.went_away = True
        # Of one whose peer never proved who it is, nobody calls close().
        self.budget.sessions.discard(self)
        self._reassembly.let_go()

    def note_reset(self) -> None:
        """The peer knows nothing of the connection: it is over, and nothing more is sent."""
        self._mute = True
        self.closed = self.closed or (0, "")

    # --- receiving ---

    def receive(self, data: bytes, segment_size: int, source: Address) -> list[Event]:
        """Take datagrams from one address, of `segment_size` bytes each (the last may be shorter).

        Returns what they caused.

        Raises:
            RemoteProtocolError: the peer breaks QUIC or our protocol, or is not the one it has to
                be.
        """
        events: list[Event] = []
        try:
            if self.remote is None:
                data = self._authenticate(data, segment_size, source, events)
            if data:
                sample = self._receive(data, segment_size, source)
                self._take(events)
                self._reassembly.note_received(len(data), 1 + len(data) // segment_size)
                if sample:
                    self._reassembly.look(sample, self.source)
        except RemoteProtocolError:
            self._keep_unreported(events)
            raise
        return events

    def _receive(self, data: bytes, segment_size: int, source: Address) -> bytes:
        """Have qh3 take datagrams; return one of them that is to be looked at, mostly none."""
        now, began = self._clock(), time.thread_time()
        start = self._reassembly.choose(len(data), segment_size)
        parts = [data]
        if start is not None:  # by itself, as others than the peer may have sent the rest
            end = start + segment_size
            parts = [data[:start], data[start:end], data[end:]]
        taken = [
            bool(part) and self._drive.receive(part, segment_size, source, now) for part in parts
        ]
        self._note_received(any(taken))
        packets = 1 + len(data) // segment_size
        self.turn -= self._cost.of_packets(time.thread_time() - began, packets)
        return parts[1] if start is not None and taken[1] else b""

    def _note_received(self, authentic: bool) -> None:
        self._dirty = True
        self.heard = authentic
        if authentic:  # anybody may send us something else
            self.last_received = self._clock()
            self._stall.note_received()

    def _keep_unreported(self, events: list[Event]) -> None:
        # What happened before the error must not be forgotten: somebody may be waiting.
        self._unreported = [event.stream for event in events if event.stream is not None]

    def _authenticate(
        self, data: bytes, segment_size: int, source: Address, events: list[Event]
    ) -> bytes:
        """Take datagrams until the peer is known; return those that are left."""
        for offset in range(0, len(data), segment_size):
            datagram = data[offset : offset + segment_size]
            size = len(datagram)
            self._introduction.count(size)
            self._receive(datagram, size, source)
            if self._drive.started:
                self._take(events)
            if self.remote is not None:
                return data[offset + size :]
        return b""

    def _take(self, events: list[Event]) -> None:
        """Act on what qh3 has to say."""
        core = self._drive.core
        if self.remote is None:
            self._introduction.begin()
        self._handle(self._drive.take_events(), events)
        if core.end is not None and self.closed is None:
            self.closed = (core.end.error_code, core.end.reason_phrase)
            self.went_away = core.end.error_code != PATH_DEAD
            if self._drive.faulty:
                # To a client whose first packet is lost, and whose second is not, the answer
                # is silence: it will send both again.
                self._mute = core.end.reason_phrase == _SECOND_PACKET_FIRST
                raise RemoteProtocolError(f"QUIC: {core.end.reason_phrase}")

    def _handle(self, native_events: Sequence[NativeEvent], events: list[Event]) -> None:
        self.turn -= len(native_events)
        for event in native_events:
            kind = event[0]
            if kind == "stream_data":
                stream_id = event[1]
                if stream_id and self.remote is None:
                    self._introduction.keep(event)
                    continue
                self._reassembly.note_data(stream_id, len(event[2]))
                if not stream_id:
                    self._on_stream_zero(event[2], event[3], events)
                else:
                    self._on_data(stream_id, event[2], event[3], events)
            elif kind == "stream_finished":
                self._quic_streams.end(event[1])
                self._reassembly.note_end(event[1])
            elif kind == "stream_reset" or kind == "stop_sending":
                if self.remote is None and event[1]:
                    self._introduction.keep(event)
                    continue
                if kind == "stream_reset":
                    self._reassembly.note_reset(event[1])
                self._on_abort(event[1], event[2], kind == "stop_sending", events)
            elif kind == "ping_acknowledged":
                self._on_ping_acknowledged(event[1], events)
            elif kind == "datagram":
                self._reassembly.note_message(len(event[1]))
                if self.remote is not None and self.wants_messages:
                    self.messages.append(event[1])
            elif kind == "streams_available":
                for stream in self._quic_streams.take_openable():
                    self.schedule(stream)

    def _on_stream_zero(self, data: bytes, fin: bool, events: list[Event]) -> None:
        if self.remote is None:
            data = self._introduction.receive(data)
            self.remote = self._introduction.remote
            if self.remote is not None:
                self.source = Source(self.remote.peer_id, self.source.network)
                self.ping()  # windows grow by the round-trip time, so know it early
                self._handle(self._introduction.take_kept(), events)
        credits = self._control.feed(data)
        self.turn -= len(credits)
        for stream_id, delta in credits:
            self._on_credit(stream_id, delta)
        if self.remote is not None and self.peer_reset_token is None:
            # A client tells it here, a server by TLS.
            told = self._drive.core.peer_reset_token if self.is_client else None
            self.peer_reset_token = told or self._control.reset_token
        if fin:
            raise RemoteProtocolError("QUIC: the peer ended stream 0")

    def _on_data(self, stream_id: int, data: bytes, fin: bool, events: list[Event]) -> None:
        stream = self.streams.get(stream_id) or self._find(stream_id, events)
        if stream is None:
            if fin:
                self._quic_streams.note_peer_ended(stream_id)
            return
        if fin and not data:
            raise RemoteProtocolError(f"QUIC: stream {stream_id} ends without its last byte")
        size = len(data) - fin
        if size:
            if size > stream.receive_credit:
                raise RemoteProtocolError(
                    f"QUIC: stream {stream_id} overruns its window "
                    f"({size} bytes, {stream.receive_credit} allowed)"
                )
            stream.receive_credit -= size
            self._deliver(stream, data, 0, size, events)
        if fin:
            self._on_fin(stream, events)

    def _find(self, stream_id: int, events: list[Event]) -> MuxStream | None:
        """The stream of a frame that is for none we serve; None if it is gone or refused."""
        if stream_id & 2:
            raise RemoteProtocolError("QUIC: unidirectional streams are not used")
        if stream_id & 1 == self._local_bit:
            if stream_id >= self._next_id:
                raise RemoteProtocolError(f"QUIC: nobody opened stream {stream_id}")
        elif self._quic_streams.begin(stream_id):
            self.turn -= OPENING
            if self.went_away or not self.has_place:
                self._quic_streams.abort(stream_id, stop=True, code=RESOURCE_LIMIT)
                return None
            stream = self._add_stream(stream_id, initiated=False)
            events.append(Event(EventKind.ACCEPTED, stream))
            return stream
        self._quic_streams.meet_ended(stream_id)
        return None

    def _on_abort(self, stream_id: int, code: int, stops: bool, events: list[Event]) -> None:
        """The peer has reset its direction of a stream, or does not want ours."""
        if not stream_id:
            raise RemoteProtocolError("QUIC: the peer aborted stream 0")
        stream = self.streams.get(stream_id)
        if stream is None:
            self.nuisance.count("the end of a stream that is no more")
            if stream_id in self._quic_streams:
                if not stops:
                    self._quic_streams.note_peer_ended(stream_id)
                return
            events_unseen: list[Event] = []
            stream = self._find(stream_id, events_unseen)
            if stream is None:
                return
        else:
            events_unseen = events
        if stops and events_unseen is events:
            self._on_stop(stream, code, events)
            self._quic_streams.abort(stream_id, stop=False, code=code)
        elif stream.received_fin:
            self._quic_streams.note_peer_ended(stream_id)  # it was told to stop
        else:
            self._on_reset(stream, code, events_unseen)
            self._quic_streams.abort(stream_id, stop=stops, code=code)

    def _on_credit(self, stream_id: int, delta: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None or delta < SMALL_CREDIT:
            self.nuisance.count("credit that is of no use")
        if stream is None:
            ours = stream_id & 1 == self._local_bit
            spoken = self._quic_streams.spoken
            opened = stream_id < self._next_id if ours else stream_id >> 2 in spoken
            if not stream_id or stream_id & 2 or not opened:
                raise RemoteProtocolError(f"QUIC: credit for stream {stream_id}, nobody opened it")
            return
        stream.send_credit += delta
        if stream.send_credit > _MAX_CREDIT:
            raise RemoteProtocolError(f"QUIC: stream {stream_id} has an impossible window")
        if stream.send_queue:
            self.schedule(stream)

    def _on_ping_acknowledged(self, uid: int, events: list[Event]) -> None:
        self._room.lift_early_limit()
        if uid != self._ping_uid:
            return
        self._on_pong(events)
        # The answer to a ping may have been delayed by the peer; what qh3 measures has that
        # taken out.
        for measured in (self._drive.native.latest_rtt, self._drive.native.smoothed_rtt):
            if self.rtt is not None and measured:
                self.rtt = min(self.rtt, measured)

    # --- sending ---

    @property
    def wants_write(self) -> bool:
        """There is something for :meth:`transmit`."""
        if self._dirty:
            return True
        return self.remote is not None and self.closed is None and self._outgoing.is_due

    def transmit(self) -> Runs:
        """Return the datagrams to send now, as (datagrams, address), in order.

        What cannot be sent is lost, like any datagram. Call it again while
        :attr:`wants_write`; then there is nothing until something is received, written or
        :meth:`next_timer` is due.

        Raises:
            ConnectionClosedError: QUIC cannot go on; once more, it returns what tells the peer.
        """
        runs: Runs = []
        self._transmit(runs)
        self.turn -= self._cost.of_answers(runs)
        return runs

    def _transmit(self, runs: Runs) -> None:
        self._dirty = False
        drive = self._drive
        if not drive.started or self._mute:
            return
        self._paced_at = now = self._clock()
        if self.remote is not None and self.closed is None and self._outgoing.transmit(now, runs):
            self._dirty = True
            return
        while drive.transmit_one(now, runs):
            pass
        self._room.measure()
        self._stall.note_transmitted(now, something=bool(runs), full=self._room.full)

    @property
    def flushed(self) -> bool:
        """All that was written has arrived at the peer."""
        if self.closed is not None:
            return True
        if self.remote is None or self.wants_write or self._senders or self._room.backlog:
            return False
        native = self._drive.native
        timer = native.get_timer()
        return not native.bytes_in_flight and (timer is None or timer[0] != "pacing")

    def send_message(self, data: bytes) -> None:
        """Send a message that may be lost, or dropped here when the connection is slow.

        Raises :class:`LocalProtocolError` for more than
        :data:`~lattica.nat.quic.session.outgoing.MAX_MESSAGE` bytes.
        """
        self._outgoing.add_message(data)

    def _on_progress(self, stream: MuxStream) -> None:
        if stream.fin_sent and stream.received_fin:
            self._remove_stream(stream)
        if stream.wake_below is not None and stream.send_pending <= stream.wake_below:
            self._note_drained(stream)

    def _send_reset(self, stream: MuxStream) -> None:
        self._quic_streams.abort(stream.id, stop=not stream.received_fin, code=stream.error_code)

    def _stop_peer(self, stream: MuxStream, reason: str) -> None:
        self._quic_streams.stop(stream.id)
        self._on_fin(stream, [])  # whatever else comes, nobody wants it

    def ping(self) -> None:
        if self.remote is not None and self.closed is None:
            super().ping()

    def _send_ping(self) -> None:
        self._ping_uid += 1
        self._drive.native.send_ping(self._ping_uid)
        self._dirty = True

    # --- time and end ---

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` is due, by the clock; None: never."""
        if not self._drive.started:
            return None
        timer = self._drive.native.get_timer()
        if timer is None:
            return None
        kind, deadline = timer
        stall = self._stall.next_timer()
        if stall is not None:
            return min(deadline, stall)
        if kind == "pacing":
            # qh3 would send each datagram at its own time; several at once cost far less.
            interval = min(_PACING_INTERVAL, (self._drive.native.smoothed_rtt or 0.0) / 4)
            return max(deadline, self._paced_at + interval)
        return deadline

    def on_timer(self) -> list[Event]:
        """Do what is due: retransmissions, acknowledgements, time-outs."""
        events: list[Event] = []
        if self._drive.started:
            self._dirty = True
            now = self._clock()
            try:
                self._drive.on_timer(now)
                self._stall.on_timer(now, self._drive)
                self._take(events)
            except RemoteProtocolError:
                self._keep_unreported(events)
                raise
        return events

    def tick(self, patience: Callable[[], float] | None = None) -> None:
        if self._ping_sent is not None:
            # A ping is not sent again when its packet is lost.
            lost_after = max(_SHORTEST_PING_WAIT, 4 * (self.rtt or 0.0))
            if self._clock() - self._ping_sent > lost_after:
                self._ping_sent = None
        super().tick(patience)

    def let_go(self) -> None:
        """Nothing is received or sent any more: let go of what would hold this session."""
        self._outgoing.let_go()
        self._drive.let_go()

    def close(self, reason: str) -> list[MuxStream]:
        self._quic_streams.clear()
        self._outgoing.clear()
        self._reassembly.let_go()
        return super().close(reason)
