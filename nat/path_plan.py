"""When to look for a direct path to a peer that is reached through a relay: the plan. Pure.

The first attempt is made at once. Those that fail are repeated after delays that double, with
jitter, and then no more: a pair that has no direct path must not be probed for ever. A change of
either's network, or a direct path that there was and is no more, starts this anew.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from lattica.nat.config_checks import require, require_seconds


@dataclass(frozen=True, slots=True)
class PathConfig:
    """How a node gets from a relayed path to a direct one, and back."""

    enabled: bool = True
    """Look for direct paths at all."""
    attempts: int = 8
    """Attempts in a row that may fail, each with all ways at once."""
    first_delay: float = 1.0
    """Seconds after the first failure; it doubles with each further one."""
    longest_delay: float = 300.0
    timeout: float = 40.0
    """Seconds for one attempt."""
    grace: float = 0.25
    """Seconds that a better way may take once another has succeeded."""
    max_concurrent: int = 16
    """Peers that are worked on at a time."""
    probe_timeout: float = 3.0
    """Seconds for a sign of life of a connection that may be dead."""

    def __post_init__(self) -> None:
        for name in ("first_delay", "longest_delay", "timeout", "grace", "probe_timeout"):
            require_seconds(name, getattr(self, name))
        require(self.attempts >= 1, "attempts", "at least 1", self.attempts)
        require(self.max_concurrent >= 1, "max_concurrent", "at least 1", self.max_concurrent)


@dataclass(frozen=True, slots=True)
class WayReport:
    """What came of one way to a direct connection, the last time it was tried."""

    name: str
    ok: bool
    reason: str
    """Why not; empty if it worked."""
    applicable: bool = True
    """Whether it can work for this pair of peers at all."""


class PathPlan:
    """One relayed peer, from the first attempt to the last. Times in seconds."""

    def __init__(self, now: float, config: PathConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._failures = 0
        self.next_attempt = now
        """Infinite: none, unless something changes."""
        self.reports: tuple[WayReport, ...] = ()
        """Of the last attempt."""

    def failed(self, now: float, reports: Mapping[str, WayReport]) -> None:
        """An attempt has ended without a direct connection."""
        self.reports = tuple(reports.values())
        self._failures += 1
        if self._failures >= self._config.attempts or not any(r.applicable for r in self.reports):
            self.next_attempt = math.inf
            return
        delay = self._config.first_delay * 2.0 ** min(self._failures - 1, 64)
        longest = min(delay, self._config.longest_delay)
        self.next_attempt = now + longest * self._rng.uniform(0.5, 1.0)

    def succeeded(self, reports: Mapping[str, WayReport]) -> None:
        """There is a direct connection. Should it end, :meth:`renew` starts anew."""
        self.reports = tuple(reports.values())
        self._failures = 0
        self.next_attempt = math.inf

    def renew(self, now: float) -> None:
        """Something has changed: what failed may work now."""
        self._failures = 0
        self.next_attempt = now
