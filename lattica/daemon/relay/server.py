"""One process that is a relay: the node, whom it serves, what it keeps, and what signals do.

SIGHUP reads the configuration again; SIGTERM ends the relay when its circuits have ended, or after
`relay.drain` seconds; SIGINT, and a second signal, end it at once.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from lattica.config import NodeConfig, changed_settings
from lattica.daemon.access.database import Database
from lattica.daemon.access.http import OperatorService
from lattica.daemon.access.policy import RelayAccess
from lattica.daemon.access.secrets import read_secret
from lattica.daemon.metrics.serving import serve_metrics
from lattica.daemon.relay.accounts import Accounts
from lattica.daemon.relay.keeper import Keeper
from lattica.daemon.service_manager import ServiceManager
from lattica.logs import set_level
from lattica.nat.base.errors import ConfigError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.traversal.relay.server.access import lists_of
from lattica.nat.traversal.relay.server.events import RelayEvent, ReservationEnded
from lattica.node import Node

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

_CHANGEABLE = (
    "log_level",
    "nat.relay_server.access",
    "nat.relay_server.allow_peers",
    "nat.relay_server.deny_peers",
    "nat.relay_server.limits.",
    "nat.relay_server.quotas.",
    "relay.drain",
    "relay.service.",
    "swarm.access.",
)
"""Settings, and groups of them, that SIGHUP changes; others need a new start."""
_OF_SECRET = "relay.service.secret"
_LEAVING = 15.0
"""Seconds that may pass from the last circuit's end to that of the process."""


def require_relay(config: NodeConfig) -> None:
    """Raise ConfigError unless a relay can run with this configuration."""
    server = config.nat.relay_server
    if server.allow_documents:
        raise ConfigError(
            "nat.relay_server.allow_documents is for a `lattica node`, which has documents open"
        )
    if server.serves_nobody:
        raise ConfigError(
            "this relay would serve nobody: say whom with --allow PEER, or everybody with --open"
        )
    if server.mode == "http" and not config.relay.service.url:
        raise ConfigError("nat.relay_server.access is http: relay.service.url must say whom to ask")


def make_access(config: NodeConfig, relay: PeerId, secret: str) -> RelayAccess:
    """Whom a relay with this configuration serves."""
    server, service = config.nat.relay_server, config.relay.service
    ask = None
    if server.mode == "http":
        operator = OperatorService(
            relay, service.url, secret, lifetime=service.lifetime, timeout=service.timeout
        )
        ask = operator.ask
    return RelayAccess(
        relay,
        server.mode,
        lists_of(server),
        strangers=server.limits.open_to_strangers,
        ask=ask,
    )


class RelayServer:
    """The relay of one process.

    Args:
        config: with `nat.relay_server.enabled`.
        load: reads the configuration again; raises ConfigError.
        manager: is told when it is read again, and when the relay is about to end.

    Raises:
        ConfigError: nobody would be served, or a secret cannot be read.
    """

    def __init__(
        self,
        config: NodeConfig,
        load: Callable[[], NodeConfig],
        manager: ServiceManager | None = None,
    ) -> None:
        require_relay(config)
        self.config = config
        self._load = load
        self._manager = manager or ServiceManager()
        self.node = Node(config)
        service = self.node.traversal.relay_service
        assert service is not None  # the caller enables it
        self.service = service
        self.access = make_access(config, self.node.peer_id, _secret(config))
        service.access = self.access
        self.accounts = Accounts()
        service.on_event += [self.accounts.on_event, self._let_go]
        self.keeper: Keeper | None = None
        """There is one while it runs."""
        self.draining = False

    def _let_go(self, event: RelayEvent) -> None:
        """Close the connection to who lost its reservation though it is there: there is no message
        that says so, and it would tell others for an hour that it is reached through this relay."""
        if isinstance(event, ReservationEnded) and event.is_withdrawn:
            self.node.swarm.start_soon(self.node.swarm.disconnect, event.peer_id)

    async def run(self, *, task_status: trio.TaskStatus[Keeper] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what is to be kept, until cancelled. The node is the caller's to enter, and is
        entered by then.

        Raises:
            DatabaseError: the file cannot be opened.
        """
        path = self.config.relay.database_in(self.config.data_dir)
        database = await trio.to_thread.run_sync(Database, path)
        try:
            async with trio.open_nursery() as nursery:
                await self._keep(database, nursery, task_status)
        finally:
            database.close()

    async def _keep(
        self,
        database: Database,
        nursery: trio.Nursery,
        task_status: trio.TaskStatus[Keeper],
    ) -> None:
        relay = self.config.relay
        keeper = self.keeper = Keeper(
            database,
            self.access,
            self.service.ledger,
            self.accounts,
            rules=self.config.swarm.access,
            set_rules=self.node.swarm.set_access,
            keep_accounts=relay.keep_accounts if relay.accounts else None,
        )
        await keeper.start()
        await serve_metrics(self.config.metrics, nursery, self._collectors, self.troubles)
        # What members of topics find here: a router that passes on what it hears.
        _ = self.node.topics
        task_status.started(keeper)
        try:
            await keeper.run()
        finally:
            await keeper.finish()

    def _collectors(self) -> list[Collector]:
        from lattica.daemon.metrics.node import SwarmCollector
        from lattica.daemon.metrics.relay import RelayCollector

        relay = RelayCollector(
            self.service,
            bans=lambda: self.keeper.bans if self.keeper is not None else 0,
            trouble=lambda: self.keeper.last_error if self.keeper is not None else "",
            draining=lambda: self.draining,
        )
        return [relay, SwarmCollector(self.node.swarm)]

    def summary(self) -> str:
        """How it is, in a line."""
        stats = self.service.stats
        troubles = [*self.troubles(), *([self.access.trouble] if self.access.trouble else [])]
        how = "; ".join(troubles) or "serving"
        return f"{how}: {stats.reservations} reservations, {stats.circuits} circuits"

    def troubles(self) -> list[str]:
        """Why the relay should not be sent more peers; empty if it should."""
        found = []
        if self.draining:
            found.append("it is about to stop")
        if not self.node.swarm.listen_addrs:
            found.append("it listens nowhere")
        if self.keeper is not None and self.keeper.last_error:
            found.append(self.keeper.last_error)
        return found

    async def follow(self, signals: AsyncIterator[int]) -> None:
        """Do what signals say; returns when the relay is to end."""
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if number == signal.SIGHUP:
                    with self._manager.reloading():
                        await self.reload()
                elif number == signal.SIGTERM and not self.draining and self.config.relay.drain:
                    nursery.start_soon(self._drain, nursery.cancel_scope)
                else:
                    break
            self._manager.stopping()
            nursery.cancel_scope.cancel()

    async def _drain(self, scope: trio.CancelScope) -> None:
        self.draining = True
        seconds = self.config.relay.drain
        self._manager.stopping(seconds + _LEAVING)
        stats = self.service.stats
        logger.info(
            "about to stop: no new circuits, %d open ones have %g s; %d clients are told",
            stats.circuits,
            seconds,
            stats.reservations,
        )
        await self.service.drain(seconds)
        scope.cancel()

    async def reload(self) -> None:
        """Read the configuration again, and follow it as far as that goes without a new start.
        What is wrong with it is logged, and all stays as it was."""
        try:
            config = await trio.to_thread.run_sync(self._load)
            require_relay(config)
            secret = await trio.to_thread.run_sync(_secret, config)
            access = make_access(config, self.node.peer_id, secret)
        except ConfigError as error:
            logger.error("not reloaded, everything stays as it was: %s", error)
            return
        changed = changed_settings(self.config, config)
        wanting = [name for name in changed if not name.startswith(_CHANGEABLE)]
        server = config.nat.relay_server
        self.service.set_limits(server.limits, server.quotas)
        self.access = self.service.access = access
        if self.keeper is not None:
            self.keeper.hand_over(access)
            await self.keeper.set_rules(config.swarm.access)
        set_level(config.log_level)
        self.config = replace(
            self.config, nat=replace(self.config.nat, relay_server=server), relay=config.relay,
            log_level=config.log_level,
            swarm=replace(self.config.swarm, access=config.swarm.access),
        )  # fmt: skip
        followed = [name for name in changed if name not in wanting]
        logger.info("reloaded; changed: %s", ", ".join(followed) or "nothing")
        if wanting:
            logger.warning("these need a new start: %s", ", ".join(wanting))


def _secret(config: NodeConfig) -> str:
    if config.nat.relay_server.mode != "http" or not config.relay.service.secret:
        return ""
    return read_secret(_OF_SECRET, config.relay.service.secret)
