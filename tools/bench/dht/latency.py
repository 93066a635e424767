"""How long packets take between places of the world.

Round trips between regions are what clouds publish between theirs, rounded; what a host's own
access adds is log-normal, with a median of 8 ms.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

REGIONS = ("na-east", "na-west", "europe", "asia-east", "asia-south", "south-america", "oceania")
SHARES = (0.22, 0.13, 0.30, 0.18, 0.08, 0.05, 0.04)
"""Of all nodes, by region."""
ROUND_TRIPS = (
    (20, 65, 85, 170, 200, 120, 205),
    (65, 20, 145, 115, 220, 175, 145),
    (85, 145, 20, 230, 120, 190, 270),
    (170, 115, 230, 40, 90, 270, 120),
    (200, 220, 120, 90, 30, 300, 150),
    (120, 175, 190, 270, 300, 30, 310),
    (205, 145, 270, 120, 150, 310, 20),
)
"""Milliseconds from region to region."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is."""

    region: int
    access: float
    """Seconds that its access adds each way."""

    @classmethod
    def random(cls, rng: random.Random) -> Place:
        region = rng.choices(range(len(REGIONS)), SHARES)[0]
        return cls(region, min(rng.lognormvariate(0.0, 0.7) * 0.004, 0.1))


def one_way(source: Place, target: Place, rng: random.Random) -> float:
    """Seconds of one packet, with a jitter of up to a fifth."""
    path = ROUND_TRIPS[source.region][target.region] / 2000
    return (path + source.access + target.access) * rng.uniform(1.0, 1.2)
