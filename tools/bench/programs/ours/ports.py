"""Ours: `node.ports` between a plain TCP client and a plain TCP service, as `lattica expose` and
`lattica forward` have it: four processes. Started by `impl_lattica.py`.

Service and client are those of `impl_tcp.py`, which are also run without anything between them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from lattica.node import Node

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
else:
    import bench_child as bc

NAME = "bench"
SCRIPT = Path(__file__).parents[1] / "impl_tcp.py"
NOTE = "lattica: a TCP connection over the mesh, by TCP, Noise, yamux; four processes"


def start(role: str, job: bc.Job, addr: str = "") -> subprocess.Popen[bytes]:
    """A program that ends with this process: its standard input does."""
    command = [sys.executable, str(SCRIPT), role, f"--case={job.case}", "--variant=plain"]
    times = [f"--seconds={job.seconds}", f"--warmup={job.warmup}", f"--addr={addr}"]
    return subprocess.Popen([*command, *times], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def event_of(program: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What it says. Raises RuntimeError when that is not what was asked for."""
    assert program.stdout is not None
    line = await trio.to_thread.run_sync(program.stdout.readline)
    event: dict[str, Any] = json.loads(line or b'{"event": "error", "message": "it has ended"}')
    if event["event"] not in ("ready", "result"):
        raise RuntimeError(f"{event['event']}: {event.get('message')}")
    return event


async def serve(child: bc.Child, job: bc.Job, node: Node, addr: str) -> None:
    """Expose a service on a node that can be reached at `addr`."""
    ready = await event_of(start("server", job))
    node.ports.expose(ready["port"], name=NAME, to="anyone")
    child.ready(f"{addr}/p2p/{node.peer_id}", int(str(node.addrs[0]).split("/")[4]))
    await trio.sleep_forever()


async def run_client(child: bc.Child, job: bc.Job, node: Node) -> None:
    forward = await node.ports.forward(job.addr, NAME, local=0)
    program = await trio.to_thread.run_sync(
        partial(start, "client", job, f"127.0.0.1:{forward.port}")
    )
    result = await event_of(program)
    child.result(result["values"], NOTE, result["bytes"])
