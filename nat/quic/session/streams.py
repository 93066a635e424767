"""Which streams there are for QUIC, beside those that are served.

A stream lives on in qh3 after the session has done with it, until both directions have ended; and
qh3 takes a frame of one that it has forgotten for a new stream's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.mux.stream_state import MuxStream
from lattica.nat.quic.qh3.native import NativeDrive

_MAX_PHANTOMS = 1024


@dataclass(frozen=True, slots=True)
class _Abort:
    """What is to be ended of a stream: our direction, and the peer's."""

    reset: bool
    stop: bool
    code: int


class SpokenStreams:
    """Which of the peer's streams there have been, without remembering each.

    A stream exists from its first frame on; those with lower numbers may still speak, as
    packets overtake each other (RFC 9000, section 2.1 opens them all at once, which is of no
    use before they say something). Only these are remembered, and QUIC's limit of streams
    bounds them.
    """

    __slots__ = ("_next", "_silent")

    def __init__(self, first: int) -> None:
        self._next = first
        self._silent: set[int] = set()

    def claim(self, number: int) -> bool:
        """The stream with this number speaks; return whether it does so for the first time."""
        if number >= self._next:
            self._silent.update(range(self._next, number))
            self._next = number + 1
            return True
        if number in self._silent:
            self._silent.remove(number)
            return True
        return False

    def __contains__(self, number: int) -> bool:
        """It has spoken."""
        return number < self._next and number not in self._silent


class QuicStreams:
    """The streams of one connection as qh3 has them: begun, waiting, to be aborted."""

    __slots__ = (
        "_aborts", "_drive", "_limit_hit", "_live", "_local_bit", "_phantoms", "_reset",
        "_unopened", "spoken",
    )  # fmt: skip

    def __init__(self, drive: NativeDrive, *, initiator: bool) -> None:
        self._drive = drive
        self._local_bit = 0 if initiator else 1
        # Stream 0 has spoken: it is nobody's to accept.
        self.spoken = SpokenStreams(0 if initiator else 1)
        """By number (the ID without its two lowest bits), those of the peer's that have begun."""
        self._live: set[int] = set()
        """Streams that qh3 has. Of others it must not be asked: it would make them anew."""
        self._aborts: dict[int, _Abort] = {}
        """Streams to abort in qh3."""
        self._reset: dict[int, int] = {}
        """Those of them of which it has reset our direction, and with which code."""
        self._unopened: dict[int, MuxStream] = {}
        """Streams that wait for the peer to allow more streams."""
        self._limit_hit = False
        self._phantoms = 0

    def __contains__(self, stream_id: int) -> bool:
        """qh3 has it."""
        return stream_id in self._live

    def has_ended(self, stream_id: int) -> bool:
        """It has begun, and qh3 has it no more."""
        if stream_id in self._live:
            return False
        return stream_id & 1 == self._local_bit or stream_id >> 2 in self.spoken

    def open(self, stream: MuxStream) -> bool:
        """Its first bytes are to be sent; False if it has to wait, as the peer allows no more."""
        if stream.id >> 2 >= self._drive.native.stream_limits[0]:
            self._unopened[stream.id] = stream
            return False
        stream.syn_due = False
        self._live.add(stream.id)
        return True

    def take_openable(self) -> list[MuxStream]:
        """The peer allows more: those that have waited, to be tried again."""
        self._limit_hit = False
        unopened, self._unopened = self._unopened, {}
        return list(unopened.values())

    def begin(self, stream_id: int) -> bool:
        """The peer speaks on a stream of its own; return whether for the first time."""
        if not self.spoken.claim(stream_id >> 2):
            return False
        self._live.add(stream_id)
        return True

    def meet_ended(self, stream_id: int) -> None:
        """A frame for a stream that is not served any more.

        If it ended so long ago that qh3 takes it for a new one, it is aborted again: qh3
        remembers the last 1,024 streams that ended, so this is a packet that was very late, or a
        peer that wants us to keep a great many streams, which is a :class:`RemoteProtocolError`.
        """
        if stream_id in self._live:
            return
        self._phantoms += 1
        if self._phantoms > _MAX_PHANTOMS:
            raise RemoteProtocolError("QUIC: the peer speaks on streams that have ended")
        self._live.add(stream_id)
        self.abort(stream_id, stop=True)

    def end(self, stream_id: int) -> None:
        """Both directions have ended."""
        self._live.discard(stream_id)
        self._reset.pop(stream_id, None)
        self._aborts.pop(stream_id, None)

    # --- aborting ---

    def abort(self, stream_id: int, *, stop: bool, code: int = 0) -> None:
        """End a stream with the next packets; `stop`: the peer may still be sending.

        Also one that was never used: its number counts against the peer's limit until it has
        ended. And later: qh3 may have ended the stream by an event that is yet to be handled.
        """
        self._aborts[stream_id] = _Abort(True, stop, code)

    def stop(self, stream_id: int) -> None:
        """Have the peer stop sending; what we send goes on arriving."""
        self._aborts.setdefault(stream_id, _Abort(False, True, 0))

    def note_peer_ended(self, stream_id: int) -> None:
        """The peer's direction has ended: one that is to be aborted has nothing to stop.

        One that was is reset again if it does not end now: when something that was sent before a
        reset is found lost after that was acknowledged, qh3 (2.1.0) takes back that our direction
        has ended, and the stream would count against the limit for as long as the connection is.
        """
        if abort := self._aborts.get(stream_id):
            self._aborts[stream_id] = replace(abort, stop=False)
        elif stream_id in self._reset:
            self._aborts[stream_id] = _Abort(True, False, self._reset[stream_id])

    @property
    def wants_aborts(self) -> bool:
        """:meth:`hand_over_aborts` is worth a call of its own."""
        return bool(self._aborts) and not self._limit_hit

    def hand_over_aborts(self) -> list[int]:
        """Have qh3 abort what it may; return of which our direction has ended."""
        if not self._aborts:
            return []
        native = self._drive.native
        waiting: dict[int, _Abort] = {}
        done = []
        for stream_id, abort in self._aborts.items():
            if stream_id not in self._live:
                if stream_id >> 2 >= native.stream_limits[0]:
                    waiting[stream_id] = abort
                    continue
                self._live.add(stream_id)
            if abort.reset:
                native.reset_stream(stream_id, abort.code)
                self._reset[stream_id] = abort.code
                done.append(stream_id)
            if abort.stop:
                native.stop_sending(stream_id, abort.code)
        self._aborts = waiting
        self._limit_hit = bool(waiting)
        return done

    def clear(self) -> None:
        """The connection is over."""
        self._unopened.clear()
        self._aborts.clear()
        self._reset.clear()
