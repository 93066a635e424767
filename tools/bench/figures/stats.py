"""From single readings to what is shown: medians, ratios, the JSON lines."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools.bench.cases import Case


@dataclass(frozen=True, slots=True)
class Measurement:
    """One case of one implementation: the median of its readings.

    `note` says what was really done, and by which version.
    """

    case: Case
    impl: str
    value: float
    samples: tuple[float, ...]
    note: str


def summarize(case: Case, impl: str, samples: Sequence[float], note: str) -> Measurement:
    """The median of `samples`. Raises ValueError if there is none, or one is not a number."""
    if not samples:
        raise ValueError(f"{case.name}: {impl} yielded no reading")
    if not all(math.isfinite(sample) for sample in samples):
        raise ValueError(f"{case.name}: {impl} yielded {list(samples)}")
    return Measurement(case, impl, statistics.median(samples), tuple(samples), note)


def rounded(value: float) -> float:
    """Four significant digits: more is noise."""
    if value == 0:
        return 0.0
    return round(value, 3 - math.floor(math.log10(abs(value))))


def json_line(measurement: Measurement) -> str:
    """One JSON object; `bench`, `case`, `impl`, `value` and `unit` are the contract."""
    return json.dumps(
        {
            "bench": measurement.case.bench,
            "case": measurement.case.name,
            "impl": measurement.impl,
            "value": rounded(measurement.value),
            "unit": measurement.case.unit,
            "better": measurement.case.better,
            "samples": [rounded(sample) for sample in measurement.samples],
            "note": measurement.note,
        }
    )


def ratio(ours: Measurement, peer: Measurement) -> float | None:
    """Ours over the peer's, as figures; None where the peer's is nothing."""
    return ours.value / peer.value if peer.value > 0 else None


def is_better(ours: Measurement, peer: Measurement) -> bool:
    """Whether ours is at least as good, in the direction that the case counts as better."""
    if ours.case.better == "higher":
        return ours.value >= peer.value
    return ours.value <= peer.value


def by_case(measurements: Iterable[Measurement]) -> dict[Case, dict[str, Measurement]]:
    """Measurements of each case by implementation, in the order they came."""
    table: dict[Case, dict[str, Measurement]] = {}
    for measurement in measurements:
        table.setdefault(measurement.case, {})[measurement.impl] = measurement
    return table
