"""The memory that received and unread data may take, over all connections of a swarm."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from lattica.nat.base.limits.places import Held, yielding

if TYPE_CHECKING:
    from lattica.nat.mux.session import MuxSession
    from lattica.nat.mux.stream_state import MuxStream


class MemoryBudget:
    """Bytes received and not yet read, over all connections of a swarm."""

    __slots__ = ("limit", "orphans", "sessions", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.sessions: set[MuxSession] = set()
        self.orphans: WeakSet[MuxStream] = WeakSet()
        """Streams that their session has done with, and whose readers have not."""

    def make_room(self, size: int, now: float) -> list[MuxStream]:
        """Abort streams until `size` more bytes fit.

        Of the network that holds most, and there of the peer that does
        (:mod:`lattica.nat.base.limits.places`), those that have held most for longest. Not those
        that happen to receive next: whoever reads must not suffer from those who do not. An eighth
        is freed beyond that, as the search is work.
        """
        live = (stream for session in self.sessions for stream in session.streams.values())
        held = []
        for stream in (*live, *self.orphans):
            if weight := sum(map(len, stream.receive_queue)):
                rank = -weight * (now - stream.unread_since + 1.0)
                held.append(Held(stream, stream.session.source, weight, rank))
        aborted: list[MuxStream] = []
        for item in yielding(held):
            if self.used + size <= self.limit - self.limit // 8:
                break
            stream = item.holder
            stream.session.evict(stream)
            aborted.append(stream)
        return aborted
