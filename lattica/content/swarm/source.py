"""One who is asked for pieces: what it has, how fast it brings them, whether it is relied on. Pure.

Time is passed in, as in :mod:`.schedule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lattica.content.protocol import MAX_SPAN_BYTES

QUIET = 2.0
"""Seconds without a byte after which nobody relies on a source any more."""
_HORIZON = 0.5
"""Seconds of a source's work that are asked of it ahead, however soon answers come: they may be
delayed."""
_MOST_HORIZON = 4 * MAX_SPAN_BYTES
"""Bytes that this is at most: what is on the way when a fetch is killed has to be sent again."""
_LEAST_WINDOW = 2 * MAX_SPAN_BYTES
_RATE_MEMORY = 1.5
"""Seconds over which a source's rate is averaged."""
_RATE_SAMPLE = 0.1
_LEAST_SAMPLE = 16 * 1024
"""Bytes from which on a rate is measured soon: a refusal has a few, and says nothing about it."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """How a source does."""

    rate: float | None
    """Bytes a second; None before anything has come."""
    in_flight: int
    """Bytes that it was asked for."""
    pieces: int | None
    """How many it has; None: all."""


@dataclass(slots=True)
class Source:
    """What is known of one source."""

    chunks: int | None
    """Bits of the chunks that it has; None: all."""
    has: int
    """The same in pieces; -1 is all of them."""
    heard_at: float
    sampled_at: float
    most: int
    """Bytes that it may be asked for ahead."""
    asked: dict[int, float] = field(default_factory=dict)
    """When pieces were asked for, in that order."""
    in_flight: int = 0
    window: int = MAX_SPAN_BYTES
    rate: float | None = None
    """Bytes a second while something was asked for."""
    fastest: float = math.inf
    """Seconds from asking to having."""
    latest: float = 0.0
    """The same of the last piece."""
    sample: int = 0
    is_silent: bool = False
    is_away: bool = False
    """Its stream has ended, and nobody has looked for something to ask of it since."""
    next_steal: float = 0.0
    deferrals: dict[int, int] = field(default_factory=dict)
    """How often it said of a piece that another was about to have it."""
    unkept: int = 0
    """Pieces that it said it had, and did not send when it was asked."""
    told_at: float = -math.inf
    """When it said last that it has got something."""

    @property
    def state(self) -> SourceState:
        """How it does."""
        pieces = None if self.chunks is None else self.has.bit_count()
        return SourceState(self.rate, self.in_flight, pieces)

    def eta(self, size: int) -> float:
        """Seconds until it has brought `size` bytes more than are asked for."""
        return math.inf if not self.rate else (self.in_flight + size) / self.rate

    def is_reliable(self, now: float) -> bool:
        """It brings what is asked of it, as far as can be seen."""
        return not (self.is_silent or self.is_away) and (
            not self.in_flight or now - self.heard_at < QUIET
        )

    def ask(self, piece: int, size: int, now: float) -> None:
        """It is asked for a piece."""
        if not self.in_flight:
            self.heard_at = self.sampled_at = now
            self.sample = 0
        self.asked[piece] = now
        self.in_flight += size

    def came(self, count: int, now: float) -> None:
        """Bytes have come."""
        self.heard_at = now
        self.sample += count
        if self.sample >= _LEAST_SAMPLE or now - self.sampled_at > QUIET:
            self._measure(now, _RATE_SAMPLE)

    def arrived(self, piece: int, now: float) -> bool:
        """A whole piece is here; whether it was asked for."""
        if self.rate is None:
            self._measure(now, 0.0)
        asked = self.asked.get(piece)
        if asked is None:
            return False
        self.latest = now - asked
        self.fastest = min(self.fastest, self.latest)
        return True

    def widen(self, size: int) -> None:
        """Ask for more ahead, after a piece of so many bytes."""
        rate = self.rate or 0.0
        horizon = max(min(_HORIZON * rate, _MOST_HORIZON), 2 * self.fastest * rate)
        most = min(self.most, max(_LEAST_WINDOW, int(horizon)))
        self.window = min(self.window + size, most)

    def forget_sample(self, now: float) -> None:
        """Until now it was not the source that was slow, unless much has come."""
        if self.sample < _LEAST_SAMPLE:
            self.sampled_at, self.sample = now, 0

    def _measure(self, now: float, least: float) -> None:
        passed = now - self.sampled_at
        if passed < least or passed <= 0:
            return
        rate = self.sample / passed
        weight = 1.0 if self.rate is None else 1 - math.exp(-passed / _RATE_MEMORY)
        self.rate = rate if self.rate is None else self.rate + weight * (rate - self.rate)
        self.sampled_at, self.sample = now, 0
