"""Whose turn it is to send: streams that send little go before those that send much.

A stream that was idle counts as sparse for its next `SPARSE_BYTES`, at most once in
`SPARSE_INTERVAL`; beyond that it is heavy, and the heavy ones take turns, a frame each. So
a small call overtakes a bulk transfer without being marked by anybody. The sparse ones
cannot get ahead by more than `SPARSE_RUN` bytes, which leaves at least half of the
connection to the heavy ones. The idea is fq_codel's (RFC 8290).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

from lattica.nat.mux.stream_state import MuxStream

SPARSE_BYTES = 16 * 1024
SPARSE_INTERVAL = 0.005
SPARSE_RUN = 64 * 1024
_SMALLEST_COST = 12
"""Bytes that a frame counts for, however small: a header takes room too."""


class Senders:
    """The queue of streams that have something to send."""

    __slots__ = ("_clock", "_heavy", "_run", "_sparse")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sparse: deque[MuxStream] = deque()
        self._heavy: deque[MuxStream] = deque()
        self._run = 0
        """Bytes by which the sparse streams are ahead."""

    def __bool__(self) -> bool:
        return bool(self._sparse or self._heavy)

    def add(self, stream: MuxStream, *, was_idle: bool) -> None:
        """Queue a stream, unless it is queued already or has nothing to send.

        One that was idle until now, with nothing queued, may count as sparse again; what
        has a backlog is not sparse, however slow the connection.
        """
        if stream.scheduled or not stream.sendable:
            return
        stream.scheduled = True
        if was_idle:
            now = self._clock()
            if now >= stream.sparse_until:
                stream.sparse_left = SPARSE_BYTES
                stream.sparse_until = now + SPARSE_INTERVAL
        (self._sparse if stream.sparse_left > 0 else self._heavy).append(stream)

    @property
    def only_heavy(self) -> MuxStream | None:
        """The one stream that has something to send, if it is a heavy one and there is no other."""
        return self._heavy[0] if len(self._heavy) == 1 and not self._sparse else None

    @property
    def _queue(self) -> deque[MuxStream]:
        if self._sparse and not (self._heavy and self._run >= SPARSE_RUN):
            return self._sparse
        return self._heavy

    def first(self) -> tuple[MuxStream, int]:
        """The stream whose turn it is, and how many bytes it may send in it."""
        queue = self._queue
        stream = queue[0]
        return stream, stream.sparse_left if queue is self._sparse else sys.maxsize

    def finish_turn(self, sent: int | None) -> None:
        """End the first stream's turn, in which it sent a frame with that many bytes, or none."""
        queue = self._queue
        stream = queue.popleft()
        stream.scheduled = False
        if sent is None:
            return
        if queue is self._sparse:
            stream.sparse_left -= max(sent, _SMALLEST_COST)
            self._run = min(self._run + sent, SPARSE_RUN + SPARSE_BYTES)
        else:
            self._run = max(self._run - sent, 0)
