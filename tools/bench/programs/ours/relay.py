"""Ours through a relay: three processes, each with one connection over TCP or two.

Streams on swarms without a host, so that what a node does in the background is not measured; calls
on nodes that look for no direct path. Started by `impl_lattica.py`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica.config import NodeConfig
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.punch.config import PunchConfig
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport, ask_relay, split_circuit
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.messages import Reserve, Status
from lattica.nat.traversal.relay.server.limits import RelayLimits, StrangerLimits
from lattica.nat.traversal.relay.server.service import RelayService
from lattica.node import Node

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.ours import rpc
    from tools.bench.programs.ours.stream import BenchStream
    from tools.bench.programs.work import trio_workloads as work
else:
    import bench_child as bc
    from ours import rpc
    from ours.stream import BenchStream
    from work import trio_workloads as work

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


async def relay(child: bc.Child, job: bc.Job) -> None:
    async with swarm_of(f"/ip4/{job.host}/tcp/0") as (swarm, _), trio.open_nursery() as nursery:
        service = RelayService(swarm, UNLIMITED)
        swarm.protocols.handle_all(service.handlers)
        await nursery.start(service.run)
        port = int(str(swarm.addrs[0]).split("/")[4])
        child.ready(f"/ip4/{job.host}/tcp/{{port}}/p2p/{swarm.identity.peer_id}", port)
        await trio.sleep_forever()


async def serve(child: bc.Child, job: bc.Job) -> None:
    relay_addr, relay_id = split_peer(Multiaddr(job.addr))
    assert relay_id is not None
    async with swarm_of() as (swarm, circuits):
        circuits.accepts_from.add(relay_id)
        for protocol, handler in work.HANDLERS.items():

            async def handle(stream: Stream, handler: work.Handler = handler) -> None:
                await handler(BenchStream(stream))

            swarm.protocols.handle(protocol, handle)
        connection = await swarm.dial(relay_id, [relay_addr])
        stream, answer = await ask_relay(connection, Reserve())
        await stream.aclose()
        if answer.status is not Status.OK:
            raise RuntimeError(f"the relay says {answer.status.name}")
        port = int(job.addr.split("/")[4])
        child.ready(f"{job.addr}/p2p-circuit/p2p/{swarm.identity.peer_id}", port)
        await trio.sleep_forever()


async def pour(stream: work.BenchStream) -> None:
    while True:
        await stream.send(work.PAYLOAD)


async def circuit_memory(child: bc.Child, job: bc.Job) -> None:
    """KiB of the relay per circuit, each of a client of its own that was connected before."""
    stages = {"warm": bc.CIRCUIT_WARM, "loaded": bc.CIRCUITS}
    async with contextlib.AsyncExitStack() as stack, trio.open_nursery() as nursery:
        waiting: list[Dialer] = []
        for _ in range(sum(stages.values())):
            dialer = await stack.enter_async_context(Lattica().dialer())
            await dialer.connect_relay(job.addr)
            waiting.append(dialer)
        readings = []
        for name, count in stages.items():
            for _ in range(count):
                dialer = waiting.pop()
                await dialer.connect(job.addr)
                stream = await dialer.open(work.ACKED)
                await stream.send(work.PAYLOAD)
                await stream.receive_exactly(1)
                if job.case == "circuit-memory-busy":
                    nursery.start_soon(pour, await work.open_sink(dialer))
            readings.append(await trio.to_thread.run_sync(partial(child.sync, name)))
        grown = readings[1]["relay_rss"] - readings[0]["relay_rss"]
        child.result({job.case: grown / bc.KIB / bc.CIRCUITS}, f"{NOTE}; {bc.CIRCUITS} circuits")


def relayed_node(relay: str) -> Node:
    """A node that is reached through a relay, and in no other way."""
    data = Path(tempfile.mkdtemp(dir="."))
    nat = TraversalConfig(
        relay=RelayClientConfig(relays=(relay,)),
        port_mapping=PortMappingConfig(enabled=False),
        punch=PunchConfig(enabled=False),
        ice=IceConfig(enabled=False),
    )
    return Node(NodeConfig(swarm=SwarmConfig(listen=()), nat=nat, data_dir=data))


async def serve_calls(child: bc.Child, job: bc.Job) -> None:
    async with relayed_node(job.addr) as node:
        await node.wait_reachable()
        node.rpc.serve(rpc.Bench())
        port = int(job.addr.split("/")[4])
        child.ready(f"{job.addr}/p2p-circuit/p2p/{node.peer_id}", port)
        await trio.sleep_forever()


async def call(child: bc.Child, job: bc.Job) -> None:
    async with relayed_node(job.addr.partition("/p2p-circuit")[0]) as node:
        peer = await node.connect(job.addr)
        status = node.path(peer)
        if status is None or status.path != "relayed":
            raise RuntimeError(f"there is another way to the server: {status}")
        await rpc.run_client(child, job, node.rpc, peer, NOTE)


def main(child: bc.Child, job: bc.Job) -> None:
    is_calls = job.case.startswith("rpc-")
    if job.role == "relay":
        trio.run(relay, child, job)
    elif job.role == "server":
        trio.run(serve_calls if is_calls else serve, child, job)
    elif is_calls:
        trio.run(call, child, job)
    elif job.case.startswith("circuit-memory"):
        trio.run(circuit_memory, child, job)
    else:
        trio.run(partial(work.run_client, child, job, Lattica()))
