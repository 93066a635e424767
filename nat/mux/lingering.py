"""Streams that this side has closed, and whose peer may still be sending.

A peer that is in the middle of a long request cannot know that it has been answered already. If it
got no more credit it would hang, and a reset at once would, over yamux, take the answer with it. So
what it sends is taken and thrown away: for a while, up to a number of bytes, and for so many
streams of a connection at a time.
"""

from __future__ import annotations

from lattica.nat.config import MIB
from lattica.nat.mux.stream_state import MuxStream

MAX_BYTES = 16 * MIB
"""Bytes of one stream that are thrown away before its peer is told to stop."""
MAX_SECONDS = 10.0
"""Seconds for which a peer that goes on sending is let do so."""
MAX_STREAMS = 64
"""Streams of a connection that get new credit for what nobody reads, at a time."""
IDLE_SECONDS = 60.0
"""Seconds that a peer which sends nothing may take to close its side too."""


class _Entry:
    __slots__ = ("deadline", "framed", "left", "sends", "stream")

    def __init__(self, stream: MuxStream, now: float) -> None:
        self.stream = stream
        self.deadline = now + IDLE_SECONDS
        self.left = MAX_BYTES
        self.framed = stream.bytes_framed
        """What had left of our side when last looked."""
        self.sends = False
        """It has got new credit."""


class Lingering:
    """The closed streams of one connection whose peers have not closed them."""

    __slots__ = ("_entries", "_sending")

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._sending = 0

    def add(self, stream: MuxStream, now: float) -> None:
        """This side has closed a stream."""
        self._entries.setdefault(stream.id, _Entry(stream, now))

    def discard(self, stream: MuxStream) -> None:
        """The peer has ended the stream too, or was told to."""
        entry = self._entries.pop(stream.id, None)
        if entry is not None and entry.sends:
            self._sending -= 1

    def take(self, stream: MuxStream, size: int, now: float, *, wants_credit: bool) -> bool:
        """`size` bytes were thrown away; return whether the peer may send more.

        `wants_credit`: only if it gets new credit, so these were not just on their way.
        """
        entry = self._entries.get(stream.id)
        if entry is None:
            return False
        if wants_credit and not entry.sends:
            if self._sending >= MAX_STREAMS:
                return False
            self._sending += 1
            entry.sends = True
            entry.deadline = min(entry.deadline, now + MAX_SECONDS)
        entry.left -= size
        return entry.left > 0

    def due(self, now: float) -> list[MuxStream]:
        """The streams whose time is over.

        Not those whose last bytes still wait for their peer's credit: it cannot know yet that this
        side is done. Unless it sends and takes nothing, which would go on for ever.
        """
        over = []
        for entry in self._entries.values():
            if entry.deadline > now:
                continue
            stream = entry.stream
            if stream.fin_sent or (entry.sends and entry.framed == stream.bytes_framed):
                over.append(stream)
            else:
                entry.framed = stream.bytes_framed
                entry.deadline = now + (MAX_SECONDS if entry.sends else IDLE_SECONDS)
        return over
