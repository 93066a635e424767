"""One QUIC connection as a multiplexed session, without I/O.

Datagrams and clock in; datagrams, events and timers out. Joins :mod:`lattica.nat.quic.qh3.core`
(packets, recovery, encryption: qh3), :mod:`lattica.nat.quic.noise` (who the peer is),
:mod:`lattica.nat.quic.control` (credit) and :mod:`lattica.nat.mux.session` (streams, windows,
budgets, whose turn it is). Our streams are QUIC's bidirectional ones.

- **Stream 0** is the client's first: Noise, then control frames, in both directions. No other
  stream is served before the peer is authenticated.
- **Credit.** qh3 renews QUIC's flow control as soon as it hands data over, so a reader that does
  not read would be sent everything. Each stream therefore begins with
  :data:`~lattica.nat.mux.session.INITIAL_WINDOW` and goes on with what CREDIT frames grant. QUIC's
  own limits stay as backstop: they bound what qh3 holds for reordering on the one side and until it
  is acknowledged on the other (:data:`~lattica.nat.quic.qh3.core.MAX_CONNECTION_DATA`).
- **Scheduling.** Data is handed to qh3 only as far as it leaves soon, so that what is urgent
  does not queue behind bulk data there.
- **Resets** abort both directions, as yamux has it: RESET_STREAM and STOP_SENDING.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.identity import PeerId
from lattica.nat.config import KIB, Limits, Timeouts, Windows
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import Event, EventKind
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.quic.control import ControlReader, SpokenStreams
from lattica.nat.quic.fec.policy import PathState
from lattica.nat.quic.noise import QuicNoise
from lattica.nat.quic.qh3.core import MIN_DATAGRAM, QuicCore, server_certificate_hash
from lattica.nat.quic.qh3.native import NativeEvent
from lattica.nat.quic.sender import DATAGRAM_QUEUE, QuicSender

PRE_AUTH_LIMIT = 64 * KIB
"""Bytes of datagrams taken from a peer before it has proved who it is."""
_EARLY_EVENTS = 512
_MAX_CREDIT = 2**62
_MAX_PHANTOMS = 1024
_MAX_REASON = 99
_SHORTEST_PING_WAIT = 1.0
_SECOND_PACKET_FIRST = "packet contains no CRYPTO frame"
"""What qh3 says of a client's first packet that is only a sign of life."""
Address = Any


class QuicSession(QuicSender):
    """One connection over QUIC; the driver owns the socket.

    It feeds datagrams to :meth:`receive`, calls :meth:`on_timer` when
    :meth:`next_timer` is due, sends what :meth:`transmit` returns whenever
    :attr:`wants_write`, and calls :meth:`tick` about once a second. When one of them raises
    :class:`RemoteProtocolError`, it calls :meth:`shut` and sends what that leaves.

    `noise` makes the exchange of identities for a certificate hash and the peer that is expected;
    `initiator` is the QUIC
    client, whose core has been, or will be, connected. `clock` is also the core's clock.
    """

    def __init__(
        self,
        core: QuicCore,
        noise: Callable[[bytes, PeerId | None], QuicNoise],
        *,
        initiator: bool,
        clock: Callable[[], float],
        windows: Windows | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__(
            core,
            initiator=initiator,
            clock=clock,
            windows=windows,
            limits=limits,
            timeouts=timeouts,
            budget=budget,
        )
        self._core = core
        self._make_noise = noise
        self._noise: QuicNoise | None = None
        self.expected_peer: PeerId | None = None
        """Who the other end has to be; read when it proves who it is."""
        self.heard = False
        """Something authentic was in what was received last."""
        self.datagrams: deque[bytes] = deque(maxlen=DATAGRAM_QUEUE)
        """Messages received by DATAGRAM frames; the oldest are dropped when nobody takes them."""
        self._initiator = initiator
        self._local_bit = 0 if initiator else 1
        # Stream 0 has spoken: it is nobody's to accept.
        self._spoken = SpokenStreams(0 if initiator else 1)
        self._unauthenticated_bytes = 0
        self._early: list[NativeEvent] = []
        self._control = ControlReader()
        self._phantoms = 0
        self._cids: dict[bytes, None] = {core.host_cid: None}
        self._cids_added: list[bytes] = [core.host_cid]
        self._cids_retired: list[bytes] = []

    def connect(self, address: Address) -> None:
        """Begin the handshake with a server; :meth:`transmit` has the first packet."""
        self._core.connect(address, self._clock())
        self._dirty = True

    # --- the connection ---

    @property
    def connection_ids(self) -> tuple[bytes, ...]:
        """The IDs by which the peer addresses this connection."""
        return tuple(self._cids)

    def take_connection_ids(self) -> tuple[list[bytes], list[bytes]]:
        """IDs that have come and that have gone since the last call."""
        added, retired = self._cids_added, self._cids_retired
        self._cids_added, self._cids_retired = [], []
        return added, retired

    def shut(self, code: int, reason: str) -> None:
        """Close the connection; :meth:`transmit` has the packets that say so. Idempotent."""
        if self._drive.started and self.closed is None:
            text = reason.encode()[:_MAX_REASON].decode(errors="ignore")
            self._core.close(code, None, text)
            self._dirty = True
        if self.closed is None:
            self.closed = (code, reason)
        self.went_away = True
        # Of one whose peer never proved who it is, nobody calls close().
        self._budget.sessions.discard(self)

    # --- receiving ---

    def receive(self, data: bytes, segment_size: int, source: Address) -> list[Event]:
        """Take datagrams from one address, of `segment_size` bytes each (the last may be shorter).

        Returns what they caused. Raises :class:`RemoteProtocolError` when the peer breaks QUIC or
        our protocol, or is not the one it has to be.
        """
        events: list[Event] = []
        try:
            if self.remote is None:
                data = self._authenticate(data, segment_size, source, events)
            if data:
                self._note_received(self._drive.receive(data, segment_size, source, self._clock()))
                self._take(events)
        except RemoteProtocolError:
            self._keep_unreported(events)
            raise
        return events

    @property
    def is_client(self) -> bool:
        """Whether this side is the one that dialed."""
        return self._initiator

    def path_state(self) -> PathState:
        """How the connection fares on its path."""
        native = self._drive.native
        window = native.congestion_window / MIN_DATAGRAM
        return PathState(native.loss_total, native.latest_rtt, window)

    def export(self, label: bytes) -> bytes:
        """32 secret bytes that only this connection's two ends can make, for another use."""
        if self._noise is None:
            raise LocalProtocolError("the peer is not known yet")
        return self._noise.export(label)

    def _note_received(self, authentic: bool) -> None:
        self._dirty = True
        self.heard = authentic
        if authentic:  # anybody may send us something else
            self.last_received = self._clock()
            self._unanswered += 1

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
            self._unauthenticated_bytes += size
            if self._unauthenticated_bytes > PRE_AUTH_LIMIT:
                raise RemoteProtocolError("QUIC: too many bytes before the peer is authenticated")
            self._note_received(self._drive.receive(datagram, size, source, self._clock()))
            if self._drive.started:
                self._take(events)
            if self.remote is not None:
                return data[offset + size :]
        return b""

    def _take(self, events: list[Event]) -> None:
        """Act on what qh3 has to say."""
        core = self._core
        if self._noise is None and core.handshake_complete:
            self._noise = self._make_noise(server_certificate_hash(core), self.expected_peer)
            self._send_noise()
        self._handle(self._drive.take_events(), events)
        if core.end is not None and self.closed is None:
            self.closed = (core.end.error_code, core.end.reason_phrase)
            self.went_away = True
            if self._drive.faulty:
                # To a client whose first packet is lost, and whose second is not, the answer
                # is silence: it will send both again.
                self._mute = core.end.reason_phrase == _SECOND_PACKET_FIRST
                raise RemoteProtocolError(f"QUIC: {core.end.reason_phrase}")

    def _handle(self, native_events: Sequence[NativeEvent], events: list[Event]) -> None:
        for event in native_events:
            kind = event[0]
            if kind == "stream_data":
                stream_id = event[1]
                if not stream_id:
                    self._on_stream_zero(event[2], event[3], events)
                elif self.remote is None:
                    self._keep_early(event)
                else:
                    self._on_data(stream_id, event[2], event[3], events)
            elif kind == "stream_finished":
                self._live.discard(event[1])
                self._aborts.pop(event[1], None)
            elif kind == "stream_reset" or kind == "stop_sending":
                if self.remote is None and event[1]:
                    self._keep_early(event)
                else:
                    self._on_abort(event[1], stops=kind == "stop_sending", events=events)
            elif kind == "ping_acknowledged":
                self._on_ping_acknowledged(event[1], events)
            elif kind == "datagram":
                if self.remote is not None:
                    self.datagrams.append(event[1])
            elif kind == "connection_id_issued":
                self._cids[event[1]] = None
                self._cids_added.append(event[1])
            elif kind == "connection_id_retired":
                self._cids.pop(event[1], None)
                self._cids_retired.append(event[1])
            elif kind == "streams_available":
                self._open_waiting()

    def _keep_early(self, event: NativeEvent) -> None:
        """A stream speaks before Noise is over: its packet may have overtaken Noise's last."""
        if self._initiator:
            raise RemoteProtocolError("QUIC: a stream before the peer knows who we are")
        if len(self._early) >= _EARLY_EVENTS:
            raise RemoteProtocolError("QUIC: too much before the peer is authenticated")
        self._early.append(event)

    def _on_stream_zero(self, data: bytes, fin: bool, events: list[Event]) -> None:
        if self.remote is None:
            noise = self._noise
            assert noise is not None  # without TLS there are no keys for streams
            noise.feed(data)
            self._send_noise()
            if noise.result is None:
                data = b""
            else:
                data = noise.rest
                self.remote = noise.result
                self._unauthenticated_bytes = 0
                self.ping()  # windows grow by the round-trip time, so know it early
                early, self._early = self._early, []
                self._handle(early, events)
        for stream_id, delta in self._control.feed(data):
            self._on_credit(stream_id, delta)
        if fin:
            raise RemoteProtocolError("QUIC: the peer ended stream 0")

    def _send_noise(self) -> None:
        assert self._noise is not None
        if data := self._noise.data_to_send():
            self._drive.native.send_stream(0, data, False)
            self._dirty = True

    def _on_data(self, stream_id: int, data: bytes, fin: bool, events: list[Event]) -> None:
        stream = self.streams.get(stream_id) or self._find(stream_id, events)
        if stream is None:
            if fin and stream_id in self._aborts:
                self._aborts[stream_id] = False
            return
        size = len(data)
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
        elif self._spoken.claim(stream_id >> 2):
            self._live.add(stream_id)
            if self.went_away or not self._may_add_stream():
                self._aborts[stream_id] = True
                return None
            stream = self._add_stream(stream_id, initiated=False)
            events.append(Event(EventKind.ACCEPTED, stream))
            return stream
        if stream_id not in self._live:
            self._on_phantom(stream_id)
        return None

    def _on_phantom(self, stream_id: int) -> None:
        """A frame for a stream that ended so long ago that qh3 takes it for a new one.

        qh3 remembers the last 1,024 streams that ended, so this is a packet that was very
        late, or a peer that wants us to keep a great many streams.
        """
        self._phantoms += 1
        if self._phantoms > _MAX_PHANTOMS:
            raise RemoteProtocolError("QUIC: the peer speaks on streams that have ended")
        self._live.add(stream_id)
        self._aborts[stream_id] = True

    def _on_abort(self, stream_id: int, *, stops: bool, events: list[Event]) -> None:
        """The peer has reset its direction of a stream, or does not want ours."""
        if not stream_id:
            raise RemoteProtocolError("QUIC: the peer aborted stream 0")
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id in self._live:
                if not stops and stream_id in self._aborts:
                    self._aborts[stream_id] = False
                return
            events_unseen: list[Event] = []
            stream = self._find(stream_id, events_unseen)
            if stream is None:
                return
        else:
            events_unseen = events
        self._on_reset(stream, events_unseen)
        self._aborts[stream_id] = stops and not stream.received_fin

    def _on_credit(self, stream_id: int, delta: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            ours = stream_id & 1 == self._local_bit
            opened = stream_id < self._next_id if ours else stream_id >> 2 in self._spoken
            if not stream_id or stream_id & 2 or not opened:
                raise RemoteProtocolError(f"QUIC: credit for stream {stream_id}, nobody opened it")
            return
        stream.send_credit += delta
        if stream.send_credit > _MAX_CREDIT:
            raise RemoteProtocolError(f"QUIC: stream {stream_id} has an impossible window")
        if stream.send_queue:
            self.schedule(stream)

    def _on_ping_acknowledged(self, uid: int, events: list[Event]) -> None:
        self._early_left = float("inf")
        if uid != self._ping_uid:
            return
        self._on_pong(events)
        # The answer to a ping may have been delayed by the peer; what qh3 measures has that
        # taken out.
        for measured in (self._drive.native.latest_rtt, self._drive.native.smoothed_rtt):
            if self.rtt is not None and measured:
                self.rtt = min(self.rtt, measured)

    # --- time ---

    def on_timer(self) -> list[Event]:
        """Do what is due: retransmissions, acknowledgements, time-outs."""
        events: list[Event] = []
        if self._drive.started:
            self._dirty = True
            now = self._clock()
            try:
                self._drive.on_timer(now)
                self._break_stall(now)
                self._take(events)
            except RemoteProtocolError:
                self._keep_unreported(events)
                raise
        return events

    def tick(self) -> None:
        if self._ping_sent is not None:
            # A ping is not sent again when its packet is lost.
            patience = max(_SHORTEST_PING_WAIT, 4 * (self.rtt or 0.0))
            if self._clock() - self._ping_sent > patience:
                self._ping_sent = None
        super().tick()
