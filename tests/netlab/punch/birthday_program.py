"""A relay, and peers that meet by the birthday method alone, as programs in a lab's hosts.

    birthday_program.py relay HOST
    birthday_program.py target RELAY MAPPING FILTERING MAPPED_HOST MAPPED_PORT
    birthday_program.py source RELAY MAPPING FILTERING MAPPED_HOST MAPPED_PORT TARGET

The target has a reservation; the source connects to it through the relay, and the target, to which
that connection is inbound, tries to make it direct. What is known of the NATs is given. JSON
events: `ready` (addr or peer), `direct` (path, seconds, files: how many more are open than before),
`failed` (reason, files), `pinged` (path).
"""

from __future__ import annotations

import json
import logging
import os
import sys

import trio

from lattica.errors import LatticaError
from lattica.nat.base.keys.identity import Identity, PeerId, parse_peer_id
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.services.standard import serve_standard
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.birthday.strategy import BirthdayStrategy
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport, ask_relay
from lattica.nat.traversal.relay.messages import HopStatus, Reserve, Status
from lattica.nat.traversal.relay.server.limits import RelayLimits
from lattica.nat.traversal.relay.server.service import RelayService

ECHO = "/test/echo/1"


def say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def relay(swarm: Swarm, host: str) -> None:
    service = RelayService(swarm, RelayLimits(open_to_strangers=True))
    swarm.protocols.handle_all(service.handlers)
    say("ready", addr=f"/ip4/{host}/tcp/4001/p2p/{swarm.identity.peer_id}")
    await service.run()


class Peer:
    """A swarm with a relay and one strategy to a direct connection."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.strategy = BirthdayStrategy(swarm)
        self.transport = CircuitTransport(swarm)
        swarm.add_transport(self.transport)
        for handlers in (self.transport.handlers, self.strategy.handlers, {ECHO: echo}):
            swarm.protocols.handle_all(handlers)

    async def reserve(self, relay: Multiaddr) -> None:
        addr, relay_id = split_peer(relay)
        assert relay_id is not None
        connection = await self.swarm.dial(relay_id, [addr])
        stream, answer = await ask_relay(connection, Reserve())
        assert isinstance(answer, HopStatus)
        assert answer.status is Status.OK, answer
        await stream.aclose()
        self.transport.accepts_from.add(relay_id)
        self.swarm.on_connected.append(self.become_direct)
        say("ready", peer=str(self.swarm.identity.peer_id))
        await trio.sleep_forever()

    async def become_direct(self, connection: Connection) -> None:
        if not connection.is_relayed or connection.direction is not Direction.INBOUND:
            return
        start, files = trio.current_time(), open_files()
        try:
            direct = await self.strategy.attempt(connection)
        except (LatticaError, OSError) as error:
            say("failed", reason=str(error), files=open_files() - files)
            return
        seconds = trio.current_time() - start
        say("direct", path=direct.path, seconds=seconds, files=open_files() - files)

    async def reach(self, relay: Multiaddr, target: PeerId) -> None:
        await self.swarm.dial(target, [Multiaddr(f"{relay}/p2p-circuit/p2p/{target}")])
        direct = await self.swarm.wait_direct(target)
        async with await self.swarm.open_stream(target, [ECHO]) as stream:
            await stream.send_all(b"x" * 32)
            assert await stream.receive_exactly(32) == b"x" * 32
        say("pinged", path=direct.path)


async def main(*words: str) -> None:
    role, *arguments = words
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("lattica").setLevel(logging.DEBUG)
    listen = ("/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1/noise")
    swarm = Swarm(Identity.generate(), SwarmConfig(listen=listen))
    serve_standard(swarm)
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        if role == "relay":
            await relay(swarm, arguments[0])
            return
        through, mapping, filtering, host, port, *rest = arguments
        swarm.nat.set(
            NatReport(
                mapping=Behaviour(mapping),
                filtering=Behaviour(filtering),
                mapped=((host, int(port)),),
            )
        )
        peer = Peer(swarm)
        if role == "target":
            await peer.reserve(Multiaddr(through))
        else:
            await peer.reach(Multiaddr(through), parse_peer_id(rest[0]))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
