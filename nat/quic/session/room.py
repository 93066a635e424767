"""How much data qh3 may be handed now: what leaves soon, and not more.

What waits in qh3 cannot be overtaken, and what it has prepared and may not send holds up its
acknowledgements. So it gets a packet's worth at a time, or some of a stream that is alone, which
saves a third of the time that they take. And only while two packets may leave, or all of a window
that has become smaller than two packets: the least that qh3 leaves of it are two of the size that
packets had at first.
"""

from __future__ import annotations

import math

from lattica.nat.config import KIB
from lattica.nat.quic.qh3.native import NativeDrive

_EARLY_DATA = 32 * KIB
"""What an initiator sends before it knows that its last Noise message has arrived: if that is
lost, what follows must not break the responder's limit for strangers."""
_PACKET_OVERHEAD = 64
"""Bytes that qh3 leaves free in a packet with data of a stream."""


_MOST_AT_ONCE = 8
"""Packets whose data qh3 gets at once where that holds up no other stream. No more either than have
left in the burst: what the pacer keeps back is then no more than it has just let go."""


class SendRoom:
    """Accounts for the data of one connection that qh3 has and has not sent."""

    __slots__ = (
        "_allowed", "_at_once", "_backlogs", "_drive", "_early_left", "_packet", "_window",
        "backlog",
    )  # fmt: skip

    def __init__(self, drive: NativeDrive, *, initiator: bool) -> None:
        self._drive = drive
        self._early_left: float = _EARLY_DATA if initiator else math.inf
        self._packet = 0
        self._at_once = 1
        """Packets whose data may be handed over at once by a stream that is alone."""
        self._allowed = 0
        """What is left of the congestion window, bytes."""
        self._window = 0
        """The congestion window, bytes."""
        self._backlogs: dict[int, int] = {}
        self.backlog = 0
        """Bytes that qh3 holds, over all streams."""

    @property
    def bytes(self) -> float:
        """How many it may be handed."""
        if self._allowed < min(2 * self._packet, self._window):
            return 0
        return min(self._packet - _PACKET_OVERHEAD - self.backlog, self._early_left)

    @property
    def bytes_alone(self) -> float:
        """How many a stream may hand over with which no other one shares the burst."""
        room = self.bytes
        if room > 0:
            more = min(self._at_once, self._allowed // self._packet - 1) - 1
            if more > 0:
                room = min(room + more * (self._packet - _PACKET_OVERHEAD), self._early_left)
        return room

    @property
    def congested(self) -> bool:
        """Nothing may leave until something is acknowledged."""
        native = self._drive.native
        return native.bytes_in_flight >= native.congestion_window

    @property
    def full(self) -> bool:
        """The congestion window has no room for a whole packet."""
        native = self._drive.native
        size: int = native.active_path[5]
        return native.congestion_window - native.bytes_in_flight < size

    def begin_burst(self) -> None:
        """Learn how large packets are, too."""
        self._packet = self._drive.native.active_path[5]
        self._at_once = 1
        self.measure()
        self.look()

    def look(self) -> None:
        """Learn what the congestion window allows."""
        native = self._drive.native
        in_flight = native.bytes_in_flight
        self._window = native.congestion_window
        self._allowed = self._window - in_flight
        if self._early_left <= 0 and not in_flight:
            self.lift_early_limit()  # all has arrived, and so has Noise's last message

    def lift_early_limit(self) -> None:
        """The peer knows who we are."""
        self._early_left = math.inf

    def backlog_of(self, stream_id: int) -> int:
        """Bytes of one stream that qh3 held when last looked."""
        return self._backlogs.get(stream_id, 0)

    def note_handed(self, stream_id: int, size: int) -> None:
        """qh3 has been given data of a stream."""
        self._backlogs[stream_id] = self._backlogs.get(stream_id, 0) + size
        self.backlog += size
        self._early_left -= size

    def note_credit(self, size: int) -> None:
        """qh3 has been given that much of stream 0, which does not count against the room."""
        self._backlogs[0] = size

    def note_sent(self, size: int) -> None:
        """A datagram of that size has left."""
        self._allowed -= size
        self._at_once = min(self._at_once + 1, _MOST_AT_ONCE)
        if self.backlog > size:
            self.backlog -= size  # at most so much of it has left
        else:
            self.measure()

    def measure(self) -> None:
        """Learn what qh3 still holds."""
        size_of = self._drive.native.get_send_buffer_size
        total = 0
        for stream_id in list(self._backlogs):
            if size := size_of(stream_id):
                self._backlogs[stream_id] = size
                total += size
            else:
                del self._backlogs[stream_id]
        self.backlog = total

    def forget(self, stream_id: int) -> None:
        """A stream was aborted: what qh3 had of it is gone."""
        if self._backlogs.pop(stream_id, None):
            self.measure()
