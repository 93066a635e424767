"""Swarms without a host that reach each other through a relay and in no other way.

So what a node does in the background is not measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import trio

from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport, ask_relay, split_circuit
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.messages import Reserve, Status
from lattica.nat.traversal.relay.server.limits import RelayLimits, StrangerLimits

if TYPE_CHECKING:
    from tools.bench.programs.ours.stream import BenchStream
else:
    from ours.stream import BenchStream

NOTE = "lattica: TCP, Noise, yamux, and the same again through the relay"
UNLIMITED = RelayLimits(
    open_to_strangers=True,
    strangers_rate=0,
    circuits_per_network=1000,
    for_strangers=StrangerLimits(duration=0, data=0, rate=0, per_peer=1000),
)


class Dialer:
    """:class:`trio_workloads.Dialer` over a running swarm."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._peer: PeerId | None = None

    async def connect_relay(self, addr: str) -> None:
        relay_addr, relay, _ = split_circuit(Multiaddr(addr))
        await self._swarm.dial(relay, [relay_addr])

    async def connect_directly(self, addr: str) -> None:
        through, self._peer = split_peer(Multiaddr(addr))
        await self._swarm.dial(self._peer, [through])

    async def connect(self, addr: str) -> None:
        through, self._peer = split_peer(Multiaddr(addr))
        connection = await self._swarm.dial(self._peer, [through])
        if not connection.is_relayed:
            raise RuntimeError(f"there is another way to the server: {connection}")

    async def disconnect(self) -> None:
        assert self._peer is not None, "connect first"
        await self._swarm.disconnect(self._peer)

    async def open(self, protocol: str) -> BenchStream:
        assert self._peer is not None, "connect first"
        return BenchStream(await self._swarm.open_stream(self._peer, [protocol]))


@contextlib.asynccontextmanager
async def swarm_of(*listen: str) -> AsyncIterator[tuple[Swarm, CircuitTransport]]:
    """A running swarm that can dial, and be dialed, through relays."""
    swarm = Swarm(Identity.generate(), SwarmConfig(listen=listen))
    circuits = CircuitTransport(swarm, RelayClientConfig(max_inbound_pending=1000))
    swarm.add_transport(circuits)
    swarm.protocols.handle_all(circuits.handlers)
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        yield swarm, circuits
        nursery.cancel_scope.cancel()


class Lattica:
    """:class:`trio_workloads.Implementation`."""

    note = NOTE
    max_connections: int | None = None

    @contextlib.asynccontextmanager
    async def dialer(self) -> AsyncIterator[Dialer]:
        async with swarm_of() as (swarm, _):
            yield Dialer(swarm)


async def reserve(connection: Connection) -> None:
    """Have a place at the relay at the other end."""
    stream, answer = await ask_relay(connection, Reserve())
    await stream.aclose()
    if answer.status is not Status.OK:
        raise RuntimeError(f"the relay says {answer.status.name}")
