"""Notices that this machine's network has changed, or that it has slept.

After either, mappings of NATs, addresses and relays may be others. A change is reported when it
has settled: an interface that comes up gets its addresses and routes one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from lattica.nat.base.checks import require_seconds, require_types
from lattica.nat.swarm.events import EventBus, NetworkChanged
from lattica.nat.traversal.network.state import (
    ChangeNotices,
    Clocks,
    NetworkState,
    read_clocks,
    read_network,
)

logger = logging.getLogger(__name__)

_NAMED = 4
"""Changes that a reason names; more are counted."""


@dataclass(frozen=True, slots=True)
class NetworkMonitorConfig:
    """How soon changes are noticed."""

    poll: float = 5.0
    """Seconds between two looks at the clocks, and, where the kernel does not tell of changes,
    at addresses and routes."""
    full_poll: float = 30.0
    """Seconds between two looks at addresses and routes where the kernel tells of changes."""
    settle: float = 0.5
    """Seconds without a further change before one is reported."""
    settle_at_most: float = 3.0
    """Seconds after which one is reported in any case."""
    sleep: float = 10.0
    """Seconds by which the clocks must differ for the machine to have slept, or that this
    process must have been stopped for."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("poll", "full_poll", "settle", "settle_at_most", "sleep"):
            require_seconds(name, getattr(self, name))


class ChangeDetector:
    """Compares what is with what was. Pure: the state, the clocks and the time are given."""

    def __init__(self, state: NetworkState, clocks: Clocks, config: NetworkMonitorConfig) -> None:
        self._config = config
        self._reported = self._last = state
        self._clocks = clocks
        self._pending_since: float | None = None
        self._changed_at = 0.0

    def on_state(self, now: float, state: NetworkState) -> str | None:
        """What has changed, if that is to be reported now. `now`: seconds, never decreasing."""
        if state != self._last:
            self._last, self._changed_at = state, now
            if self._pending_since is None:
                self._pending_since = now
        if self._pending_since is not None and state == self._reported:
            self._pending_since = None  # it was as before when it settled
        due = self.next_timer()
        if due is None or now < due:
            return None
        reason = difference(self._reported, state)
        self._reported, self._pending_since = state, None
        return reason

    def on_clocks(self, clocks: Clocks) -> str | None:
        """Whether the machine has slept, or this process was stopped, since the last call."""
        before, self._clocks = self._clocks, clocks
        awake = clocks.awake - before.awake
        asleep = clocks.all_along - before.all_along - awake
        if asleep >= self._config.sleep:
            return f"this machine has slept for {asleep:.0f} s"
        if awake >= self._config.poll + self._config.sleep:
            return f"this process was stopped for {awake:.0f} s"
        return None

    def next_timer(self) -> float | None:
        """When to call :meth:`on_state` at the latest, if anything waits to be reported."""
        if self._pending_since is None:
            return None
        return min(
            self._changed_at + self._config.settle,
            self._pending_since + self._config.settle_at_most,
        )


def difference(before: NetworkState, after: NetworkState) -> str:
    """What has changed, for a person."""
    gone = sorted(before.addresses - after.addresses)
    new = sorted(after.addresses - before.addresses)
    changes = [
        *(f"address gone: {each}" for each in gone),
        *(f"new address: {each}" for each in new),
    ]
    if not changes:
        return "the default route has changed"
    more = len(changes) - _NAMED
    return ", ".join(changes[:_NAMED]) + (f", and {more} more" if more > 0 else "")


class NetworkMonitor:
    """Publishes :class:`~lattica.nat.swarm.events.NetworkChanged` on a swarm's `events`.

    `network` and `clocks` say how things are; tests have others than the system's.
    """

    def __init__(
        self,
        events: EventBus,
        config: NetworkMonitorConfig | None = None,
        *,
        network: Callable[[], NetworkState] = read_network,
        clocks: Callable[[], Clocks] = read_clocks,
    ) -> None:
        self._events = events
        self._config = config or NetworkMonitorConfig()
        self._network, self._clocks = network, clocks
        self._is_blind = False
        """The last look at addresses and routes failed."""

    async def run(self) -> None:
        """Watch until cancelled."""
        config = self._config
        with ChangeNotices() as notices:
            while (state := self._look()) is None:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(config.poll)
            detector = ChangeDetector(state, self._clocks(), config)
            full_poll = config.full_poll if notices.works else config.poll
            look_at = trio.current_time() + full_poll
            while True:
                # What waits to be reported waits on while nobody can look.
                due = None if self._is_blind else detector.next_timer()
                limit = trio.current_time() + config.poll
                with trio.move_on_at(limit if due is None else min(limit, due)) as scope:
                    await notices.wait()
                slept = detector.on_clocks(self._clocks())
                if slept is not None:
                    self._report(slept)
                now = trio.current_time()
                timer_due = due is not None and now >= due
                if (
                    not scope.cancelled_caught
                    or slept is not None
                    or timer_due
                    or now >= look_at
                    or self._is_blind
                ):
                    state = self._look()
                    look_at = now + full_poll
                    reason = None if state is None else detector.on_state(now, state)
                    if reason is not None:
                        self._report(reason)

    def _look(self) -> NetworkState | None:
        """The state of the network; None if the system lets nobody look just now."""
        try:
            state = self._network()
        except OSError as error:
            if not self._is_blind:
                logger.info("cannot look at the network: %s", error)
            self._is_blind = True
            return None
        self._is_blind = False
        return state

    def _report(self, reason: str) -> None:
        logger.info("network changed: %s", reason)
        self._events.publish(NetworkChanged(reason))
