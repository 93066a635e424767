"""Paths to peers: relayed at first, direct as soon as there is a way, relayed again if it dies.

The driver of :mod:`lattica.nat.traversal.path_plan`. Which connection new streams take is the
registry's business (:mod:`lattica.nat.swarm.registry`): a direct one before a relayed one. This
module makes direct connections to peers that are reached through a relay, has connections probed
that may have died, and makes a new one to a peer whose last one broke in the middle of something.
"""

from __future__ import annotations

import logging
import math
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

import trio

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import relay_of
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.events import (
    EventsLost,
    NetworkChanged,
    PathChanged,
    PeerConnected,
    PeerDisconnected,
    SwarmEvent,
)
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.status import AvoidedPath, PathStatus, StrategyReport
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.path_plan import PathConfig, PathPlan
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.redial import Phase, Redial, RedialPolicy

logger = logging.getLogger(__name__)

_MAX_PLANS = 4096
_SETTLE = 0.05
"""Seconds in which a peer that has made several relayed connections at once chooses one."""
_MAX_RECONNECTS = 64
_RECONNECT_FOR = 60.0
"""Seconds for which a peer that was lost in the middle of something is dialed again."""
_RECONNECT_POLICY = RedialPolicy(first=0.5, limit=15.0)
_LOOKS = 4
"""Parts of the time in which a path has to answer: what came while this process was kept from
running is looked at before the last of them is over."""
_SHOWN = 300


class Strategy(Protocol):
    """One way of getting from a relayed connection to a direct one."""

    @property
    def name(self) -> str: ...

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The other end's part, by protocol."""
        ...

    async def attempt(self, relayed: Connection) -> Connection:
        """Make a direct connection to the peer of `relayed`, agreed upon over it.

        Has its own time-out, and may be cancelled at any time. Raises
        :class:`~lattica.nat.traversal.punch.not_applicable.NotApplicable` if it cannot work for
        this pair, and :class:`~lattica.errors.LatticaError` or :class:`OSError` with the reason.
        """
        ...


class PathManager:
    """Works on the paths to all peers of a swarm.

    Args:
        strategies: to a direct connection; all are tried at once.
    """

    def __init__(
        self,
        swarm: Swarm,
        strategies: Sequence[Strategy],
        config: PathConfig | None = None,
    ) -> None:
        self._swarm = swarm
        self._strategies = strategies
        self._config = config or PathConfig()
        self._rng = random.Random()
        self._limiter = trio.CapacityLimiter(self._config.max_concurrent)
        self._plans: OrderedDict[PeerId, PathPlan] = OrderedDict()
        """Also of peers that are not connected: who comes again is no stranger."""
        self._at_work: dict[PeerId, trio.Event] = {}
        """Peers with a task of their own, and what wakes it."""
        self._reconnecting: set[PeerId] = set()
        self._nursery: trio.Nursery | None = None
        """While it runs."""
        swarm.on_connected.append(self._on_connected)
        for strategy in strategies:
            swarm.protocols.handle_all(strategy.handlers, owner=f"hole punching ({strategy.name})")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled, or until the swarm ends."""
        with self._swarm.events.subscribe() as events:
            task_status.started()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for peer_id in list(self._swarm.registry.by_peer):
                    self._look_at(peer_id, nursery)
                try:
                    async for event in events:
                        self._on_event(event, nursery)
                finally:
                    self._nursery = None
                nursery.cancel_scope.cancel()

    def status(self, peer_id: PeerId) -> PathStatus | None:
        """How a peer is reached now; None if it is not connected."""
        best = self._swarm.registry.best(peer_id)
        if best is None:
            return None
        plan = self._plans.get(peer_id)
        now = trio.current_time()
        soon = None
        if plan is not None and best.is_relayed and plan.next_attempt < math.inf:
            soon = max(0.0, plan.next_attempt - now)
        return PathStatus(
            best.path,
            best.remote_addr,
            relay_of(best.remote_addr),
            now - best.established_at,
            best.session.rtt,
            plan.reports if plan is not None else (),
            soon,
            tuple(
                AvoidedPath(doubt.addr, doubt.reason, doubt.times, doubt.until - now)
                for doubt in self._swarm.doubtful.of(peer_id)
            ),
        )

    def peer_changed(self, peer_id: PeerId) -> None:
        """A peer has other addresses than before: what failed may work now."""
        plan = self._plans.get(peer_id)
        if plan is not None and plan.given_up:
            plan.relayed(trio.current_time())
            self._wake(peer_id)

    # --- what happens ---

    def _on_event(self, event: SwarmEvent, nursery: trio.Nursery) -> None:
        match event:
            case PeerConnected(peer_id=peer_id) | PathChanged(peer_id=peer_id):
                self._look_at(peer_id, nursery)
            case PeerDisconnected(peer_id=peer_id, reason=reason, interrupted=interrupted):
                self._wake(peer_id)
                if interrupted and len(self._reconnecting) < _MAX_RECONNECTS:
                    nursery.start_soon(self._reconnect, peer_id, reason)
            case NetworkChanged():
                now = trio.current_time()
                for plan in self._plans.values():
                    plan.renew(now)
                for peer_id in list(self._swarm.registry.by_peer):
                    self._look_at(peer_id, nursery)
                for connection in self._swarm.registry:
                    nursery.start_soon(self._probe, connection)
            case EventsLost():
                for peer_id in list(self._swarm.registry.by_peer):
                    self._look_at(peer_id, nursery)

    async def _on_connected(self, connection: Connection) -> None:
        """A peer that comes through a relay though there is a direct path has perhaps lost it.

        Where both have dialed through a relay, its circuit may be the one in use now, and this the
        side that is to improve upon it: no event tells that, since the path is named alike.
        """
        if connection.is_relayed and connection.direction is Direction.INBOUND:
            if self._nursery is not None and self._wanted(connection.peer_id) is not None:
                self._look_at(connection.peer_id, self._nursery)
            for other in list(self._swarm.registry.by_peer.get(connection.peer_id, ())):
                if not other.is_relayed:
                    await self._probe(other)

    def _wake(self, peer_id: PeerId) -> None:
        changed = self._at_work.get(peer_id)
        if changed is not None:
            changed.set()

    def _look_at(self, peer_id: PeerId, nursery: trio.Nursery) -> None:
        """Start working on a peer, if it is reached through a relay and it is our turn to."""
        if peer_id in self._at_work:
            self._wake(peer_id)
            return
        if not self._config.enabled or not self._strategies or len(self._at_work) >= _MAX_PLANS:
            return
        if self._wanted(peer_id) is not None:
            self._at_work[peer_id] = trio.Event()
            nursery.start_soon(self._improve, peer_id)
        elif (plan := self._plans.get(peer_id)) is not None:
            plan.direct(trio.current_time())

    def _wanted(self, peer_id: PeerId) -> Connection | None:
        """The relayed connection to the peer that this side is to improve upon.

        The side that was dialed does (libp2p's DCUtR), so that they do not both.
        """
        best = self._swarm.registry.best(peer_id)
        if best is not None and best.is_relayed and best.direction is Direction.INBOUND:
            return best
        return None

    # --- from relayed to direct ---

    async def _improve(self, peer_id: PeerId) -> None:
        plan = self._plans.pop(peer_id, None)
        if plan is None:
            plan = PathPlan(trio.current_time(), self._config, self._rng)
            while len(self._plans) >= _MAX_PLANS:
                self._plans.popitem(last=False)
        self._plans[peer_id] = plan
        plan.relayed(trio.current_time())
        reports: dict[str, StrategyReport] = {}
        try:
            while (relayed := self._wanted(peer_id)) is not None:
                changed = self._at_work[peer_id] = trio.Event()
                if trio.current_time() < plan.next_attempt:
                    with trio.move_on_at(plan.next_attempt):
                        await changed.wait()
                    continue
                async with self._limiter:
                    reports = await self._attempt(relayed)
                if self._wanted(peer_id) is relayed:
                    self._note_failure(peer_id, plan, reports)
                elif relayed.closed_reason is not None:
                    # There is another one by now, or will be: it has nothing to do with this.
                    await trio.sleep(_SETTLE)
            best = self._swarm.registry.best(peer_id)
            if best is not None and not best.is_relayed:
                plan.direct(trio.current_time(), reports or None)
        finally:
            del self._at_work[peer_id]

    def _note_failure(
        self, peer_id: PeerId, plan: PathPlan, reports: Mapping[str, StrategyReport]
    ) -> None:
        plan.failed(trio.current_time(), reports)
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in reports.values())
        if plan.given_up:
            peer_log.log(
                logger,
                logging.INFO,
                peer_id,
                "peer stays relayed until something changes: %s peer=%s",
                reasons,
                peer_id,
            )
        else:
            logger.debug("no direct path yet: %s peer=%s", reasons, peer_id)

    async def _attempt(self, relayed: Connection) -> dict[str, StrategyReport]:
        """Try all strategies at once; what came of each."""
        reports: dict[str, StrategyReport] = {}

        async def attempt(strategy: Strategy, scope: trio.CancelScope) -> None:
            try:
                await strategy.attempt(relayed)
            except (LatticaError, OSError) as error:
                reason = (str(error) or type(error).__name__)[:_SHOWN]
                applicable = not isinstance(error, NotApplicable)
                reports[strategy.name] = StrategyReport(strategy.name, False, reason, applicable)
            except Exception as error:
                # A defect of one strategy must not take away the others.
                logger.exception(
                    "internal error on the way to a direct path strategy=%s", strategy.name
                )
                reports[strategy.name] = StrategyReport(strategy.name, False, repr(error)[:_SHOWN])
            else:
                reports[strategy.name] = StrategyReport(strategy.name, True, "")
                scope.deadline = min(scope.deadline, trio.current_time() + self._config.grace)

        async def give_up_with_it(scope: trio.CancelScope) -> None:
            await relayed.closed.wait()
            scope.deadline = min(scope.deadline, trio.current_time() + self._config.grace)

        with trio.move_on_after(self._config.timeout) as scope:
            async with trio.open_nursery() as watching:
                watching.start_soon(give_up_with_it, scope)
                async with trio.open_nursery() as nursery:
                    for strategy in self._strategies:
                        nursery.start_soon(attempt, strategy, scope)
                watching.cancel_scope.cancel()
        worked = any(report.ok for report in reports.values())
        late = f"gave up after {self._config.timeout:g} s"
        if worked:
            late = "another way was faster"
        elif relayed.closed_reason is not None:
            late = "the relayed connection has ended"
        for strategy in self._strategies:
            reports.setdefault(strategy.name, StrategyReport(strategy.name, False, late))
        return reports

    # --- when a path dies ---

    async def _probe(self, connection: Connection) -> None:
        """End a connection of which nothing is heard within the time for it."""
        before = connection.session.last_received
        connection.session.ping()
        connection.wake_writer()
        for _ in range(_LOOKS):
            with trio.move_on_after(self._config.probe_timeout / _LOOKS):
                await connection.closed.wait()
        if connection.closed_reason is None and connection.session.last_received == before:
            connection.abort("the path is dead: the network has changed, or the peer has left it")

    async def _reconnect(self, peer_id: PeerId, reason: str) -> None:
        """Dial a peer that was lost in the middle of something, by whatever way there is."""
        if peer_id in self._reconnecting or not self._swarm.address_book.addrs(peer_id):
            return
        peer_log.log(
            logger,
            logging.INFO,
            peer_id,
            "connection lost, dialing again: %s peer=%s",
            reason,
            peer_id,
        )
        self._reconnecting.add(peer_id)
        redial = Redial(trio.current_time(), self._rng, _RECONNECT_POLICY)
        try:
            with trio.move_on_after(_RECONNECT_FOR):
                # Both sides do this. Let one of them be first.
                await trio.sleep(self._rng.uniform(0.0, 0.2))
                while self._swarm.registry.best(peer_id) is None:
                    redial.begin(trio.current_time())
                    try:
                        await self._swarm.connect(peer_id)
                    except (LatticaError, OSError) as error:
                        logger.debug("dialing again failed: %s peer=%s", error, peer_id)
                        redial.failed(trio.current_time())
                        if redial.phase is Phase.WAITING:
                            await trio.sleep_until(redial.next_wake)
        finally:
            self._reconnecting.discard(peer_id)
