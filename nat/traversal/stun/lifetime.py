"""How long a NAT keeps a UDP mapping that nobody uses (RFC 5780, section 4.6).

On demand only: it takes as long as the answer is, and a bit. Each idle time that is tried has
sockets of its own, so that looking at one mapping does not refresh another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.traversal.stun.codec import Endpoint
from lattica.nat.traversal.stun.measurement import is_mapped_after
from lattica.nat.traversal.stun.transaction import StunTiming

LADDER: Final = (5.0, 15.0, 25.0, 35.0, 55.0, 85.0, 115.0, 175.0, 295.0)
"""Idle times in seconds that are tried side by side: just short of the usual time-outs."""
_PATIENT: Final = StunTiming(first_wait=0.5, requests=4, last_wait=2.0)
"""A lost answer would look like a lost mapping, and there is time."""


@dataclass(frozen=True, slots=True)
class MappingLifetime:
    """How long an idle mapping lives, in seconds. None: none of those tried."""

    alive_s: float | None = None
    """The longest idle time after which the mapping was still there."""
    dead_s: float | None = None
    """The shortest after which it was gone."""


class LifetimeSearch:
    """Which idle times to try next. Pure.

    Args:
        ladder: idle times to begin with, side by side.
        precision: a bound between alive and dead that is no wider than this, in seconds, is good
            enough.
        longest: no idle time beyond this is tried.
    """

    def __init__(self, ladder: Sequence[float], *, precision: float, longest: float) -> None:
        if not precision > 0:
            raise LocalProtocolError("the precision is a positive number of seconds")
        self._ladder = tuple(sorted(idle for idle in ladder if 0 < idle <= longest)) or (longest,)
        self._precision = precision
        self._results: dict[float, bool] = {}
        self._begun = False

    def next(self) -> tuple[float, ...]:
        """The idle times to try now, side by side; empty when it is over."""
        if not self._begun:
            self._begun = True
            return self._ladder
        alive, dead = self.result.alive_s or 0.0, self.result.dead_s
        # A mapping that lives longer after a longer time is one that is measured wrongly.
        if dead is None or alive >= dead or dead - alive <= self._precision or not self._results:
            return ()
        return ((alive + dead) / 2,)

    def record(self, idle: float, alive: bool) -> None:
        """What came of one."""
        self._results[idle] = alive

    @property
    def result(self) -> MappingLifetime:
        alive = [idle for idle, is_alive in self._results.items() if is_alive]
        dead = [idle for idle, is_alive in self._results.items() if not is_alive]
        return MappingLifetime(max(alive, default=None), min(dead, default=None))


async def measure_mapping_lifetime(
    server: Endpoint,
    host: str,
    *,
    precision: float = 10.0,
    longest: float = 180.0,
    ladder: Sequence[float] = LADDER,
    timing: StunTiming = _PATIENT,
    on_progress: Callable[[MappingLifetime], None] | None = None,
) -> MappingLifetime:
    """Measure it with the help of one responder that knows RESPONSE-PORT, as ours do.

    Takes some seconds more than the answer, and as long again for each halving of the interval
    that the ladder leaves, until that is `precision` seconds wide. What was found is empty if
    the responder does not answer or does not help.

    Args:
        server: the responder; host: numeric, what to bind sockets to, usually `0.0.0.0`.
        on_progress: told what is known whenever that changes.

    Cancellation: at any time.

    Raises:
        OSError: no socket can be bound.
    """
    search = LifetimeSearch(ladder, precision=precision, longest=longest)
    while idle_times := search.next():
        async with trio.open_nursery() as nursery:
            for idle in idle_times:
                nursery.start_soon(
                    _try_one, search, idle, server, host, timing, nursery, on_progress
                )
        if search.result == MappingLifetime():
            break
    return search.result


async def _try_one(
    search: LifetimeSearch,
    idle: float,
    server: Endpoint,
    host: str,
    timing: StunTiming,
    nursery: trio.Nursery,
    on_progress: Callable[[MappingLifetime], None] | None,
) -> None:
    alive = await is_mapped_after(idle, server, host, timing)
    if alive is None:
        return
    before = search.result
    search.record(idle, alive)
    if on_progress is not None and search.result != before:
        on_progress(search.result)
    if not alive:
        nursery.cancel_scope.cancel()  # those that wait longer would find the same
