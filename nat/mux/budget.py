"""The memory that received and unread data may take, over all connections of a swarm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from weakref import WeakSet

from lattica.nat.base.limits.places import Held, Shares, Source, yielding
from lattica.nat.config import KIB

if TYPE_CHECKING:
    from lattica.nat.mux.session import MuxSession
    from lattica.nat.mux.stream_state import MuxStream

_ORPHANS = 16
"""The part of the memory, one of so many, that connections which have ended may leave unread."""
_WAITING = 2
"""The part of the memory, one of so many, beyond which who has most may leave no more data that
waits for what is missing before it."""
_ONE_STREAM = 256 * KIB
"""Bytes that are left in any case: as much as one stream may bring without any window update."""


class MemoryBudget:
    """Bytes received and not yet read, over all connections of a swarm."""

    __slots__ = ("_waiting", "hits", "limit", "orphans", "sessions", "used", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.hits = 0
        """How often it did not suffice."""
        self.sessions: set[MuxSession] = set()
        self.orphans: WeakSet[MuxStream] = WeakSet()
        """Streams that their session has done with, and whose readers have not."""
        self.waiting = 0
        """Bytes besides that wait for what is missing before them, as far as that is seen."""
        self._waiting = Shares()

    def note_waiting(self, source: Source, size: int) -> None:
        """Of a source so many more bytes wait for what is missing before them, or less."""
        self.waiting += size
        self._waiting.add(source, size)

    def is_too_much_waiting(self, source: Source) -> bool:
        """Whether so much waits that who has most of it is to leave no more, and is this source:
        the peer that has most in the network that has.
        """
        return (
            self.waiting > self.limit // _WAITING
            and self._waiting.largest_network() == source.network
            and self._waiting.of_peer(source) >= self._waiting.largest_peer(source.network)
        )

    def make_room(self, size: int, now: float) -> list[MuxStream]:
        """Abort streams until `size` more bytes fit.

        Of the network that holds most, and there of the peer that does
        (:mod:`lattica.nat.base.limits.places`), those that have held most for longest. Not those
        that happen to receive next: whoever reads must not suffer from those who do not. An eighth
        is freed beyond that, as the search is work.
        """
        self.hits += 1
        live = (stream for session in self.sessions for stream in session.streams.values())
        return _abort(
            (*live, *self.orphans),
            now,
            enough=lambda _: self.used + size <= self.limit - self.limit // 8,
        )

    def limit_orphans(self, now: float) -> list[MuxStream]:
        """Abort streams of connections that have ended until they hold no more than their part.

        Their readers may never come, and nobody tells them to.
        """
        left = sum(sum(map(len, stream.receive_queue)) for stream in self.orphans)
        allowed = max(self.limit // _ORPHANS, _ONE_STREAM)
        return (
            []
            if left <= allowed
            else _abort(self.orphans, now, enough=lambda freed: left - freed <= allowed)
        )


def _abort(
    streams: Iterable[MuxStream], now: float, enough: Callable[[int], bool]
) -> list[MuxStream]:
    """Abort those that yield first, until that is enough, by the bytes that it has freed."""
    held = []
    for stream in streams:
        if weight := sum(map(len, stream.receive_queue)):
            rank = -weight * (now - stream.unread_since + 1.0)
            held.append(Held(stream, stream.session.source, weight, rank))
    aborted: list[MuxStream] = []
    freed = 0
    for item in yielding(held):
        if enough(freed):
            break
        stream = item.holder
        stream.session.evict(stream)
        aborted.append(stream)
        freed += item.weight
    return aborted
