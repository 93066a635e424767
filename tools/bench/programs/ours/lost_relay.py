"""How long a node is reached by nobody when its relay is killed: until another one holds a place
for it, and until the one that it knows does so again, once that runs again."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica.config import NodeConfig
from lattica.nat.config import SwarmConfig
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.portmap.config import PortMappingConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.node import Node

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
else:
    import bench_child as bc

CASE = "lost-to-other-p50"
DOWN = 5.0
"""Seconds between the relay's end and its new start."""


class _Relay:
    """`lattica relay` with a port and a data directory that it keeps from start to start."""

    def __init__(self, host: str, nursery: trio.Nursery) -> None:
        self.addr = ""
        self._listen = f"/ip4/{host}/tcp/0"
        self._folder = tempfile.mkdtemp(dir=".")
        self._nursery = nursery

    async def start(self) -> None:
        """Return when it says that it is ready."""
        command = [sys.executable, "-m", "lattica", "relay", "--open", "--json"]
        command += ["--data-dir", self._folder, "--listen", self._listen]
        run = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        self._process: trio.Process = await self._nursery.start(run)
        assert self._process.stdout is not None
        text = b""
        while b"\n" not in text:
            part = await self._process.stdout.receive_some()
            if not part:
                raise RuntimeError("the relay has ended")
            text += part
        self.addr = json.loads(text.splitlines()[0])["addrs"][0]
        self._listen = self.addr.partition("/p2p/")[0]

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()


async def run_client(child: bc.Child, job: bc.Job) -> None:
    to_other: list[float] = []
    back: list[float] = []
    async with trio.open_nursery() as nursery:
        first, second = (_Relay(job.host, nursery) for _ in range(2))
        for relay in (first, second):
            await relay.start()
        for _ in range(bc.LOST_RELAYS):
            async with _node(first.addr, second.addr) as node:
                await node.wait_reachable()
                used, spare = (first, second) if _is_at(node, first) else (second, first)
                await used.kill()
                to_other.append(await _seconds_until_at(node, spare))
                await used.start()
        for _ in range(bc.LOST_RELAYS):
            async with _node(first.addr) as node:
                await node.wait_reachable()
                await first.kill()
                await trio.sleep(DOWN)
                await first.start()
                back.append(await _seconds_until_at(node, first))
        for relay in (first, second):
            await relay.kill()
    values = {
        CASE: statistics.median(to_other),
        "lost-to-other-worst": max(to_other),
        "lost-back-p50": statistics.median(back),
        "lost-back-worst": max(back),
    }
    child.result(values, f"lattica: TCP, Noise, yamux; {bc.LOST_RELAYS} times each")


def _node(*relays: str) -> Node:
    """One that is reached through one of these relays, and in no other way."""
    nat = TraversalConfig(
        relay=RelayClientConfig(relays=relays, reservations=1),
        port_mapping=PortMappingConfig(enabled=False),
    )
    data = Path(tempfile.mkdtemp(dir="."))
    return Node(NodeConfig(swarm=SwarmConfig(listen=()), nat=nat, data_dir=data))


def _is_at(node: Node, relay: _Relay) -> bool:
    peer = relay.addr.rpartition("/")[2]
    return any(f"/p2p/{peer}/p2p-circuit" in str(addr) for addr in node.addrs)


async def _seconds_until_at(node: Node, relay: _Relay) -> float:
    began = trio.current_time()
    while not _is_at(node, relay):  # noqa: ASYNC110
        await trio.sleep(0.005)
    return trio.current_time() - began
