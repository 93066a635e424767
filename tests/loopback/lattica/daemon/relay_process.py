"""A relay as an operator runs it: `lattica relay` in a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

LATTICA = [sys.executable, "-c", "from lattica.cli import main; main()"]


def free_port() -> int:
    """A TCP port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class RelayProcess:
    """One that runs."""

    process: trio.Process
    data_dir: Path
    addr: str

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
            with trio.fail_after(30):
                while b"\n" not in text:
                    part = await process.stdout.receive_some()
                    assert part, "the relay has ended"
                    text += part
            nursery.start_soon(_drain, process)
            addr = json.loads(text.splitlines()[0])["addrs"][0]
            yield RelayProcess(process, data_dir, addr)
        finally:
            process.kill()


async def _drain(process: trio.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.receive_some():
        pass
