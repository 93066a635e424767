"""hivemind's RPC (`hivemind.p2p`): Python in front of a daemon in Go, which has the connections.

Run as a script in its own virtual environment: `python impl_hivemind.py server|client …`. Its calls
are protobuf messages, here its own `Tensor`; the daemons speak TLS 1.3 or Noise to each other, or
QUIC, and each is a process beside its program's: four processes in all. As the relay there are four
daemons more, for one that is to be called through a relay waits three minutes if it knows fewer.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.work import asyncio_calls as calls
else:
    import bench_child as bc
    from work import asyncio_calls as calls

hivemind: Any = importlib.import_module("hivemind")
p2p: Any = importlib.import_module("hivemind.p2p")
Message: Any = importlib.import_module("hivemind.proto.runtime_pb2").Tensor

TRANSPORTS = {
    "tcp": "TCP, TLS or Noise",
    "quic": "QUIC",
    "relay": "through a relay of its own, TCP, TLS or Noise",
}
PR_SET_PDEATHSIG = 1
RELAYS = 4
"""Daemons that relay: go-libp2p's AutoRelay chooses at once where it knows so many."""
RESERVED_LIMIT = 30.0
"""Seconds until the server must have a place at a relay."""


async def make_node(job: bc.Job, peers: tuple[str, ...] = (), **more: Any) -> Any:
    """A node with everything off that a benchmark on loopback has no use for."""
    prctl = ctypes.CDLL(None).prctl
    # Its daemon is to end with this process, however that ends.
    start = asyncio.create_subprocess_exec
    asyncio.subprocess.create_subprocess_exec = partial(
        start, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    )
    if job.transport == "relay" and job.role != "relay":
        more |= {"no_listen": True, "host_maddrs": None}
    return await p2p.P2P.create(
        peers,
        **{"host_maddrs": [bc.multiaddr(job, "quic-v1")], "use_relay": job.transport == "relay"}
        | more,
        auto_nat=False,
        nat_port_map=False,
        dht_mode="client",
    )


async def relay(child: bc.Child, job: bc.Job) -> None:
    nodes = [await make_node(job, force_reachability="public") for _ in range(RELAYS)]
    addrs = [str((await node.get_visible_maddrs())[0]) for node in nodes]
    child.ready(",".join(addrs), int(addrs[0].split("/")[4]))
    await asyncio.Future()


async def echo(request: Any, _context: object) -> Any:
    return request


async def source(_request: Any, _context: object) -> AsyncIterator[Any]:
    message = Message(buffer=calls.PAYLOAD)
    while True:
        yield message


async def serve(child: bc.Child, job: bc.Job) -> None:
    if job.transport == "relay":
        relays = tuple(job.addr.split(","))
        node = await make_node(
            job,
            relays,
            trusted_relays=relays,
            use_auto_relay=True,
            force_reachability="private",
        )
        # It does not tell by which of them it can be reached.
        addrs = [f"{each}/p2p-circuit/p2p/{node.peer_id}" for each in relays]
    else:
        node = await make_node(job)
        addrs = [str((await node.get_visible_maddrs())[0])]
    await node.add_protobuf_handler("echo", echo, Message)
    await node.add_protobuf_handler("source", source, Message, stream_output=True)
    child.ready(",".join(addrs), int(addrs[0].split("/")[4]))
    await asyncio.Future()


class Calls:
    """:class:`asyncio_calls.Calls`."""

    def __init__(self, node: Any, peer: Any) -> None:
        self._node = node
        self._peer = peer

    async def echo(self, message: bytes) -> object:
        return await self._node.call_protobuf_handler(
            self._peer, "echo", Message(buffer=message), Message
        )

    async def messages(self) -> AsyncIterator[bytes]:
        stream = await self._node.iterate_protobuf_handler(self._peer, "source", Message(), Message)
        try:
            async for message in stream:
                yield message.buffer
        finally:
            await stream.aclose()


async def connect(job: bc.Job) -> Any:
    """A node that is connected to the server."""
    deadline = time.perf_counter() + RESERVED_LIMIT
    while True:
        try:
            return await make_node(job, tuple(job.addr.split(",")))
        except p2p.P2PDaemonError:
            if job.transport != "relay" or time.perf_counter() > deadline:
                raise
            await asyncio.sleep(0.5)


async def run_client(child: bc.Child, job: bc.Job) -> None:
    node = await connect(job)
    await node.wait_for_at_least_n_peers(1)
    peer = p2p.PeerID.from_base58(job.addr.rpartition("/")[2])
    note = f"hivemind {hivemind.__version__}: {TRANSPORTS[job.transport]}, a daemon in Go each side"
    child.result(await calls.run(Calls(node, peer), job), note)


def main(child: bc.Child, job: bc.Job) -> None:
    if not job.case.startswith("rpc-"):
        raise bc.Unsupported("only calls are made here")
    if job.case == "rpc-array-1GiB-rss-ratio":
        raise bc.Unsupported("its messages have at most 4 MiB")
    asyncio.run({"relay": relay, "server": serve, "client": run_client}[job.role](child, job))


if __name__ == "__main__":
    bc.run(main)
