"""A relay, and peers that find each other through it, as programs in a lab's hosts.

    punch_program.py relay LISTEN…
    punch_program.py target RELAY LISTEN…        reserves, and punches for whoever comes
    punch_program.py source RELAY TARGET LISTEN… comes

Each prints JSON events: `ready` (with the ID), `relayed`, `direct` (with the path and the seconds
since the relayed connection), `failed`, `pinged`; the relay those of its service, by class.
"""

from __future__ import annotations

import json
import logging
import os
import sys

import trio

from lattica.errors import LatticaError
from lattica.nat.base.keys.identity import Identity, PeerId, parse_peer_id
from lattica.nat.base.net.addresses import Kind, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.services.standard import serve_standard
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.dcutr.strategy import DcutrStrategy
from lattica.nat.traversal.punch.direct import DirectStrategy
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport, ask_relay
from lattica.nat.traversal.relay.messages import HopStatus, Reserve, Status
from lattica.nat.traversal.relay.server.limits import RelayLimits
from lattica.nat.traversal.relay.server.service import RelayService

PING = "/ipfs/ping/1.0.0"


def say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


class Peer:
    """A swarm that is reached through a relay, and makes of that what it can."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.transport = CircuitTransport(swarm)
        self.strategies: tuple[DcutrStrategy, DirectStrategy] = (
            DcutrStrategy(swarm),
            DirectStrategy(swarm),
        )
        swarm.add_transport(self.transport)
        swarm.protocols.handle_all(self.transport.handlers)
        for strategy in self.strategies:
            swarm.protocols.handle_all(strategy.handlers)

    async def reach_relay(self, relay: Multiaddr) -> PeerId:
        addr, relay_id = split_peer(relay)
        assert relay_id is not None
        connection = await self.swarm.dial(relay_id, [addr])
        while not self.swarm.observed.addrs(Kind.TCP):
            await trio.sleep(0.05)
        stream, answer = await ask_relay(connection, Reserve())
        assert isinstance(answer, HopStatus)
        assert answer.status is Status.OK, answer
        await stream.aclose()
        self.transport.accepts_from.add(relay_id)
        return relay_id

    async def become_direct(self, connection: Connection) -> None:
        """The part of a path manager: each strategy once, for those that come through the relay."""
        if not connection.is_relayed:
            return
        say("relayed", direction=connection.direction.value)
        start = trio.current_time()
        if connection.direction is Direction.INBOUND:
            strategy = self.strategies["direct" in os.environ.get("WAY", "")]
            try:
                await strategy.attempt(connection)
            except (LatticaError, OSError) as error:
                say("failed", why=str(error), seconds=trio.current_time() - start)
                return
        direct = await self.swarm.wait_direct(connection.peer_id)
        say(
            "direct",
            path=direct.path,
            direction=direct.direction.value,
            addr=str(direct.remote_addr),
            seconds=trio.current_time() - start,
        )


async def relay(swarm: Swarm) -> None:
    service = RelayService(swarm, RelayLimits(open_to_strangers=True))
    swarm.protocols.handle_all(service.handlers)
    service.on_event.append(lambda event: say(type(event).__name__))
    say("ready", id=str(swarm.identity.peer_id))
    await service.run()


async def target(swarm: Swarm, through: Multiaddr) -> None:
    peer = Peer(swarm)
    swarm.on_connected.append(peer.become_direct)
    await peer.reach_relay(through)
    say("ready", id=str(swarm.identity.peer_id))
    await trio.sleep_forever()


async def source(swarm: Swarm, through: Multiaddr, goal: PeerId) -> None:
    peer = Peer(swarm)
    swarm.on_connected.append(peer.become_direct)
    await peer.reach_relay(through)
    say("ready", id=str(swarm.identity.peer_id))
    await swarm.dial(goal, [Multiaddr(f"{through}/p2p-circuit/p2p/{goal}")])
    await swarm.wait_direct(goal)
    async with await swarm.open_stream(goal, [PING]) as stream:
        await stream.send_all(b"x" * 32)
        assert await stream.receive_exactly(32) == b"x" * 32
    say("pinged")
    await trio.sleep_forever()


async def main(*words: str) -> None:
    role, *arguments = words
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("lattica").setLevel(logging.DEBUG)
    count = {"relay": 0, "target": 1, "source": 2}[role]
    swarm = Swarm(Identity.generate(), SwarmConfig(listen=tuple(arguments[count:])))
    serve_standard(swarm)

    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        if role == "relay":
            await relay(swarm)
        elif role == "target":
            await target(swarm, Multiaddr(arguments[0]))
        else:
            await source(swarm, Multiaddr(arguments[0]), parse_peer_id(arguments[1]))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
