"""What the local API of a node adds to a call: the same method of the same peer is called by it,
and by a node of the program's own, in turns."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica.daemon.api.client import NodeClient
from lattica.node import Node

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
else:
    import bench_child as bc

CASE = "local-api-p50"
_IN_TURN = 20
_DATA = bytes(128)


async def run_client(child: bc.Child, job: bc.Job, node: Node) -> None:
    """Measure; the peer at `job.addr` serves `Bench.echo`."""
    peer = str(await node.connect(job.addr))
    folder = Path(tempfile.mkdtemp(dir="."))
    command = [sys.executable, "-m", "lattica", "node", "--data-dir", str(folder)]
    command += ["--listen", f"/ip4/{job.host}/tcp/0", "--connect", job.addr]
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stdout=subprocess.DEVNULL)
        await nursery.start(run)
        socket = folder / "node.sock"
        while not socket.exists():  # noqa: ASYNC110
            await trio.sleep(0.05)
        with NodeClient(socket) as client:
            await trio.to_thread.run_sync(client.connect, job.addr)
            taken = await _measure(node, client, peer, job)
        nursery.cancel_scope.cancel()
    own, by_it = (statistics.median(each) * 1000 for each in taken)
    child.result(
        {CASE: by_it, "local-api-added-p50": by_it - own},
        f"lattica: TCP, Noise, yamux; {len(taken[0])} calls each, {own:.2f} ms without",
    )


async def _measure(
    node: Node, client: NodeClient, peer: str, job: bc.Job
) -> tuple[list[float], list[float]]:
    """Seconds of calls by the program's own node, and by the API."""
    own: list[float] = []
    by_it: list[float] = []

    def call_by_it() -> list[float]:
        times = []
        for _ in range(_IN_TURN):
            began = time.perf_counter()
            client.call(peer, "Bench.echo", _DATA)
            times.append(time.perf_counter() - began)
        return times

    began = trio.current_time()
    while (now := trio.current_time()) < began + job.warmup + job.seconds or not own:
        by_turn = await trio.to_thread.run_sync(call_by_it)
        own_turn = []
        for _ in range(_IN_TURN):
            before = time.perf_counter()
            await node.rpc.call(peer, "Bench.echo", _DATA)
            own_turn.append(time.perf_counter() - before)
        if now >= began + job.warmup:
            own += own_turn
            by_it += by_turn
    return own, by_it
