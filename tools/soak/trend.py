"""Whether a figure grows: a straight line through its floor. Pure.

What a process holds goes up and down with its work. A leak shows in what it does not get below: so
the time is cut into equal parts, the least of each counts, and least squares give the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression

PARTS = 20
WARMUP = 1 / 3
"""Of the time: caches and pools fill, and memory is laid out."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How much a figure may grow in the time that is judged.

    at_least: in its own unit; share: of what it was at the start. The larger of the two counts.
    """

    at_least: float
    share: float


@dataclass(frozen=True, slots=True)
class Trend:
    """What became of a figure in the time that is judged."""

    seconds: float
    start: float
    """By the line, at the beginning and the end of that time."""
    end: float
    bound: float
    """How much more than at the start it may be at the end."""

    @property
    def growth(self) -> float:
        return self.end - self.start

    @property
    def per_hour(self) -> float:
        return self.growth / self.seconds * 3600 if self.seconds else 0.0

    @property
    def is_flat(self) -> bool:
        return self.growth <= self.bound


def floor_of(
    samples: Sequence[tuple[float, float]], parts: int = PARTS
) -> list[tuple[float, float]]:
    """The least of each part of the time that has any: (middle of the part, value)."""
    begin, end = samples[0][0], samples[-1][0]
    width = (end - begin) / parts
    if width <= 0:
        return [samples[0]]
    least: dict[int, float] = {}
    for t, value in samples:
        part = min(parts - 1, int((t - begin) / width))
        least[part] = min(value, least.get(part, value))
    return [(begin + (part + 0.5) * width, value) for part, value in sorted(least.items())]


def trend(
    samples: Sequence[tuple[float, float]], bound: Bound, warmup: float = WARMUP
) -> Trend | None:
    """Judge samples (seconds, value) in the order of time, without the first `warmup` of the time.

    None: there are too few for a line.
    """
    if not samples:
        return None
    begin, end = samples[0][0], samples[-1][0]
    judged = [each for each in samples if each[0] >= begin + (end - begin) * warmup]
    points = floor_of(judged)
    if len(points) < 3:
        return None
    slope, at_zero = linear_regression(*zip(*points, strict=True))
    first, last = judged[0][0], judged[-1][0]
    start = at_zero + slope * first
    allowed = max(bound.at_least, bound.share * start)
    return Trend(last - first, start, at_zero + slope * last, allowed)
