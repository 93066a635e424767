"""Shaper: one direction of a link as :class:`LinkSpec` describes it. Pure.

A packet that is offered may be lost or doubled, waits in a queue for its turn on the link, is
sent at the link's rate, and comes out after the delay. Times are seconds on any clock that does
not run backwards. What comes out depends on the offers, the spec and the random numbers only,
not on how often anybody looks: each packet has an exact time at which it is due.

A packet may be a *train* of several that travel together (segmentation offload), if the caller
keeps trains within `train_bytes`; it counts as its bytes on the wire.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from tools.netlab.spec.link import LinkSpec

# What may be on a link, waiting or on its way: the bound on its memory.
MAX_IN_FLIGHT_BYTES: Final = 256 << 20
# Trains take less than this to send: the grain of a shaped link.
TRAIN: Final = 0.0005
"""Seconds."""
# Normal jitter is cut off at so many standard deviations.
NORMAL_CUT: Final = 4.0

NEVER: Final = float("inf")
_SKIPS: Final = -1.0  # the latency of a packet that overtakes those on their way

PacketT = TypeVar("PacketT")


@dataclass(slots=True)
class ShaperStats:
    """What became of the packets (a train counts as one) that were offered to a shaper.

    Once nothing is in flight, offered + duplicated = delivered + lost + overflowed + cut.
    overflowed: dropped at the end of a full queue, or because too much was on the link
    (MAX_IN_FLIGHT_BYTES). cut: lost because the link was or went down.
    """

    offered: int = 0
    offered_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    lost: int = 0
    duplicated: int = 0
    overflowed: int = 0
    cut: int = 0


class Shaper(Generic[PacketT]):
    """One direction of a link. Packets are opaque; their bytes on the wire are given with them."""

    def __init__(self, spec: LinkSpec, rng: random.Random) -> None:
        self.spec = spec
        self.stats = ShaperStats()
        self.up = True
        self._rng = rng
        self._in_burst = False
        # Waiting for the link: (packet, bytes, latency after the link). The first is being sent.
        self._queue: deque[tuple[PacketT, int, float]] = deque()
        self._queued_bytes = 0
        self._sent_at = 0.0  # when the first will have been sent
        # On their way: (due, sequence, packet, bytes). The line is in order of time; those that
        # are due earlier than the last in line are in the heap.
        self._line: deque[tuple[float, int, PacketT, int]] = deque()
        self._early: list[tuple[float, int, PacketT, int]] = []
        self._sequence = 0
        self._last_due = 0.0
        self._flying_bytes = 0
        self._adopt(spec)

    def _adopt(self, spec: LinkSpec) -> None:
        self.spec = spec
        self._per_packet = spec.is_per_packet
        self._largest = spec.largest
        self._delay_s = spec.delay_s
        self._seconds_per_byte = 0.0 if spec.rate_bps is None else 8 / spec.rate_bps
        self._limit = spec.queue_limit_bytes
        # Whether packets may overtake each other, so that the queue must be looked at each time.
        self._overtakes = spec.reorder > 0 or spec.jitter_reorders

    @property
    def train_bytes(self) -> int | None:
        """The longest train that may be offered; 1 is "no trains", None without limit."""
        if self._per_packet:
            return 1
        if self.spec.rate_bps is None:
            return None
        return max(1, int(min(TRAIN / self._seconds_per_byte, self._limit / 4)))

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for the link, the packet that is being sent included."""
        return self._queued_bytes

    def enqueue(self, now: float, packet: PacketT, size: int) -> None:
        """Offer a packet of `size` bytes to the link at time `now`."""
        stats = self.stats
        stats.offered += 1
        stats.offered_bytes += size
        if not self.up:
            stats.cut += 1
            return
        if not self._per_packet:
            self._admit(now, packet, size, self._delay_s)
            return
        if (self._largest is not None and size > self._largest) or self._is_lost():
            stats.lost += 1
            return
        self._admit(now, packet, size, self._latency())
        if self.spec.duplicate and self._rng.random() < self.spec.duplicate:
            stats.duplicated += 1
            self._admit(now, packet, size, self._latency())

    def dequeue(self, now: float) -> list[PacketT]:
        """The packets that have come out of the link by `now`, in the order of their times."""
        if self._queue:
            self._send(now)
        line, early = self._line, self._early
        if not early:
            # Nearly always: nothing overtakes.
            due: list[PacketT] = []
            size = 0
            while line and line[0][0] <= now:
                entry = line.popleft()
                size += entry[3]
                due.append(entry[2])
        else:
            entries = []
            while line and line[0][0] <= now:
                entries.append(line.popleft())
            while early and early[0][0] <= now:
                entries.append(heapq.heappop(early))
            entries.sort(key=lambda entry: entry[:2])
            due = [entry[2] for entry in entries]
            size = sum(entry[3] for entry in entries)
        self._flying_bytes -= size
        self.stats.delivered += len(due)
        self.stats.delivered_bytes += size
        return due

    def next_due(self) -> float:
        """When :meth:`dequeue` should be called next; NEVER (infinite) while all is quiet."""
        due = self._line[0][0] if self._line else NEVER
        if self._early and self._early[0][0] < due:
            due = self._early[0][0]
        if self._queue:
            sent = self._sent_at if self._overtakes else self._sent_at + self._queue[0][2]
            due = min(due, sent)
        return due

    def change(self, now: float, spec: LinkSpec) -> None:
        """The link is another one from `now` on.

        What has been sent keeps its time of arrival, as on a path that changes (so packets of a
        shorter path may overtake). What waits for the link is sent at the new rate; it is not
        dropped if the new queue is shorter.
        """
        self._send(now)
        old = self._seconds_per_byte
        self._adopt(spec)
        if self._queue:
            # The part of the first packet that has not been sent yet takes the new time.
            self._sent_at = now + (self._sent_at - now) / old * self._seconds_per_byte
            self._queue = deque((packet, size, self._latency()) for packet, size, _ in self._queue)
        self._last_due = 0.0
        self._send(now)

    def set_up(self, now: float, up: bool) -> None:
        """Take the link down (all that is on it is lost) or up again."""
        if not up:
            self._send(now)
            self.stats.cut += len(self._queue) + len(self._line) + len(self._early)
            self._queue.clear()
            self._line.clear()
            self._early.clear()
            self._queued_bytes = self._flying_bytes = 0
        self.up = up

    # --- stages ----------------------------------------------------------------------------------

    def _admit(self, now: float, packet: PacketT, size: int, latency: float) -> None:
        """Queue (or, without a rate, send at once) a packet that is not lost."""
        if self._flying_bytes + self._queued_bytes + size > MAX_IN_FLIGHT_BYTES:
            self.stats.overflowed += 1
            return
        if not self._seconds_per_byte and not self._queue:
            self._launch(now, latency, packet, size)
            return
        self._send(now)
        if self._queue:
            if self._queued_bytes + size > self._limit:
                self.stats.overflowed += 1
                return
        else:
            # An idle link takes a packet whatever the queue is: it does not wait.
            self._sent_at = now + size * self._seconds_per_byte
        self._queue.append((packet, size, latency))
        self._queued_bytes += size

    def _send(self, now: float) -> None:
        """Let the link send what it can have sent by `now`."""
        queue = self._queue
        while queue and self._sent_at <= now:
            packet, size, latency = queue.popleft()
            self._queued_bytes -= size
            self._launch(self._sent_at, latency, packet, size)
            if queue:
                self._sent_at += queue[0][1] * self._seconds_per_byte

    def _launch(self, sent: float, latency: float, packet: PacketT, size: int) -> None:
        """Put a packet, sent at `sent`, on its way."""
        skips = latency == _SKIPS
        due = sent if skips else sent + latency
        if not skips and not self.spec.jitter_reorders:
            if due < self._last_due:
                due = self._last_due
            self._last_due = due
        self._flying_bytes += size
        self._sequence += 1
        entry = (due, self._sequence, packet, size)
        if not self._line or due >= self._line[-1][0]:
            self._line.append(entry)
        else:
            heapq.heappush(self._early, entry)

    # --- chance ----------------------------------------------------------------------------------

    def _is_lost(self) -> bool:
        spec, rng = self.spec, self._rng
        burst = spec.burst
        lost = False
        if burst is not None:
            change = burst.leave if self._in_burst else burst.enter
            if change and rng.random() < change:
                self._in_burst = not self._in_burst
            chance = burst.loss_bad if self._in_burst else burst.loss_good
            lost = chance > 0 and rng.random() < chance
        if spec.loss and rng.random() < spec.loss:
            lost = True
        return lost

    def _latency(self) -> float:
        spec, rng = self.spec, self._rng
        if spec.reorder and rng.random() < spec.reorder:
            return _SKIPS
        if not spec.jitter_s:
            return spec.delay_s
        if spec.jitter_shape == "uniform":
            return spec.delay_s + spec.jitter_s * (2 * rng.random() - 1)
        offset = rng.gauss(0.0, spec.jitter_s)
        return max(0.0, spec.delay_s + min(offset, NORMAL_CUT * spec.jitter_s))
