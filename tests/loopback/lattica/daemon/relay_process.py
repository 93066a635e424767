"""A relay as an operator runs it: `lattica relay` in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from lattica import Node
from lattica.config import NodeConfig, load_config
from tests.loopback.commands.commands import LATTICA


@dataclass
class RelayProcess:
    """One that runs."""

    process: trio.Process
    data_dir: Path
    addrs: list[str]

    @property
    def addr(self) -> str:
        """The first, where it has no other."""
        return self.addrs[0]

    async def command(self, *arguments: str) -> str:
        """What a command of the operator's prints."""
        command = [*LATTICA, "relay", *arguments, "--data-dir", str(self.data_dir)]
        done = await trio.run_process(command, capture_stdout=True)
        return done.stdout.decode()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def relay_process(
    data_dir: Path, *arguments: str, listen: str = "/ip4/127.0.0.1/tcp/0"
) -> AsyncIterator[RelayProcess]:
    """`lattica relay ARGUMENTS` on loopback, killed at the end."""
    command = [*LATTICA, "relay", *arguments, "--data-dir", str(data_dir), "--json"]
    command += ["--listen", listen]
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process, command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
        )
        process: trio.Process = await nursery.start(start)
        try:
            assert process.stdout is not None
            text = b""
            with trio.fail_after(60):
                while b"\n" not in text:
                    part = await process.stdout.receive_some()
                    assert part, "the relay has ended"
                    text += part
            nursery.start_soon(_drain, process)
            yield RelayProcess(process, data_dir, json.loads(text.splitlines()[0])["addrs"])
        finally:
            process.kill()


def client(*relays: str, token: str = "", patient: bool = False) -> NodeConfig:
    """For a node that is reached through one of these relays only. `patient`: it tries again as
    seldom as nodes do by default."""
    settings: dict[str, object] = {
        "listen": [],
        "nat.relay.relays": list(relays),
        "nat.relay.reservations": 1,
        "nat.relay.tokens": [token] if token else [],
        **({} if patient else {"nat.relay.retry_limit": 0.5}),
    }
    return load_config(None, {"LATTICA_NAT__PORT_MAPPING__ENABLED": "false"}, settings)


def is_at(node: Node, relay: str) -> bool:
    """Whether the node says that it is reached through a relay."""
    peer = relay.rpartition("/")[2]
    return any(f"/p2p/{peer}/p2p-circuit" in str(addr) for addr in node.addrs)


async def _drain(process: trio.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.receive_some():
        pass
