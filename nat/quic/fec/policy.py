"""When a path deserves forward error correction, and how much.

CUBIC takes every loss for congestion. On a path that loses packets by itself its window
settles at about `1.054 · (RTT / p)^0.75` packets (RFC 9438, section 5.1), whatever the link
could carry: at 1% and 50 ms that is 3 Mbit/s. Repaired losses do not count, so `p` becomes the
rate of losses that could not be repaired, and the number of repairs is the smallest one that
lets CUBIC keep twice the window it has.

What must stay visible to CUBIC is congestion. A full queue shows as delay, so:

- a loss says something about the path only when no queue was near its recent length before it
  (one that overflows, however short, drops packets at its longest);
- while a queue stands, nothing is protected, until a loss has made CUBIC slow down: then, on a
  path known to lose packets, protection returns for two round trips, in which the queue drains;
- a path that loses more than `MAX_LOSS` is not helped at all.

So a protected flow reacts to a standing queue as an unprotected one does, one reduction per
round trip, and a path that loses nothing is left alone. A connection begins protected by a few
repairs, because a loss in slow start costs CUBIC many seconds; a path that proves clean loses
this after `PROVING` packets.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

MAX_GROUP = 64
"""Source packets in one group."""
MAX_LOSS = 0.12
LOWEST_LOSS = 5e-5
"""Below this share CUBIC needs no help."""
PROVING = 4000
"""Protected packets without a loss that prove a new path clean; also the estimate's memory."""
PROVING_AGAIN = 20_000
"""The same for a path that has lost packets before."""
SHORTEST_RTT = 0.008
"""On shorter paths CUBIC recovers quickly and packets come too fast for Python."""
LONGEST_SPAN = 0.010
_LEAST_WINDOW = 128
"""Packets that protection always leaves room for."""
_LEAST_SEEN = 500.0
"""Packets before which a share of losses means nothing."""
_PRIOR = 400.0
_PRIOR_LOSS = 0.01
_CREDIT = 0.3
"""Repairs earned by one source packet: the bound of the overhead."""
_MOST_CREDIT = 24.0
_MIN_RTT_AGE = 30.0
_NOISE = 0.0015
"""Seconds by which round-trip times differ without a queue."""
_PEAK_HALF_LIFE = 10.0
_REPORTED_WITHIN = 0.2
"""Seconds by which a report of a loss is late, besides the way."""
_ENOUGH_RUNS = 3
"""Runs of losses after which a path counts as one that loses packets."""


class PathState(NamedTuple):
    """What QUIC knows of the path that a connection is on."""

    lost: int
    """Packets declared lost since the connection began."""
    rtt: float | None
    """The latest round-trip time, seconds."""
    window: float
    """The congestion window, packets."""


@dataclass(frozen=True, slots=True)
class LossReport:
    """What a receiver has seen since it began, each modulo 2^32; a hint that nobody vouches for."""

    expected: int
    lost: int
    """Packets that did not arrive by themselves."""
    runs: int
    """How many uninterrupted rows of packets those were."""
    unrepaired: int


class LossEstimate:
    """Packets, losses and runs of losses; `PROVING` packets halve the weight of older ones."""

    __slots__ = ("expected", "lost", "runs")

    def __init__(self, expected: float = 0.0, lost: float = 0.0, runs: float = 0.0) -> None:
        self.expected = expected
        self.lost = lost
        self.runs = runs

    def add(self, expected: int, lost: int, runs: int) -> None:
        keep = 0.5 ** (expected / PROVING)
        self.expected = self.expected * keep + expected
        self.lost = self.lost * keep + lost
        self.runs = self.runs * keep + runs

    @property
    def share(self) -> float:
        return min(1.0, self.lost / self.expected) if self.expected else 0.0

    @property
    def burst(self) -> float:
        """Mean length of a run, >= 1."""
        return min(32.0, max(1.0, self.lost / self.runs)) if self.runs > 0.5 else 1.0


def repairs_needed(sources: int, share: float, burst: float, failures: float, most: int) -> int:
    """The fewest repairs after which a group of `sources` rarely stays incomplete.

    Bursts are taken to come independently and to have geometric lengths, so that the losses of a
    group follow a Pólya-Aeppli distribution.

    Args:
        share: of packets that are lost, 0 to 1.
        burst: mean length of a run of losses, >= 1.
        failures: incomplete groups per source packet that are put up with.
        most: the result is at most this.
    """
    stay = 1.0 - 1.0 / burst
    for repairs in range(most):
        rate = (sources + repairs) * share / burst
        term = math.exp(-rate)
        before, beyond = 0.0, 1.0 - term
        for n in range(1, repairs + 1):
            following = (rate * (1 - stay) + 2 * stay * (n - 1)) * term - stay**2 * (n - 2) * before
            before, term = term, following / n
            beyond -= term
        if beyond <= failures * sources:
            return repairs
    return most


class FecPolicy:
    """Decides for one path. All times are seconds of one clock."""

    def __init__(self) -> None:
        self._rtts: deque[tuple[float, float]] = deque()
        """The lowest round-trip times of late, rising from left to right."""
        self._min_rtt: float | None = None
        self._min_rtt_at = 0.0
        self._next_min: float | None = None
        self._peak = 0.0
        """The longest queue of late, seconds."""
        self._peak_at = 0.0
        self._crowded_at = -math.inf
        """When the queue last was longer than a quarter of that."""
        self._evidence = 0
        """Runs of losses that spoke for protection since it began."""
        self._window = float(_LEAST_WINDOW)
        self._lost_total = 0
        self._sent = 0
        self._on = True
        self._estimate = LossEstimate(_PRIOR, _PRIOR * _PRIOR_LOSS, _PRIOR * _PRIOR_LOSS)
        self._unproven = 0
        """Protected packets without a queue since a loss last spoke for protection."""
        self._visible = LossEstimate(_LEAST_SEEN)
        """What QUIC itself saw while nothing was protected."""
        self._last: LossReport | None = None
        self._protected_until = 0.0
        self._credit = 4.0

    def sent(self, packets: int, protected: int) -> None:
        """So many packets went out, repairs not counted, and so many of them in groups."""
        self._sent += packets
        if not self.queued:
            self._unproven += protected

    def observe(self, now: float, path: PathState) -> None:
        """Take what QUIC knows."""
        self._window = max(path.window, _LEAST_WINDOW)
        if path.rtt is not None:
            self._add_rtt(now, path.rtt)
        lost, self._lost_total = max(0, path.lost - self._lost_total), path.lost
        if lost and self.queued and self._evidence >= _ENOUGH_RUNS:
            self._protected_until = now + 2 * self._recent_rtt
        if not self._on and self._clear(now):
            self._visible.add(self._sent, lost, 1 if lost else 0)
            if self._visible.runs > 1.5 and LOWEST_LOSS * 2 < self._visible.share < MAX_LOSS:
                seen = self._visible
                self._estimate = LossEstimate(seen.expected, seen.lost, seen.runs)
                self._on, self._unproven = True, 0
        self._sent = 0

    def report(self, now: float, report: LossReport) -> None:
        """What the receiver says; ignored where it makes no sense."""
        last, self._last = self._last, report
        if last is None:
            last = LossReport(0, 0, 0, 0)
        expected = report.expected - last.expected & 0xFFFFFFFF
        lost = report.lost - last.lost & 0xFFFFFFFF
        runs = report.runs - last.runs & 0xFFFFFFFF
        if not (0 < expected < 1 << 20 and runs <= lost <= expected) or not self._on:
            return
        if not self._clear(now) or lost > MAX_LOSS * max(expected, 100):
            return
        self._estimate.add(expected, lost, runs)
        if lost and self._estimate.share > LOWEST_LOSS:
            self._unproven = 0
            self._evidence += runs
        if self._unproven > self._proving() or self._estimate.share > MAX_LOSS:
            self._end()

    def protecting(self, now: float) -> bool:
        """Whether packets that are sent now belong into groups."""
        if self._min_rtt is None or self._min_rtt < SHORTEST_RTT or not self._on:
            return False
        if self._unproven > 2 * self._proving():
            self._end()  # nobody reports, or never without a queue
            return False
        return not self.queued or now < self._protected_until

    def repairs(self, sources: int, most: int) -> int:
        """How many repairs to send after a group of so many packets."""
        self._credit = min(_MOST_CREDIT, self._credit + _CREDIT * sources)
        most = min(most, int(self._credit))
        rtt = self._min_rtt or SHORTEST_RTT
        failures = rtt * (1.054 / (2 * self._window)) ** (4 / 3)
        estimate = self._estimate
        wanted = repairs_needed(sources, estimate.share, estimate.burst, failures, most)
        self._credit -= wanted
        return wanted

    def _proving(self) -> int:
        return PROVING_AGAIN if self._evidence >= _ENOUGH_RUNS else PROVING

    def _end(self) -> None:
        self._on, self._evidence = False, 0
        self._visible = LossEstimate(_LEAST_SEEN)

    @property
    def span(self) -> float:
        """Seconds from the first packet of a group to its repairs, at most."""
        return min(LONGEST_SPAN, (self._min_rtt or 0.0) / 5)

    @property
    def queued(self) -> bool:
        """A queue stands on the path: no recent round trip was near the shortest one."""
        if self._min_rtt is None:
            return False
        return self._queue > max(0.005, self._min_rtt / 8)

    def _clear(self, now: float) -> bool:
        """Losses that are heard of now are not those of a queue that overflowed."""
        return now - self._crowded_at > _REPORTED_WITHIN + 2 * (self._min_rtt or 0.0)

    @property
    def _queue(self) -> float:
        return self._recent_rtt - (self._min_rtt or 0.0)

    @property
    def _recent_rtt(self) -> float:
        """The lowest of about the last round trip."""
        return self._rtts[0][1] if self._rtts else 0.0

    def _add_rtt(self, now: float, rtt: float) -> None:
        rtts = self._rtts
        while rtts and rtts[-1][1] >= rtt:
            rtts.pop()
        rtts.append((now, rtt))
        oldest = now - max(0.03, self._min_rtt or 0.0)
        while rtts[0][0] < oldest:
            rtts.popleft()
        # The path may have changed: a minimum counts for one to two ages.
        self._next_min = rtt if self._next_min is None else min(rtt, self._next_min)
        if self._min_rtt is None or rtt <= self._min_rtt:
            self._min_rtt, self._min_rtt_at = rtt, now
        elif now - self._min_rtt_at > _MIN_RTT_AGE:
            self._min_rtt, self._min_rtt_at, self._next_min = self._next_min, now, None
        self._peak *= 0.5 ** ((now - self._peak_at) / _PEAK_HALF_LIFE)
        self._peak, self._peak_at = max(self._peak, self._queue), now
        if self.queued or self._queue > max(_NOISE, self._peak / 4):
            self._crowded_at = now
