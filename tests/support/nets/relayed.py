"""Two swarms on loopback that are connected through a third one, a circuit relay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport, ask_relay
from lattica.nat.traversal.relay.messages import HopStatus, Reserve, Status
from lattica.nat.traversal.relay.server.limits import RelayLimits
from lattica.nat.traversal.relay.server.service import RelayService
from tests.support.nets.nets import running, settled


@dataclass
class RelayedPair:
    """`source` has dialed `target` through `relay`; the connection as each of them has it."""

    relay: Swarm
    source: Swarm
    target: Swarm
    of_source: Connection
    of_target: Connection


@asynccontextmanager
async def relayed_pair(**changes: Any) -> AsyncIterator[RelayedPair]:
    """`changes` are fields of the configuration of both ends."""
    async with running() as relay, running(**changes) as source, running(**changes) as target:
        service = RelayService(relay, RelayLimits(open_to_strangers=True))
        relay.protocols.handle_all(service.handlers)
        transports = []
        for swarm in (source, target):
            transport = CircuitTransport(swarm)
            swarm.add_transport(transport)
            swarm.protocols.handle_all(transport.handlers)
            transports.append(transport)
        relay_id = relay.identity.peer_id
        to_relay = await target.dial(relay_id, relay.listen_addrs)
        transports[1].accepts_from.add(relay_id)
        stream, answer = await ask_relay(to_relay, Reserve())
        assert isinstance(answer, HopStatus)
        assert answer.status is Status.OK
        await stream.aclose()
        through = Multiaddr(
            f"{relay.listen_addrs[0]}/p2p/{relay_id}/p2p-circuit/p2p/{target.identity.peer_id}"
        )
        of_source = await source.dial(target.identity.peer_id, [through])
        await settled(lambda: target.registry.best(source.identity.peer_id))
        of_target = target.registry.best(source.identity.peer_id)
        assert of_target is not None
        assert of_target.direction is Direction.INBOUND
        assert of_source.is_relayed
        assert of_target.is_relayed
        yield RelayedPair(relay, source, target, of_source, of_target)
