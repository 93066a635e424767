"""Everything that gets a node through NATs, put together.

Parts that know nothing of each other: relays (:mod:`lattica.nat.traversal.relay`), what can be
reached from where (:mod:`lattica.nat.traversal.autonat`, :mod:`lattica.nat.traversal.stun`), ports
that routers open (:mod:`lattica.nat.traversal.portmap`), strategies for direct connections
(:mod:`lattica.nat.traversal.punch`) and the choice among paths
(:mod:`lattica.nat.traversal.path_manager`). Only peers that were configured are asked for anything:
relays and bootstrap peers, and the router.

What only some nodes are (a relay, say) is imported by those that are it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from lattica.nat.base.concurrency.tasks import keep
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, interface_addresses, kind_of, relay_of, to_endpoint
from lattica.nat.base.net.interfaces import forget_interfaces
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import ranked
from lattica.nat.services.identify.service import IdentifyService
from lattica.nat.swarm.events import AddressesChanged, EventsLost, ListeningOn, NetworkChanged
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.autonat.client import AutonatClient
from lattica.nat.traversal.autonat.client_core import AddressReachability, Reachability
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.network.monitor import NetworkMonitor
from lattica.nat.traversal.path_manager import PathManager, Strategy
from lattica.nat.traversal.punch.birthday.strategy import BirthdayStrategy
from lattica.nat.traversal.punch.dcutr.strategy import DcutrStrategy
from lattica.nat.traversal.punch.direct import DirectStrategy
from lattica.nat.traversal.punch.ice.strategy import IceStrategy
from lattica.nat.traversal.punch.probe_budget import ProbeBudget
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport
from lattica.nat.traversal.relay.client.client import RelayClient
from lattica.nat.traversal.relay.messages import HOP
from lattica.nat.traversal.relay.only import only_relays
from lattica.nat.traversal.stun.behaviour import Responder
from lattica.nat.traversal.stun.prober import NatProber

if TYPE_CHECKING:
    from lattica.nat.traversal.portmap.service import PortMappingService
    from lattica.nat.traversal.relay.server.service import RelayService

_ASK_DELAY = 2.0
"""Seconds in which it turns out which connections have survived a change of the network."""
_MAPPING_PATIENCE = 2.0
"""Seconds to wait for a router that opens ports; those that do take tenths of a second."""
_PUSH_DELAY = 0.2
"""Seconds in which changes of address are gathered before peers are told."""


logger = logging.getLogger(__name__)

Part = Callable[[], Awaitable[None]]
_MOVES = NetworkChanged | AddressesChanged | ListeningOn | EventsLost
"""Events after which peers are told anew where this node is."""


class Traversal:
    """The parts of one node. Make it before the swarm runs; run it after.

    Args:
        bootstrap: peers that were configured, as far as they are known.
        identify: tells connected peers what this node's addresses are now, and asks a peer at
            which address it sees this node.
    """

    def __init__(
        self,
        swarm: Swarm,
        config: TraversalConfig,
        identify: IdentifyService,
        *,
        bootstrap: Callable[[], Iterable[PeerId]],
    ) -> None:
        self._swarm = swarm
        self._config = config
        self._bootstrap = bootstrap
        self._identify = identify
        self._rng = random.Random()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()
        if config.relay_server.enabled and not config.relay.relays:
            # Whoever is a relay can be reached: two with one bootstrap list need not each other.
            config = replace(config, relay=replace(config.relay, reservations=0))
            self._config = config
        if config.relay_only:
            config = self._config = only_relays(swarm, config)
        circuits = CircuitTransport(swarm, config.relay)
        swarm.add_transport(circuits)
        protocols = swarm.protocols
        protocols.handle_all(circuits.handlers, owner="the relay client")
        self.relays = RelayClient(swarm, circuits, config.relay, bootstrap=bootstrap)
        protocols.handle_all(self.relays.handlers, owner="the relay client")
        self.port_mapping: PortMappingService | None = None
        if config.port_mapping.enabled:
            from lattica.nat.traversal.portmap.service import PortMappingService

            self.port_mapping = PortMappingService(swarm, config.port_mapping)
        self.prober = NatProber(swarm, self._responders)
        self.autonat = AutonatClient(
            swarm,
            self._servers,
            self._to_check,
            config.autonat.client,
            on_change=self._on_reachability,
        )
        if not config.relay_only:
            protocols.handle_all(self.autonat.handlers, owner="the AutoNAT client")
        budget = ProbeBudget(
            config.birthday.per_address, config.birthday.per_hour, clock=trio.current_time
        )
        strategies: list[Strategy] = []
        if not config.relay_only:
            strategies += [
                DirectStrategy(swarm, config.punch),
                DcutrStrategy(swarm, config.punch),
                IceStrategy(swarm, config.ice, budget=budget),
                BirthdayStrategy(swarm, config.birthday, budget=budget),
            ]
        self.paths = PathManager(swarm, strategies, config.paths)
        self.relay_service: RelayService | None = None
        serves_autonat = config.autonat.server.enabled
        if serves_autonat or (serves_autonat is None and config.relay_server.enabled):
            from lattica.nat.traversal.autonat.server import AutonatServer

            server = AutonatServer(swarm, config.autonat.server)
            protocols.handle_all(server.handlers, owner="the AutoNAT server")
        if config.relay_server.enabled:
            from lattica.nat.traversal.relay.server.access import lists_of
            from lattica.nat.traversal.relay.server.service import RelayService

            server_config = config.relay_server
            self.relay_service = RelayService(
                swarm,
                server_config.limits,
                access=lists_of(server_config),
                quotas=server_config.quotas,
            )
            protocols.handle_all(self.relay_service.handlers, owner="the relay service")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all parts until :meth:`aclose` or cancellation."""
        parts: list[Part] = [
            self._follow_network,
            self.paths.run,
            self.relays.run,
            NetworkMonitor(self._swarm.events).run,
        ]
        if not self._config.relay_only:
            parts.append(self.prober.run)
        if self.port_mapping is not None:
            parts.append(self.port_mapping.run)
        if self.relay_service is not None:
            from lattica.nat.traversal.stun.responder import StunResponder

            parts += [self.relay_service.run, StunResponder(self._swarm).run]
        if self._config.autonat.client.enabled:
            parts.append(self.autonat.run)
        self._ended = trio.Event()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for part in parts:
                        nursery.start_soon(keep, part, self._rng)
                    task_status.started()
        finally:
            self._ended.set()

    async def aclose(self) -> None:
        """End all parts; ports that routers have opened are closed, within two seconds."""
        self._scope.cancel()
        await self._ended.wait()

    async def wait_announced(self) -> None:
        """Wait for a reservation, or until it is clear that no configured peer gives any.

        And for the router, but no longer than two seconds: where it opens ports, it soon has.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_mapped)
            with suppress(LocalProtocolError):  # the swarm ends, and nothing more is found out
                while not self.relays.addrs and self._may_get_reservation():
                    await self._swarm.wait_changed()

    async def _wait_mapped(self) -> None:
        if self.port_mapping is not None:
            with trio.move_on_after(_MAPPING_PATIENCE):
                await self.port_mapping.settled.wait_until(bool)

    def announcing(self) -> tuple[str, ...]:
        """What may still bring an address of this node that others are to be told, in words."""
        missing = [
            f"relay {status.relay}: {status.last_error or 'it has not answered yet'}"
            for status in self.relays.status()
            if status.chosen and status.reserved_until is None
        ]
        if not missing and not self.relays.addrs and self._may_get_reservation():
            missing.append("no relay has answered yet")
        if self.port_mapping is not None and not self.port_mapping.settled.value:
            missing.append("the router has not answered yet whether it opens ports")
        return tuple(missing)

    def _may_get_reservation(self) -> bool:
        if not self._config.relay.reservations:
            return False
        if self.relays.status():
            return True
        # A peer is known to be no relay only when it has said what it speaks.
        best = [self._swarm.registry.best(peer_id) for peer_id in self._bootstrap()]
        return any(one is None or not one.agent or HOP in one.known_protocols for one in best)

    async def _follow_network(self) -> None:
        """Learn anew what a change of the network has made untrue, and let peers know."""
        with self._swarm.events.subscribe() as events:
            async with trio.open_nursery() as nursery:
                async for event in events:
                    if isinstance(event, NetworkChanged):
                        self._forget_network()
                        for peer_id in self._servers():
                            nursery.start_soon(self._ask_again, peer_id)
                    if isinstance(event, _MOVES):
                        self._refresh_verified()
                        await trio.sleep(_PUSH_DELAY)
                        # Not awaited: a peer that does not read must not keep news from others.
                        nursery.start_soon(self._identify.push)
                nursery.cancel_scope.cancel()

    def _forget_network(self) -> None:
        forget_interfaces()
        self._swarm.observed.clear()
        self._swarm.doubtful.clear()
        self._swarm.own_addresses.set_checked()
        self.autonat.network_changed()

    async def _ask_again(self, peer_id: PeerId) -> None:
        """Have a peer that stays connected say at which address it sees us now."""
        await trio.sleep(_ASK_DELAY)
        connection = self._swarm.registry.best(peer_id)
        if connection is not None:
            await self._identify.ask(connection)
        for each in list(self._swarm.registry.by_peer.get(peer_id, ())):
            await self._identify.ask_where_seen(each)

    # --- whom to ask ---

    def _servers(self) -> list[PeerId]:
        """Peers that were configured."""
        relays = (status.relay for status in self.relays.status())
        return list(dict.fromkeys((*relays, *self._bootstrap())))

    def _responders(self) -> list[Responder]:
        """The UDP ports of relays in use, which answer STUN requests if the relays are ours.

        One that is only named in a peer's address was not configured, but is in use all the same;
        it is asked where there is no other, so that it can outvote nobody.
        """
        found = {status.relay: status.addrs for status in self.relays.status() if status.path}
        if not found:
            relays = {relay_of(connection.remote_addr) for connection in self._swarm.registry}
            found = {r: tuple(self._swarm.address_book.addrs(r)) for r in relays if r is not None}
        return [
            Responder(endpoint.host, endpoint.port, relay)
            for relay, addrs in found.items()
            for addr in addrs
            if kind_of(addr) is Kind.QUIC and not (endpoint := to_endpoint(addr)).is_name
        ]

    # --- what of this node can be reached ---

    def _to_check(self) -> list[Multiaddr]:
        swarm = self._swarm
        found = (
            *interface_addresses(swarm.listen_addrs),
            *swarm.own_addresses.get("mapped"),
            *swarm.own_addresses.get("observed"),
            *swarm.observed.addrs(Kind.TCP),
        )
        # What was checked before keeps its place: what has turned out is not to be forgotten.
        own = swarm.own_addresses
        best_first = ranked(found, reachable=own.reachable | own.unreachable)
        return [addr for addr in best_first if kind_of(addr) is not Kind.CIRCUIT]

    def _on_reachability(self, result: AddressReachability) -> None:
        results = self.autonat.results.values()
        self._swarm.own_addresses.set_checked(
            (each.addr for each in results if each.reachability is Reachability.REACHABLE),
            (each.addr for each in results if each.reachability is Reachability.UNREACHABLE),
        )
        self._refresh_verified()

    def _refresh_verified(self) -> None:
        """Announce where the NAT lets strangers in to our TCP port, as long as that is seen."""
        results = self.autonat.results.values()
        observed = set(self._swarm.observed.addrs(Kind.TCP))
        self._swarm.own_addresses.set(
            "verified",
            [
                each.addr
                for each in results
                if each.reachability is Reachability.REACHABLE and each.addr in observed
            ],
        )
