"""Keeps a swarm's :class:`NatReport` true, and the mapping of its UDP port alive.

The responders are relays that somebody has configured; nobody else is asked anything.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from lattica.nat.base.checks import require, require_seconds, require_types
from lattica.nat.base.net.addresses import socket_multiaddr
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.swarm.events import EventsLost, NetworkChanged
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.network.state import local_hosts
from lattica.nat.traversal.stun.behaviour import Observation, Responder, choose
from lattica.nat.traversal.stun.client import StunClient, StunRefused, StunTimeout, client_on
from lattica.nat.traversal.stun.codec import Endpoint
from lattica.nat.traversal.stun.measurement import Measured, measure
from lattica.nat.traversal.stun.transaction import StunTiming

if TYPE_CHECKING:
    from lattica.nat.quic.endpoint import QuicEndpoint

logger = logging.getLogger(__name__)

_SUFFIX: Final = "udp/{}/quic-v1/noise"
_BURST: Final = 3


@dataclass(frozen=True, slots=True)
class NatProberConfig:
    """How often the NAT is looked at."""

    keepalive: float = 20.0
    """Seconds between two questions that keep the mapping alive; give or take a quarter. The
    shortest time-out of mappings in the field is 30 s."""
    poll: float = 0.5
    """Seconds between two looks at which responders there are."""
    pause: float = 5.0
    """Seconds between two rounds of measurements on average, at least; three may follow each
    other at once, as when relays are connected to one by one."""
    timing: StunTiming = field(default_factory=StunTiming)

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("keepalive", "poll", "pause"):
            require_seconds(name, getattr(self, name))
        require(self.keepalive >= 1, "keepalive", "at least 1 second", self.keepalive)


class NatProber:
    """Measures at the start, when the responders change, and when the network does.

    Args:
        swarm: its listening QUIC sockets are measured, the first of each family. Its `nat` is
            set, and where everybody sees the same address outside, that is announced.
        responders: says which there are now; see :func:`~nat_behaviour.choose` for who is asked.
        rng: for the jitter.
    """

    def __init__(
        self,
        swarm: Swarm,
        responders: Callable[[], Sequence[Responder]],
        config: NatProberConfig | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._swarm = swarm
        self._responders = responders
        self._config = config or NatProberConfig()
        self._rng = rng or random.Random()
        self._families = {4: _Family(4), 6: _Family(6)}

    def report(self, version: int) -> NatReport:
        """What is known for an IP version, 4 or 6."""
        return self._families[version].report

    async def measured(self, version: int = 4) -> NatReport:
        """Wait until the first round of measurements is over; what is known then.

        That is nothing where there is no socket or no responder of that IP version.
        """
        await self._families[version].measured.wait()
        return self.report(version)

    def has_measured(self, version: int = 4) -> bool:
        """Whether all is known that can be found out with the responders that there are now."""
        family = self._families[version]
        return family.finished == (self._endpoint(family), frozenset(self._usable(family)))

    async def run(self) -> None:
        """Measure, and keep the mappings alive, until cancelled.

        When it is run again after an error, nothing is left of the time before, but how often
        responders were asked.
        """
        for family in self._families.values():
            family.finished = None
            self._learn(family, Measured(NatReport(), ()))
        with self._swarm.events.subscribe() as events:
            async with trio.open_nursery() as nursery:
                for family in self._families.values():
                    nursery.start_soon(self._look_after, family)
                async for event in events:
                    if isinstance(event, NetworkChanged | EventsLost):
                        for family in self._families.values():
                            family.stale.set()
                await trio.sleep_forever()

    async def _look_after(self, family: _Family) -> None:
        while True:
            family.stale = trio.Event()
            family.finished = None
            endpoint, responders = self._endpoint(family), self._usable(family)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    self._until_changed, family, endpoint, responders, nursery.cancel_scope
                )
                if endpoint is None or not responders:
                    self._learn(family, Measured(NatReport(), ()))
                    family.finish(endpoint, responders)
                    await trio.sleep_forever()
                family.rounds.append(trio.current_time())
                async with client_on(endpoint, self._config.timing) as client:
                    await self._measure_and_keep(family, endpoint, client, responders)
                nursery.cancel_scope.cancel()
            if len(family.rounds) == _BURST:
                # Something changes all the time, or a responder makes trouble.
                await trio.sleep_until(family.rounds[0] + _BURST * self._config.pause)

    async def _until_changed(
        self,
        family: _Family,
        endpoint: QuicEndpoint | None,
        responders: Sequence[Responder],
        scope: trio.CancelScope,
    ) -> None:
        before = set(responders)
        while self._endpoint(family) is endpoint and set(self._usable(family)) == before:
            with trio.move_on_after(self._config.poll):
                await family.stale.wait()
                break
        scope.cancel()

    def _endpoint(self, family: _Family) -> QuicEndpoint | None:
        for endpoint in self._swarm.udp_endpoints:
            if (6 if ":" in endpoint.local[0] else 4) == family.version:
                return endpoint
        return None

    def _usable(self, family: _Family) -> tuple[Responder, ...]:
        return choose(self._responders(), family.version)

    async def _measure_and_keep(
        self,
        family: _Family,
        endpoint: QuicEndpoint,
        client: StunClient,
        responders: Sequence[Responder],
    ) -> None:
        """Measure, and then ask from time to time until an answer shows that all has changed."""

        def on_report(measured: Measured) -> None:
            # What the last round has found out about the rest stands until this one has.
            report, before = measured.report, family.report
            is_news = (report.mapping, report.mapped) != (before.mapping, before.mapped)
            if is_news and (report.mapping is not None or before.mapping is None):
                self._learn(family, measured)

        timing = self._config.timing
        measured = await measure(client, responders, local_hosts(), timing, on_report)
        self._learn(family, measured)
        family.finish(endpoint, responders)
        await self._keep_alive(client, measured, responders)

    async def _keep_alive(
        self, client: StunClient, measured: Measured, responders: Sequence[Responder]
    ) -> None:
        """Return when what is known cannot be true any more."""
        seen = measured.seen
        turns: Sequence[Endpoint] = [each.responder.endpoint for each in seen] or [
            responder.endpoint for responder in responders
        ]
        expected = {each.responder.endpoint: each for each in seen}
        silent, turn = 0, 0
        while True:
            await trio.sleep(self._config.keepalive * self._rng.uniform(0.75, 1.25))
            server = turns[turn % len(turns)]
            turn += 1
            try:
                binding = await client.ask(server)
            except (StunTimeout, StunRefused):
                silent += 1
                if seen and silent > len(turns):
                    return  # not a single one answers any more
                continue
            silent = 0
            if not seen or not _as_before(binding.mapped, expected[server], measured.report):
                return

    def _learn(self, family: _Family, measured: Measured) -> None:
        report = measured.report
        if report != family.report:
            logger.info("NAT for IPv%d: %s", family.version, _describe(report))
        family.report = report
        if family.version == 4:
            self._swarm.nat.set(report)
        family.observed = ()
        if report.is_translated and report.mapping is Behaviour.ENDPOINT_INDEPENDENT:
            family.observed = (socket_multiaddr(report.mapped[0], _SUFFIX),)
        everywhere = [addr for each in self._families.values() for addr in each.observed]
        self._swarm.own_addresses.set("observed", everywhere)


class _Family:
    """What is known of one IP version."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.report = NatReport()
        self.stale = trio.Event()
        self.measured = trio.Event()
        self.finished: tuple[QuicEndpoint | None, frozenset[Responder]] | None = None
        """The socket and the responders of the last round, if that is over."""
        self.rounds: deque[float] = deque(maxlen=_BURST)
        """When the last ones began."""
        self.observed: tuple[Multiaddr, ...] = ()

    def finish(self, endpoint: QuicEndpoint | None, responders: Sequence[Responder]) -> None:
        """A round is over; one without either is at once."""
        self.finished = endpoint, frozenset(responders)
        self.measured.set()


def _as_before(mapped: Endpoint, before: Observation, report: NatReport) -> bool:
    if report.is_hard:
        return mapped[0] == before.mapped[0]  # the port may be another by now
    return mapped == before.mapped


def _describe(report: NatReport) -> str:
    """A report for a person, in one line."""
    if not report.udp_works:
        return "UDP does not work" if report.udp_works is False else "not known"
    mapping = "unknown" if report.mapping is None else report.mapping.value
    filtering = "unknown" if report.filtering is None else report.filtering.value
    where = " ".join(f"{mapped[0]}:{mapped[1]}" for mapped in report.mapped)
    return (
        f"mapping={mapping} filtering={filtering} translated={report.is_translated} "
        f"preserves_port={report.preserves_port} hairpin={report.hairpin} mapped={where}"
    )
