"""What every multiplexed connection has: streams, their windows, budgets and whose turn it is.

A pure state machine without a wire format: :class:`lattica.nat.mux.yamux.session.Session` and
:class:`lattica.nat.quic.session.session.QuicSession` add theirs. What is policy is here:

- **Scheduling.** Data leaves only when the connection can take it, so what is urgent
  overtakes what was queued earlier: first control frames and window updates, then streams
  that send little, then all others in turn (:mod:`lattica.nat.mux.senders`).
- **Windows** start at :data:`INITIAL_WINDOW` and grow to what fills the path
  (:mod:`lattica.nat.mux.windows`), up to `Windows.maximum` and the connection's memory budget.
- **Liveness.** A peer that is silent for `Timeouts.keep_alive_timeout`, pings included, is
  gone, unless it may just be busy (:mod:`lattica.nat.mux.patience`).
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable

from lattica.nat.base.errors import ConnectionClosedError, ResourceLimitError
from lattica.nat.base.limits.places import NOBODY, Source
from lattica.nat.config import KIB, Limits, Timeouts, Windows
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.events import Event, EventKind
from lattica.nat.mux.lingering import Lingering
from lattica.nat.mux.priority import Priority
from lattica.nat.mux.senders import Senders
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.mux.turns import Nuisance
from lattica.nat.mux.windows import growth

RESOURCE_LIMIT = 0x1002
"""The error code of a stream for which there is no place (libp2p's StreamResourceLimitExceeded)."""
GATED = 0x1008
"""The error code of a connection that a side does not let in (libp2p's ConnectionGated)."""
NOT_LET_IN = "the peer does not let this one in, by an allow- or deny-list or a ban"
INITIAL_WINDOW = 256 * KIB
"""Bytes a peer may send on a new stream; yamux fixes it, QUIC follows."""
_EARLY_PINGS = 4
"""The first pongs are often late, as both sides are busy starting; so there are several."""


def _nothing() -> None:
    pass


class MuxSession(ABC):
    """Streams of one connection. The driver calls :meth:`tick` about once a second.

    `clock` gives monotonic seconds. Stream ids of this side begin at `first_id` and are
    `id_step` apart. `relayed` says that the connection goes through a third peer. `source` and
    `nuisance` say who the peer is for what connections share
    (:mod:`lattica.nat.base.limits.places`, :mod:`lattica.nat.mux.turns`).
    """

    def __init__(
        self,
        *,
        first_id: int,
        id_step: int,
        last_id: int,
        clock: Callable[[], float],
        windows: Windows | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        budget: MemoryBudget | None = None,
        source: Source = NOBODY,
        nuisance: Nuisance | None = None,
        relayed: bool = False,
    ) -> None:
        limits = limits or Limits()
        self._clock = clock
        self.source = source
        """Who is at the other end, as far as shared places are concerned."""
        self.nuisance = nuisance or Nuisance(clock)
        self.turn = sys.maxsize
        """Units of work that are left of this connection's turn; a driver gives it others."""
        self._windows = windows or Windows()
        self._relayed = relayed
        self.timeouts = timeouts or Timeouts()
        self.budget = budget or MemoryBudget(limits.receive_memory_total)
        """What all sessions of a swarm may hold together."""
        self._max_streams = limits.max_streams_per_connection
        self._promise_limit = limits.receive_memory_per_connection
        self._promised = 0
        self._released = 0
        """The part of that whose streams take no more memory."""
        self.budget.sessions.add(self)
        self.streams: dict[int, MuxStream] = {}
        self._next_id = first_id
        self._id_step = id_step
        self._last_id = last_id
        self.window_updates_due: dict[int, MuxStream] = {}
        self._senders = Senders(clock)
        self._drained: list[MuxStream] = []
        self._lingering = Lingering()
        self.on_place: Callable[[], object] = _nothing
        """Called when a stream has gone, and there may be a place for another."""
        self._unreported: list[MuxStream] = []
        self.rtt: float | None = None
        """Shortest round-trip time seen, seconds; None before the first pong.

        The shortest, because what is above it is our own queues, and windows that grew
        with those would make them longer still.
        """
        self._ping_sent: float | None = None
        self._pongs = 0
        self.last_received = clock()
        """When the peer was last heard."""
        self._last_tick = self.last_received
        self.went_away = False
        """The peer accepts no new streams."""

    # --- what a wire format adds ---

    @property
    @abstractmethod
    def wants_write(self) -> bool:
        """There is something to send."""

    @abstractmethod
    def _send_reset(self, stream: MuxStream) -> None:
        """Tell the peer that a stream was aborted, if it has to know."""

    @abstractmethod
    def _stop_peer(self, stream: MuxStream, reason: str) -> None:
        """Have the peer stop sending, once all that this side has sent is on its way.

        What this side has sent stays readable there.
        """

    @abstractmethod
    def _send_ping(self) -> None:
        """Ask for a sign of life, whose arrival is told to :meth:`_on_pong`."""

    # --- streams ---

    def open(self) -> MuxStream:
        """Open a stream; the peer hears of it with its first bytes.

        Raises:
            ConnectionClosedError: the peer accepts no more or the ids of this side are used up.
            ResourceLimitError: a budget is.
        """
        if self.went_away:
            raise ConnectionClosedError("the peer is going away and accepts no new streams")
        if self._next_id > self._last_id:
            raise ConnectionClosedError("all stream ids of this connection are used; reconnect")
        if not self.has_place:
            raise ResourceLimitError(self.full())
        stream = self._add_stream(self._next_id, initiated=True)
        self._next_id += self._id_step
        self.schedule(stream, was_idle=True)
        return stream

    def full(self) -> str:
        """Which budget of this node allows no more streams."""
        streams = f"the connection has {len(self.streams)} streams"
        if len(self.streams) >= self._max_streams:
            return f"{streams}, this node's limits.max_streams_per_connection allows no more"
        return (
            f"{streams}, whose windows take {self._held} bytes of the {self._promise_limit} "
            "that this node's limits.receive_memory_per_connection allows"
        )

    @property
    def has_place(self) -> bool:
        """The budgets allow another stream."""
        return (
            len(self.streams) < self._max_streams
            and self._held + INITIAL_WINDOW <= self._promise_limit
        )

    @property
    def _held(self) -> int:
        """Bytes that peers of streams may make us hold."""
        return self._promised - self._released

    def _add_stream(self, stream_id: int, *, initiated: bool) -> MuxStream:
        stream = MuxStream(
            self, stream_id, initiated=initiated, now=self._clock(), window=INITIAL_WINDOW
        )
        self.streams[stream_id] = stream
        self._promised += stream.receive_window
        return stream

    def _release(self, stream: MuxStream) -> None:
        """Nothing that the stream's peer may send can take memory any more."""
        if not stream.released and self.streams.get(stream.id) is stream:
            stream.released = True
            self._released += stream.receive_window
            self.on_place()

    def _remove_stream(self, stream: MuxStream) -> None:
        """The wire is done with the stream; what it holds may still be read."""
        if self.streams.pop(stream.id, None) is not None:
            self._promised -= stream.receive_window
            if stream.released:
                self._released -= stream.receive_window
            self.on_place()
            self.window_updates_due.pop(stream.id, None)
            self._lingering.discard(stream)
            if stream.receive_queue:
                self.budget.orphans.add(stream)

    def evict(self, stream: MuxStream) -> None:
        """Abort a stream for the sake of the memory that it holds."""
        reason = "the memory budget for received data is used up"
        if self.streams.get(stream.id) is stream:
            self.reset(stream, reason)
        else:
            stream.reset_reason = stream.reset_reason or reason
            self.discard_received(stream)

    def reset(self, stream: MuxStream, reason: str = "reset by this side", code: int = 0) -> None:
        """Abort a stream at once and tell the peer; drops what is queued. Idempotent."""
        if self._abort(stream, reason, code):
            self._send_reset(stream)

    def _abort(self, stream: MuxStream, reason: str, code: int = 0) -> bool:
        if stream.reset_reason is not None or self.streams.get(stream.id) is not stream:
            return False
        stream.reset_reason = reason
        stream.error_code = code
        self._drop_unsent(stream)
        self.discard_received(stream)
        self._remove_stream(stream)
        return True

    def _drop_unsent(self, stream: MuxStream) -> None:
        stream.send_queue.clear()
        stream.bytes_framed = stream.bytes_queued
        self._note_drained(stream)

    def discard_received(self, stream: MuxStream) -> None:
        """Drop what the stream has received, and whatever it will receive.

        The peer may go on sending for a while (:mod:`lattica.nat.mux.lingering`).
        """
        stream.receive_discarded = True
        self._release(stream)
        unread = sum(map(len, stream.receive_queue))
        self.budget.used -= unread
        stream.receive_queue.clear()
        unread -= stream.received_again
        stream.received_again = 0
        if not stream.received_fin and self.streams.get(stream.id) is stream:
            self._lingering.add(stream, self._clock())
            self._throw_away(stream, unread)

    def _throw_away(self, stream: MuxStream, size: int) -> None:
        """`size` bytes for a closed stream: let the peer send as many more, or have it stop."""
        stream.consumed += size
        due = stream.consumed * 2 >= stream.receive_window
        if self._lingering.take(stream, size, self._clock(), wants_credit=due):
            if due:
                self.window_updates_due[stream.id] = stream
        elif not stream.stops_peer:
            self._end_lingering(stream, "closed by this side while the peer was sending")

    def stop_peer(self, stream: MuxStream) -> None:
        """Have the peer of a stream that this side has closed stop sending now."""
        alive = self.streams.get(stream.id) is stream
        if alive and not stream.received_fin and not stream.stops_peer:
            self._lingering.discard(stream)
            self._end_lingering(stream, "closed by this side, which reads no more")

    def _end_lingering(self, stream: MuxStream, reason: str) -> None:
        stream.stops_peer = True
        self.window_updates_due.pop(stream.id, None)
        self._stop_peer(stream, reason)

    def consumed(self, stream: MuxStream, size: int) -> None:
        """The application has read `size` bytes (called by the stream)."""
        self.budget.used -= size
        stream.unread_since = self.last_received
        if stream.received_again:
            known = min(size, stream.received_again)
            stream.received_again -= known
            size -= known
        stream.consumed += size
        if (
            stream.consumed * 2 >= stream.receive_window
            and not stream.received_fin
            and self.streams.get(stream.id) is stream
        ):
            self.window_updates_due[stream.id] = stream

    def returned(self, stream: MuxStream, size: int) -> None:
        """The application has put back `size` bytes that it had read (called by the stream).

        They may exceed the budget: they were in memory anyway.
        """
        self.budget.used += size
        stream.received_again += size
        if size and self.streams.get(stream.id) is not stream:
            self.budget.orphans.add(stream)

    def forgotten(self, size: int) -> None:
        """A stream is no more, and `size` bytes of it were never read."""
        self.budget.used -= size

    # --- receiving ---

    def _deliver(
        self, stream: MuxStream, message: bytes, start: int, end: int, events: list[Event]
    ) -> None:
        """Queue `message[start:end]`, which is within the stream's window, for its reader."""
        if stream.reset_reason is not None:
            return
        size = end - start
        if stream.receive_discarded:
            self._throw_away(stream, size)
            return
        if (sink := stream.sink) is not None:
            filled = stream.sink_filled
            fits = min(size, len(sink) - filled)
            sink[filled : filled + fits] = memoryview(message)[start : start + fits]
            self._sunk(stream, fits, events)
            if fits == size:
                return
            start, size = start + fits, size - fits
        if self._has_room(stream, size, events):
            if not stream.receive_queue:
                stream.unread_since = self.last_received
            self.budget.used += size
            stream.append_received(message, start, end)
            stream.wanted -= size
            if stream.wanted <= 0 and (not events or events[-1].stream is not stream):
                events.append(Event(EventKind.READABLE, stream))

    def _sunk(self, stream: MuxStream, size: int, events: list[Event]) -> None:
        """The stream's reader has got `size` bytes into its memory; it wakes when that is full."""
        stream.sink_filled += size
        self.budget.used += size
        self.consumed(stream, size)
        if stream.sink is not None and stream.sink_filled == len(stream.sink):
            events.append(Event(EventKind.READABLE, stream))

    def _has_room(self, stream: MuxStream, size: int, events: list[Event]) -> bool:
        """Whether the budget allows `size` bytes for the stream, if need be at others' cost."""
        budget = self.budget
        if budget.used + size <= budget.limit:
            return True
        aborted = budget.make_room(size, self.last_received)
        if stream.reset_reason is None and budget.used + size > budget.limit:
            self.evict(stream)
            aborted.append(stream)
        events += [Event(EventKind.RESET, gone) for gone in aborted]
        return stream.reset_reason is None

    def _on_fin(self, stream: MuxStream, events: list[Event]) -> None:
        if stream.received_fin or stream.reset_reason is not None:
            return
        stream.received_fin = True
        self._release(stream)
        self.window_updates_due.pop(stream.id, None)
        self._lingering.discard(stream)
        if stream.fin_sent:
            self._remove_stream(stream)
        events.append(Event(EventKind.READABLE, stream))

    def _on_reset(self, stream: MuxStream, code: int, events: list[Event]) -> None:
        self.nuisance.count("a reset")
        reason = "reset by the peer"
        if code == RESOURCE_LIMIT:
            reason += ", whose limits allow no more streams"
        if stream.keeps_received and stream.reset_reason is None:
            stream.reset_reason, stream.error_code = reason, code
            self._drop_unsent(stream)
            self._remove_stream(stream)
            events.append(Event(EventKind.RESET, stream))
        elif self._abort(stream, reason, code):
            events.append(Event(EventKind.RESET, stream))

    def _on_stop(self, stream: MuxStream, code: int, events: list[Event]) -> None:
        """The peer reads no more; what it has sent, and may send, can still be read."""
        if stream.reset_reason is not None or stream.stopped:
            return
        self.nuisance.count("a stop")
        stream.stopped = True
        stream.error_code = code
        self._drop_unsent(stream)
        stream.fin_queued = stream.fin_sent = True  # there is nothing more to send
        if stream.received_fin:
            self._remove_stream(stream)
        events.append(Event(EventKind.STOPPED, stream))

    def _on_pong(self, events: list[Event]) -> None:
        if self._ping_sent is None:
            return
        sample = self._clock() - self._ping_sent
        self._ping_sent = None
        self._pongs += 1
        self.rtt = sample if self.rtt is None else min(self.rtt, sample)
        events.append(Event(EventKind.PONG))

    # --- sending ---

    def schedule(self, stream: MuxStream, *, was_idle: bool = False) -> None:
        """The stream may have something to send (called by the stream, too)."""
        self._senders.add(stream, was_idle=was_idle)

    def set_priority(self, stream: MuxStream, priority: Priority) -> None:
        """How urgent what the stream sends is (called by the stream)."""
        self._senders.set_priority(stream, priority)

    def _note_drained(self, stream: MuxStream) -> None:
        if stream.wake_below is not None:
            stream.wake_below = None
            self._drained.append(stream)

    def take_drained(self) -> list[MuxStream]:
        """Streams whose queue has sunk to their `wake_below` since the last call."""
        drained = self._drained
        if drained:
            self._drained = []
        return drained

    def _reopen_window(self, stream: MuxStream) -> int:
        """Return the credit to give, with a larger window where the path can use it."""
        now = self._clock()
        grown = 0
        if self.rtt is not None and not stream.receive_discarded:
            # Half of the budget stays with new streams.
            left = self._promise_limit // 2 - self._held
            grown = growth(
                stream.receive_window,
                stream.consumed,
                now - stream.last_update,
                self.rtt,
                most=min(self._windows.maximum, stream.receive_window + left),
                relayed=self._relayed,
            )
        delta = stream.consumed + grown
        stream.receive_window += grown
        self._promised += grown
        stream.receive_credit += delta
        stream.last_update = now
        stream.consumed = 0
        if grown and self._relayed:
            # The first pongs were late, as three processes were starting. Now the windows are
            # small, and so is what is before this one.
            self.ping()
        return delta

    # --- time and end ---

    def ping(self) -> None:
        """Send a ping unless one is on its way; the pong updates :attr:`rtt`."""
        if self._ping_sent is None:
            self._ping_sent = self._clock()
            self._send_ping()

    @property
    def is_silent(self) -> bool:
        """Nothing was heard for `Timeouts.keep_alive_timeout`, as of the last :meth:`tick`."""
        return self._last_tick - self.last_received >= self.timeouts.keep_alive_timeout

    def tick(self, patience: Callable[[], float] | None = None) -> None:
        """Do what is due; call it about once a second.

        `patience` is asked when the peer has been silent for `Timeouts.keep_alive_timeout`: the
        seconds after which it is really gone, if that is more.

        Raises:
            ConnectionClosedError: the peer is gone.
        """
        now = self._clock()
        # If this process was suspended, the peer's silence is not the peer's fault.
        suspended = max(0.0, now - self._last_tick - 2.0)
        self.last_received = min(now, self.last_received + suspended)
        self._last_tick = now
        if self.nuisance.rests_until is not None:
            self.last_received = now
            # What the peer answers is not read, but whether its machine takes it is seen.
            self._repeat_ping(now)
            self.ping()
        silent = now - self.last_received
        if silent >= self.timeouts.keep_alive_timeout:
            if patience is None or silent >= patience():
                raise ConnectionClosedError(f"the peer has not answered for {silent:.0f} s")
            self._repeat_ping(now)
        if silent >= self.timeouts.keep_alive_interval or self._pongs < _EARLY_PINGS:
            self.ping()
        for stream in self._lingering.due(now):
            if stream.fin_sent:
                self._end_lingering(stream, "the peer did not close its side")
            else:
                self.reset(stream, "the peer sends without end and does not read")

    def _repeat_ping(self, now: float) -> None:
        """Only what is sent shows whether the peer's machine is still there."""
        if (
            self._ping_sent is not None
            and now - self._ping_sent >= self.timeouts.keep_alive_interval
        ):
            self._ping_sent = None

    def close(self, reason: str) -> list[MuxStream]:
        """The connection is gone: end every stream; return all that somebody may wait for.

        Data that has arrived stays readable, before the reader learns of the end, as long as what
        all such connections have left does not take too much memory. Nothing of it is in a cycle
        afterwards: an enemy could end connections faster than the collector comes.
        """
        self.went_away = True
        self._senders.end()
        streams = list(self.streams.values())
        for stream in streams:
            if stream.receive_discarded:
                self._abort(stream, reason)
                continue
            if not stream.received_fin:
                stream.reset_reason = reason
            self._remove_stream(stream)
            self._drop_unsent(stream)
        self.budget.sessions.discard(self)
        aborted = self.budget.limit_orphans(self._clock())
        unreported, self._unreported = self._unreported, []
        return streams + aborted + unreported + self.take_drained()
