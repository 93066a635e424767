"""Ours: :class:`lattica.node.Node` with its defaults, on TCP with Noise and yamux or on QUIC.

Run as a script in the environment of the checkout: `python impl_lattica.py server|client …`.
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
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.stream import Stream
from lattica.node import Node
from lattica.rpc import RpcConfig

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.ours import content, local_api, lost_relay, ports, pubsub, rpc
    from tools.bench.programs.ours import relay as through_relay
    from tools.bench.programs.ours.stream import BenchStream
    from tools.bench.programs.work import trio_workloads as work
else:
    import bench_child as bc
    from ours import content, local_api, lost_relay, ports, pubsub, rpc
    from ours import relay as through_relay
    from ours.stream import BenchStream
    from work import trio_workloads as work


QUIC = "quic-v1/noise"
TRANSPORTS = {"tcp": "TCP, Noise, yamux", "quic": "QUIC"}


def make_node(*listen: str, shares_memory: bool = False) -> Node:
    """A node with a key of its own, in a data directory of the runner's temporary folder.

    It shares no memory with the other process unless asked to: what is measured is the network.
    """
    data = Path(tempfile.mkdtemp(dir="."))
    rpc = RpcConfig() if shares_memory else RpcConfig(shared_memory=0)
    return Node(NodeConfig(swarm=SwarmConfig(listen=listen), rpc=rpc, data_dir=data))


class Dialer:
    """:class:`trio_workloads.Dialer` over a running node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._peer: PeerId | None = None

    def _known(self) -> PeerId:
        if self._peer is None:
            raise RuntimeError("connect first")
        return self._peer

    async def connect(self, addr: str) -> None:
        self._peer = await self._node.connect(addr)

    async def disconnect(self) -> None:
        await self._node.disconnect(self._known())

    async def open(self, protocol: str) -> BenchStream:
        return BenchStream(await self._node.open_stream(self._known(), protocol))


class Lattica:
    """:class:`trio_workloads.Implementation`."""

    max_connections: int | None = None

    def __init__(self, job: bc.Job) -> None:
        self.note = f"lattica: {TRANSPORTS[job.transport]}"

    @contextlib.asynccontextmanager
    async def dialer(self) -> AsyncIterator[Dialer]:
        async with make_node() as node:
            yield Dialer(node)


async def serve(child: bc.Child, job: bc.Job) -> None:
    async with make_node(bc.multiaddr(job, QUIC), shares_memory=_shares(job)) as node:
        if job.case.startswith("rpc-") or job.case == local_api.CASE:
            await rpc.serve(child, job, node, bc.multiaddr(job, QUIC, "{port}"))
        if job.case.startswith("ports-"):
            await ports.serve(child, job, node, bc.multiaddr(job, QUIC, "{port}"))
        for protocol, handler in work.HANDLERS.items():

            async def handle(stream: Stream, handler: work.Handler = handler) -> None:
                await handler(BenchStream(stream))

            node.handle(protocol, handle)
        port = int(str(node.addrs[0]).split("/")[4])
        addr = f"{bc.multiaddr(job, QUIC, '{port}')}/p2p/{node.peer_id}"
        if job.case in content.CASES:
            await content.serve(child, node, port)
        if job.case == pubsub.CASE:
            await pubsub.serve(child, node, addr, port)
        child.ready(addr, port)
        await trio.sleep_forever()


def _shares(job: bc.Job) -> bool:
    return job.case == "rpc-shm-1MiB"


async def call(child: bc.Child, job: bc.Job) -> None:
    async with make_node(shares_memory=_shares(job)) as node:
        if job.case.startswith("ports-"):
            await ports.run_client(child, job, node)
        peer = await node.connect(job.addr)
        note = f"lattica: {TRANSPORTS[job.transport]}"
        await rpc.run_client(child, job, node.rpc, peer, note)


async def call_by_api(child: bc.Child, job: bc.Job) -> None:
    async with make_node() as node:
        await local_api.run_client(child, job, node)


async def publish(child: bc.Child, job: bc.Job) -> None:
    async with make_node() as node:
        await node.connect(job.addr)
        await pubsub.run_client(child, job, node, f"lattica: {TRANSPORTS[job.transport]}")


async def fetch(child: bc.Child, job: bc.Job) -> None:
    async with make_node() as node:
        await content.run_client(child, job, node)


def main(child: bc.Child, job: bc.Job) -> None:
    if job.transport == "relay":
        through_relay.main(child, job)
    elif job.role == "server":
        trio.run(serve, child, job)
    elif job.case.startswith(("rpc-", "ports-")):
        trio.run(call, child, job)
    elif job.case == local_api.CASE:
        trio.run(call_by_api, child, job)
    elif job.case == lost_relay.CASE:
        trio.run(lost_relay.run_client, child, job)
    elif job.case in content.CASES:
        trio.run(fetch, child, job)
    elif job.case == pubsub.CASE:
        trio.run(publish, child, job)
    else:
        trio.run(partial(work.run_client, child, job, Lattica(job)))


if __name__ == "__main__":
    bc.run(main)
