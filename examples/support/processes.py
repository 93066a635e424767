"""An example in several processes: one file, which says by its arguments what this process does.

async def worker(address: str) -> None: ...          # in a process of its own
async def main(*, is_long: bool) -> None:
    async with processes() as crew:
        killed = await crew.start(address=...)        # runs worker(address=...)
        killed.kill()                                # SIGKILL

if __name__ == "__main__":
    run(main, worker)
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from lattica import NodeConfig, load_config

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def config(**settings: object) -> NodeConfig:
    """For a node of an example: on loopback, and asking no router for anything.

    `rpc__call_timeout=5` is the setting `rpc.call_timeout`.
    """

    quiet = {"listen": [LOOPBACK], "nat.port_mapping.enabled": False, "log_level": "error"}
    given = {name.replace("__", "."): value for name, value in settings.items()}
    return load_config(environment={}, overrides={**quiet, **given})


class Crew:
    """The processes of an example."""

    def __init__(self) -> None:
        self.processes: list[trio.Process] = []

    async def start(self, **arguments: Any) -> trio.Process:
        """A process that runs the example's `worker` with these arguments; plain data."""
        process = await trio.lowlevel.open_process(
            [sys.executable, sys.argv[0], "--worker", json.dumps(arguments)],
            stdin=-1,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self.processes.append(process)
        return process

    async def end(self, process: trio.Process) -> None:
        """Kill a process by SIGKILL, and see that it did not end by itself before."""
        process.kill()
        await process.wait()
        assert process.returncode == -signal.SIGKILL, f"ended with {process.returncode}"

    def check(self) -> None:
        """Raises AssertionError if a process has failed."""
        for process in self.processes:
            code = process.poll()
            assert code in (None, 0, -signal.SIGKILL), f"a process ended with {code}"


@asynccontextmanager
async def processes() -> AsyncIterator[Crew]:
    """The processes that are started in it are killed at its end."""
    crew = Crew()
    try:
        yield crew
        crew.check()
    finally:
        with trio.CancelScope(shield=True):
            for process in crew.processes:
                process.kill()
            for process in crew.processes:
                await process.wait()


def run(main: Callable[..., Awaitable[None]], worker: Callable[..., Awaitable[None]]) -> None:
    """What a script does: `main`, or in a process that it has started, `worker`."""
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="the figures of the long form")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is None:
        trio.run(partial(main, is_long=given.long))
    else:
        trio.run(_until_parent_ends, partial(worker, **given.worker))


async def _until_parent_ends(work: Callable[[], Awaitable[None]]) -> None:
    """Nobody is left behind when the first process is killed: its pipe ends then."""

    async def watch() -> None:
        async with trio.lowlevel.FdStream(os.dup(0)) as pipe:
            await pipe.receive_some()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await work()
        nursery.cancel_scope.cancel()
