"""Whose turn it is to send: streams that send little go before those that send much.

A stream that was idle counts as sparse for its next `SPARSE_BYTES`, at most once in
`SPARSE_INTERVAL`; beyond that it is heavy, and the heavy ones take turns, a frame each. So
a small call overtakes a bulk transfer without being marked by anybody. The sparse ones
cannot get ahead by more than `SPARSE_RUN` bytes, which leaves at least half of the
connection to the heavy ones. The idea is fq_codel's (RFC 8290).

A heavy one that has much in one piece may send a long frame in its turn, which costs both sides
less. What that was more than a turn it pays with turns that it lets pass, so that shares are equal.

That is among streams of normal :class:`~lattica.nat.mux.priority.Priority`. High ones go before all
of these, and low ones after; but for every `SHARE` bytes that went before it, one turn goes to what
waits, so that nothing starves.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

from lattica.nat.mux.priority import Priority
from lattica.nat.mux.stream_state import MuxStream

SHARE = 1024 * 1024
SPARSE_BYTES = 16 * 1024
SPARSE_INTERVAL = 0.005
SPARSE_RUN = 64 * 1024
_TURN = 64 * 1024
"""Bytes of a frame that is not long."""
_SMALLEST_COST = 12
"""Bytes that a frame counts for, however small: a header takes room too."""


class Senders:
    """The queue of streams that have something to send."""

    __slots__ = (
        "_clock",
        "_ended",
        "_heavy",
        "_high",
        "_low",
        "_low_waits",
        "_others_wait",
        "_run",
        "_sparse",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ended = False
        self._sparse: deque[MuxStream] = deque()
        self._heavy: deque[MuxStream] = deque()
        self._high: deque[MuxStream] = deque()
        self._low: deque[MuxStream] = deque()
        self._others_wait = 0
        """Bytes of high priority since the last turn of another one."""
        self._low_waits = 0
        """Bytes of others since the last turn of low priority."""
        self._run = 0
        """Bytes by which the sparse streams are ahead."""

    def __bool__(self) -> bool:
        return bool(self._sparse or self._heavy or self._high or self._low)

    @property
    def is_one(self) -> bool:
        """A single stream waits."""
        return len(self._sparse) + len(self._heavy) + len(self._high) + len(self._low) == 1

    def add(self, stream: MuxStream, *, was_idle: bool) -> None:
        """Queue a stream, unless it is queued already or has nothing to send.

        One that was idle until now, with nothing queued, may count as sparse again; what
        has a backlog is not sparse, however slow the connection.
        """
        if stream.scheduled or self._ended or not stream.sendable:
            return
        stream.scheduled = True
        if stream.priority != Priority.NORMAL:
            (self._high if stream.priority == Priority.HIGH else self._low).append(stream)
            return
        if was_idle:
            now = self._clock()
            if now >= stream.sparse_until:
                stream.sparse_left = SPARSE_BYTES
                stream.ahead = 0
                stream.sparse_until = now + SPARSE_INTERVAL
        (self._sparse if stream.sparse_left > 0 else self._heavy).append(stream)

    def end(self) -> None:
        """Nobody sends any more: hold no stream, now or later, for each holds the session."""
        self._ended = True
        for queue in (self._sparse, self._heavy, self._high, self._low):
            queue.clear()

    def set_priority(self, stream: MuxStream, priority: Priority) -> None:
        """Give a stream another priority, also one that waits for its turn."""
        if stream.scheduled:
            for queue in (self._sparse, self._heavy, self._high, self._low):
                if stream in queue:
                    queue.remove(stream)
            stream.scheduled = False
        stream.priority = priority
        self.add(stream, was_idle=False)

    @property
    def long_turn(self) -> tuple[MuxStream, bool] | None:
        """The stream that may send a long frame now, and whether it is alone; None: nobody may.

        Sparse ones never do, nor does anybody while streams of several priorities wait.
        """
        waiting = len(self._high) + len(self._heavy) + len(self._low)
        if self._sparse or not waiting or (waiting > 1 and (self._high or self._low)):
            return None
        return self.first()[0], waiting == 1

    @property
    def _queue(self) -> deque[MuxStream]:
        return self._by_priority if self._high or self._low else self._normal

    @property
    def _by_priority(self) -> deque[MuxStream]:
        normal = self._sparse or self._heavy
        if self._high and (self._others_wait < SHARE or not (normal or self._low)):
            return self._high
        due = 2 * SHARE if self._high else SHARE  # what high ones leave is for both
        if self._low and (self._low_waits >= due or not normal):
            return self._low
        return self._normal

    @property
    def _normal(self) -> deque[MuxStream]:
        if self._sparse and not (self._heavy and self._run >= SPARSE_RUN):
            return self._sparse
        return self._heavy

    def first(self) -> tuple[MuxStream, int]:
        """The stream whose turn it is, and how many bytes it may send in it."""
        queue = self._queue
        if queue is self._sparse:
            return queue[0], queue[0].sparse_left
        while (ahead := queue[0].ahead) > 0:
            queue[0].ahead = ahead - _TURN if len(queue) > 1 else 0
            queue.rotate(-1)
        return queue[0], sys.maxsize

    def end_sparse(self) -> None:
        """What the first stream, a sparse one, has to send is too much for that: it is heavy."""
        stream = self._sparse.popleft()
        stream.sparse_left = 0
        self._heavy.append(stream)

    def finish_turn(self, sent: int | None) -> None:
        """End the first stream's turn, in which it sent a frame with that many bytes, or none."""
        queue = self._queue
        stream = queue.popleft()
        stream.scheduled = False
        if sent is None:
            return
        if self._high or self._low or queue is self._high or queue is self._low:
            self._others_wait = self._others_wait + sent if queue is self._high else 0
            self._low_waits = 0 if queue is self._low else self._low_waits + sent
            if queue is self._high or queue is self._low:
                return
        if queue is self._sparse:
            stream.sparse_left -= max(sent, _SMALLEST_COST)
            self._run = min(self._run + sent, SPARSE_RUN + SPARSE_BYTES)
        else:
            self._run = max(self._run - sent, 0)
