"""Programs of the tests of UDP hole punching: a relay, and the two peers that use it.

python ice_programs.py relay ADDRESS
python ice_programs.py target RELAY          reserves, punches when a relayed connection comes in
python ice_programs.py caller RELAY TARGET   connects to the target over the relay
RELAY: its multiaddr with /p2p/ID; the STUN responders are its QUIC ports.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from lattica.errors import LatticaError
from lattica.nat.base.keys.identity import Identity, parse_peer_id
from lattica.nat.base.net.addresses import to_endpoint, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.ice.strategy import IceStrategy
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport
from lattica.nat.traversal.relay.client.client import RelayClient
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.limits import RelayLimits
from lattica.nat.traversal.relay.server.service import RelayService
from lattica.nat.traversal.stun.behaviour import Responder
from lattica.nat.traversal.stun.prober import NatProber
from lattica.nat.traversal.stun.responder import StunResponder

PORTS = (4001, 4002)


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


@asynccontextmanager
async def swarm_on(*addrs: str) -> AsyncIterator[tuple[Swarm, trio.Nursery]]:
    swarm = Swarm(Identity.generate(), SwarmConfig(listen=addrs))
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        yield swarm, nursery
        with trio.move_on_after(5):
            await swarm.close()
        nursery.cancel_scope.cancel()


async def relay(address: str) -> None:
    tcp = f"/ip4/{address}/tcp/{PORTS[0]}"
    udp = [f"/ip4/{address}/udp/{port}/quic-v1/noise" for port in PORTS]
    async with swarm_on(tcp, *udp) as (swarm, nursery):
        service = RelayService(swarm, RelayLimits(open_to_strangers=True))
        swarm.protocols.handle_all(service.handlers)
        await nursery.start(service.run)
        nursery.start_soon(StunResponder(swarm).run)
        await trio.testing.wait_all_tasks_blocked()
        say(event="ready", addr=str(with_peer(Multiaddr(tcp), swarm.identity.peer_id)))
        await trio.sleep_forever()


@asynccontextmanager
async def peer(relay_addr: str) -> AsyncIterator[tuple[Swarm, trio.Nursery, IceStrategy]]:
    """A node that knows its NAT and speaks over relays."""
    port = PORTS[0]
    async with swarm_on(f"/ip4/0.0.0.0/tcp/{port}", f"/ip4/0.0.0.0/udp/{port}/quic-v1/noise") as (
        swarm,
        nursery,
    ):
        config = RelayClientConfig(relays=(relay_addr,))
        transport = CircuitTransport(swarm, config)
        swarm.add_transport(transport)
        swarm.protocols.handle_all(transport.handlers)
        strategy = IceStrategy(swarm)
        swarm.protocols.handle_all(strategy.handlers)
        host = to_endpoint(Multiaddr(relay_addr)).host
        responders = [Responder(host, each) for each in PORTS]
        prober = NatProber(swarm, lambda: responders)
        nursery.start_soon(prober.run)
        with trio.move_on_after(60):
            await prober.measured()
        client = RelayClient(swarm, transport, config)
        await nursery.start(client.run)
        await client.wait_ready(60)
        yield swarm, nursery, strategy


async def target(relay_addr: str) -> None:
    arrivals_in, arrivals = trio.open_memory_channel[Connection](10)

    async def on_connected(connection: Connection) -> None:
        if connection.is_relayed:
            await arrivals_in.send(connection)

    async with peer(relay_addr) as (swarm, _, strategy):
        swarm.on_connected.append(on_connected)
        say(event="ready", peer=str(swarm.identity.peer_id), mapped=swarm.nat.value.mapped)
        async for relayed in arrivals:
            began = trio.current_time()
            try:
                direct = await strategy.attempt(relayed)
            except (LatticaError, OSError) as error:
                took = trio.current_time() - began
                say(event="failed", took=took, reason=str(error))
                continue
            took = trio.current_time() - began
            say(event="direct", took=took, path=direct.path, addr=str(direct.remote_addr))


async def caller(relay_addr: str, target_id: str) -> None:
    async with peer(relay_addr) as (swarm, _, _):
        peer_id = parse_peer_id(target_id)
        addr = Multiaddr(f"{relay_addr}/p2p-circuit")
        began = trio.current_time()
        connection = await swarm.dial(peer_id, [addr])
        say(event="relayed", took=trio.current_time() - began, path=connection.path)
        direct = None
        with trio.move_on_after(40):
            direct = await swarm.wait_direct(peer_id)
        took = trio.current_time() - began
        say(event="end", took=took, path=direct.path if direct is not None else None)
        await trio.sleep_forever()  # the other one may be some packets behind


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG if "-v" in sys.argv else logging.INFO)
    arguments = [each for each in sys.argv[2:] if each != "-v"]
    programs: dict[str, Any] = {"relay": relay, "target": target, "caller": caller}
    trio.run(programs[sys.argv[1]], *arguments)
