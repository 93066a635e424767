"""Very many connections in a node's life, and many at once: all served, nothing left."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from lattica.nat.config import Timeouts
from lattica.node import Node
from tests.support.nets.nets import ECHO, ask_echo, echo, node_config, open_files, settled, tasks

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def dialers(*arguments: object) -> AsyncIterator[trio.Process]:
    """The other process, which is to end well by itself."""
    command = [sys.executable, "-m", "tests.loopback.commands.dialers", *map(str, arguments)]
    process = await trio.lowlevel.open_process(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        try:
            yield process
            assert await process.wait() == 0
        finally:
            process.kill()


async def line(process: trio.Process) -> bytes:
    assert process.stdout is not None
    received = b""
    while not received.endswith(b"\n"):
        data = await process.stdout.receive_some()
        assert data, "the process has ended"
        received += data
    return received


@asynccontextmanager
async def serving() -> AsyncIterator[Node]:
    """A node that serves, also an honest peer, and has nothing left of the others at the end."""
    # A busy machine may give neither side a turn for long.
    patient = node_config(
        timeouts=Timeouts(handshake=120, negotiate=120, keep_alive_timeout=120, delivery=120)
    )
    async with Node(patient) as node, Node(node_config()) as honest:
        node.handle(ECHO, echo)
        await honest.connect(node.addrs[0])
        await settled(lambda: all(n.peers() and n.peers()[0].agent for n in (node, honest)))
        gc.collect()  # what other tests have left open is none of these
        before = tasks(), open_files()
        yield node
        await settled(lambda: set(node.swarm.registry.by_peer) == {honest.peer_id})
        await settled(lambda: (tasks(), open_files()) == before)
        assert node.swarm.registry.total == 1
        assert node.swarm.inbound_streams.negotiating == {}
        assert not node.swarm.listeners.pending
        assert node.swarm.receive_memory.used == 0
        assert len(node._identify._asked) == 1
        assert await ask_echo(honest, node.peer_id) == b"hello"


@pytest.mark.slow
async def test_a_thousand_one_after_another():
    """Ten thousand with `CONNECTIONS=10000`."""
    count = int(os.environ.get("CONNECTIONS", "1000"))
    async with serving() as node, dialers("after", node.swarm.addrs[0], count, 10) as process:
        assert await line(process) == b"served\n"


async def test_a_thousand_at_once():
    async with serving() as node, dialers("at-once", node.swarm.addrs[0], 1000) as process:
        assert await line(process) == b"served\n"
        assert node.swarm.registry.total == 1001
        assert len(node.peers()) == 1001
        assert process.stdin is not None
        await process.stdin.send_all(b"go\n")
