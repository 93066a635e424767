"""Ours through a relay: three processes, each with one connection over TCP or two.

Streams on swarms without a host, so that what a node does in the background is not measured; calls
on nodes that look for no direct path. Started by `impl_lattica.py`.
"""

from __future__ import annotations

import contextlib
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica.config import NodeConfig
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.stream import Stream
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.punch.config import PunchConfig
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.service import RelayService
from lattica.node import Node

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.ours import relay_load, rpc
    from tools.bench.programs.ours.relay_swarms import NOTE, UNLIMITED, Lattica, reserve, swarm_of
    from tools.bench.programs.ours.stream import BenchStream
    from tools.bench.programs.work import trio_workloads as work
else:
    import bench_child as bc
    from ours import relay_load, rpc
    from ours.relay_swarms import NOTE, UNLIMITED, Lattica, reserve, swarm_of
    from ours.stream import BenchStream
    from work import trio_workloads as work


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
    listen = relay_load.direct_listen(job)
    async with swarm_of(*listen) as (swarm, circuits):
        circuits.accepts_from.add(relay_id)
        for protocol, handler in work.HANDLERS.items():

            async def handle(stream: Stream, handler: work.Handler = handler) -> None:
                await handler(BenchStream(stream))

            swarm.protocols.handle(protocol, handle)
        connection = await swarm.dial(relay_id, [relay_addr])
        await reserve(connection)
        port = int(job.addr.split("/")[4])
        me = swarm.identity.peer_id
        direct = "".join(f" {addr}/p2p/{me}" for addr in swarm.addrs)
        child.ready(f"{job.addr}/p2p-circuit/p2p/{me}{direct}", port)
        await trio.sleep_forever()


async def pour(stream: work.BenchStream) -> None:
    while True:
        await stream.send(work.PAYLOAD)


async def circuit_memory(child: bc.Child, job: bc.Job) -> None:
    """KiB of the relay per circuit, each of a client of its own that was connected before."""
    stages = {"warm": bc.CIRCUIT_WARM, "loaded": bc.CIRCUITS}
    async with contextlib.AsyncExitStack() as stack, trio.open_nursery() as nursery:
        waiting = []
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
    elif job.case in relay_load.CASES:
        trio.run(relay_load.run_client, child, job)
    else:
        trio.run(partial(work.run_client, child, job, Lattica()))
