"""hivemind's RPC (`hivemind.p2p`): Python in front of a daemon in Go, which has the connections.

Run as a script in its own virtual environment: `python impl_hivemind.py server|client …`. Its calls
are protobuf messages, here its own `Tensor`; the daemons speak TLS 1.3 or Noise to each other, and
each is a process beside its program's: four processes in all.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import signal
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

NOTE = f"hivemind {hivemind.__version__}: TCP, TLS or Noise, by a daemon in Go on each side"
PR_SET_PDEATHSIG = 1


async def make_node(job: bc.Job, peers: tuple[str, ...] = ()) -> Any:
    """A node with everything off that a benchmark on loopback has no use for."""
    prctl = ctypes.CDLL(None).prctl
    # Its daemon is to end with this process, however that ends.
    start = asyncio.create_subprocess_exec
    asyncio.subprocess.create_subprocess_exec = partial(
        start, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    )
    return await p2p.P2P.create(
        peers,
        host_maddrs=[f"/ip4/{job.host}/tcp/0"],
        auto_nat=False,
        nat_port_map=False,
        use_relay=False,
        dht_mode="client",
    )


async def echo(request: Any, _context: object) -> Any:
    return request


async def source(_request: Any, _context: object) -> AsyncIterator[Any]:
    message = Message(buffer=calls.PAYLOAD)
    while True:
        yield message


async def serve(child: bc.Child, job: bc.Job) -> None:
    node = await make_node(job)
    await node.add_protobuf_handler("echo", echo, Message)
    await node.add_protobuf_handler("source", source, Message, stream_output=True)
    addr = str((await node.get_visible_maddrs())[0])
    port = int(addr.split("/")[4])
    child.ready(addr.replace(f"/{port}/", "/{port}/"), port)
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


async def run_client(child: bc.Child, job: bc.Job) -> None:
    node = await make_node(job, (job.addr,))
    await node.wait_for_at_least_n_peers(1)
    peer = p2p.PeerID.from_base58(job.addr.rpartition("/")[2])
    if job.case == "rpc-array-1GiB-rss-ratio":
        raise bc.Unsupported("its messages have at most 4 MiB")
    child.result(await calls.run(Calls(node, peer), job), NOTE)


def main(child: bc.Child, job: bc.Job) -> None:
    if job.transport != "tcp" or not job.case.startswith("rpc-"):
        raise bc.Unsupported("only calls over TCP are made here")
    if job.role == "server":
        asyncio.run(serve(child, job))
    else:
        asyncio.run(run_client(child, job))


if __name__ == "__main__":
    bc.run(main)
