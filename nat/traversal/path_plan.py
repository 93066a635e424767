"""When to look for a direct path to a peer that is reached through a relay: the plan. Pure.

The first attempt is made at once. Those that fail are repeated after delays that double, with
jitter, and then no more: a pair that has no direct path must not be probed for ever. A change of
this node's network, or the end of a direct path that lasted, starts this anew; news of the peer
(it comes again, or has other addresses) bring one more attempt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from lattica.nat.base.checks import require, require_seconds, require_types
from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.swarm.status import StrategyReport


@dataclass(frozen=True, slots=True)
class PathConfig:
    """How a node gets from a relayed path to a direct one, and back."""

    enabled: bool = True
    """Look for direct paths at all."""
    attempts: int = 8
    """Attempts in a row that may fail, each with all strategies at once."""
    first_delay: float = 1.0
    """Seconds after the first failure; it doubles with each further one."""
    longest_delay: float = 300.0
    lasting: float = 30.0
    """Seconds after which a direct path counts as a good one when it dies."""
    revival: float = 30.0
    """Seconds after the last attempt for which nothing that the peer does brings another one."""
    timeout: float = 40.0
    """Seconds for one attempt."""
    grace: float = 0.25
    """Seconds that a better strategy may take once another has succeeded."""
    max_concurrent: int = 16
    """Peers that are worked on at a time."""
    probe_timeout: float = 3.0
    """Seconds for a sign of life of a connection that may be dead."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in (
            "first_delay",
            "longest_delay",
            "lasting",
            "revival",
            "timeout",
            "grace",
            "probe_timeout",
        ):
            require_seconds(name, getattr(self, name))
        require(self.attempts >= 1, "attempts", "at least 1", self.attempts)
        require(self.max_concurrent >= 1, "max_concurrent", "at least 1", self.max_concurrent)


class PathPlan:
    """One peer, as often as it is reached through a relay. Times in seconds.

    Tell it of every change with :meth:`relayed` and :meth:`direct`, and of attempts with
    :meth:`failed`; one that succeeds shows by the path's being direct.
    """

    def __init__(self, now: float, config: PathConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._failures = 0
        self._last_end = -math.inf
        self._direct_since: float | None = None
        self.next_attempt = now
        """Infinite: none, unless something changes."""
        self.reports: tuple[StrategyReport, ...] = ()
        """Of the last attempt."""

    @property
    def given_up(self) -> bool:
        """The last attempt failed, and there will be no other unless something changes."""
        return self.next_attempt == math.inf and self._direct_since is None

    def failed(self, now: float, reports: Mapping[str, StrategyReport]) -> None:
        """An attempt has ended without a direct connection."""
        self.reports = tuple(reports.values())
        self._last_end = now
        self._failures += 1
        if self._failures >= self._config.attempts or not any(r.applicable for r in self.reports):
            self.next_attempt = math.inf
        else:
            self.next_attempt = now + self._delay()

    def direct(self, now: float, reports: Mapping[str, StrategyReport] | None = None) -> None:
        """The peer is reached directly; `reports` of the attempt that brought it about."""
        if reports is not None:
            self.reports = tuple(reports.values())
        if self._direct_since is None:
            self._direct_since = now
        self.next_attempt = math.inf

    def relayed(self, now: float) -> None:
        """The peer is reached through a relay (again).

        After a direct path that lasted everything starts anew; one that did not counts as a
        failure. A peer that was given up gets one attempt: it may be somewhere else by now.
        """
        if self._direct_since is not None:
            lasted = now - self._direct_since >= self._config.lasting
            self._direct_since = None
            self._failures = 0 if lasted else self._failures + 1
            self._last_end = now
            self.next_attempt = now if lasted else now + self._delay()
        elif self.given_up:
            self.next_attempt = max(now, self._last_end + self._config.revival)

    def renew(self, now: float) -> None:
        """This node's network has changed: what failed may work now."""
        self._failures = 0
        if self._direct_since is None:
            self.next_attempt = now

    def _delay(self) -> float:
        config = self._config
        return pause_after(self._failures, config.first_delay, config.longest_delay, self._rng)
