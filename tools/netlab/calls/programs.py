"""The two programs, in hosts of a lab: `serve` has the counter, `call` calls it. JSON events on
standard output.

    python -m tools.netlab.calls.programs serve RELAY…
    python -m tools.netlab.calls.programs call CALLS SECONDS RELAY…

They keep their files in the working directory (:mod:`tools.netlab.calls.ledger`), and go on where
they were when they are killed and started again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import trio

from lattica.config import NodeConfig
from lattica.nat.base.keys.identity import Identity
from lattica.nat.config import SwarmConfig
from lattica.nat.swarm.events import PathChanged, PeerConnected
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.node import Node
from lattica.rpc.client.stubs import with_options
from lattica.rpc.errors import RpcError
from tools.netlab.calls.ledger import ATTEMPTS, EXECUTED, MAY_HAVE_RUN, NOT_RUN, OK, OUTCOMES

LISTEN = ("/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1/noise")
LARGE = 100_000
"""Bytes: more than the control plane takes."""
ITEMS = 4
"""Of a stream of results or requests."""
CALL_TIMEOUT = 20.0
"""Seconds that a call has."""
LATE = 3 * CALL_TIMEOUT
"""Seconds in which it must have its outcome, on a machine that has much else to do."""
RETRY = 0.5
"""Seconds from a failure to the next call, until the server is reached."""
MAX_IN_FLIGHT = 400
"""Calls at a time; further ones begin when there is room."""
DRAIN = 120.0
"""Seconds in which, after the last call, nothing of the calls may be left at the server."""


def say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


class Journal:
    """A file that lines are added to, each at once."""

    def __init__(self, name: str) -> None:
        self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


class Counter:
    """The service. Every method notes its token when it does its work, and gives it back."""

    def __init__(self, node: Node) -> None:
        self._journal = Journal(EXECUTED)
        self._life = str(os.getpid())
        self._node = node
        self.count = 0

    def _do(self, token: str) -> str:
        self._journal.write(f"{token} {self._life}")
        self.count += 1
        return token

    async def add(self, token: str, before: float, after: float) -> str:
        """Waits `before` and `after` its work, in seconds: faults come at every point of a call."""
        await trio.sleep(before)
        self._do(token)
        await trio.sleep(after)
        return token

    def add_in_thread(self, token: str) -> str:
        return self._do(token)

    async def add_large(self, token: str, array: np.ndarray) -> str:
        return self._do(token)

    async def add_and_get(self, token: str) -> tuple[str, bytes]:
        return self._do(token), bytes(LARGE)

    async def watch(self, token: str) -> AsyncIterator[str]:
        self._do(token)
        for _ in range(ITEMS):
            await trio.sleep(0.002)
            yield token

    async def gather(self, tokens: AsyncIterator[str]) -> str:
        seen = [token async for token in tokens]
        return self._do(seen[0])

    async def left(self) -> dict[str, int]:
        """What there is here of calls, but for this one."""
        now = self._node.rpc.statistics()
        active = sum(each.active for each in now.methods if each.side == "server")
        return {
            "calls": active - 1,
            "sessions": now.sessions - 1,
            "receive_memory": now.receive_memory,
            "threads": now.threads,
        }


def node_of(name: str, relays: list[str]) -> Node:
    """A node whose key follows from its name: the other one knows it beforehand."""
    config = NodeConfig(
        swarm=SwarmConfig(listen=LISTEN),
        nat=TraversalConfig(relay=RelayClientConfig(relays=tuple(relays))),
    )
    return Node(config, identity=identity_of(name))


def identity_of(name: str) -> Identity:
    return Identity(hashlib.sha256(f"netlab calls: {name}".encode()).digest())


async def serve(*relays: str) -> None:
    async with node_of("server", [*relays]) as node:
        node.rpc.serve(Counter(node))
        await node.wait_reachable()
        say("ready", peer_id=str(node.peer_id), addrs=[str(addr) for addr in node.addrs])
        await trio.sleep_forever()


class Caller:
    """Makes the calls. Each is a token: the process's life, and a number."""

    def __init__(self, node: Node, stub: Counter) -> None:
        self._node = node
        self._stub = stub
        self._attempts = Journal(ATTEMPTS)
        self._outcomes = Journal(OUTCOMES)
        self._room = trio.Semaphore(MAX_IN_FLIGHT)
        self.late = 0

    async def reach(self, done: int, calls: int) -> int:
        """Make calls from number `done` on, one after the other, until one succeeds; the number of
        the next."""
        for number in range(done, calls):
            await self._room.acquire()
            if await self._one(number):
                return number + 1
            await trio.sleep(RETRY)
        return calls

    async def run(self, done: int, calls: int, seconds: float) -> None:
        """Make the calls from number `done` on, spread over their part of `seconds`."""
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(done, calls):
                await trio.sleep_until(start + (number - done) * seconds / calls)
                await self._room.acquire()
                nursery.start_soon(self._one, number)

    async def _one(self, number: int) -> bool:
        """Whether it succeeded."""
        token = f"{os.getpid()}-{number}"
        start = trio.current_time()
        self._attempts.write(token)
        try:
            word = OK if await self._call(token, number) == token else "another's answer"
        except RpcError as error:
            word = f"{error.code.name} {MAY_HAVE_RUN if error.may_have_run else NOT_RUN}"
        finally:
            self._room.release()
        self._outcomes.write(f"{token} {word}")
        self.late += trio.current_time() > start + LATE
        return word == OK

    async def _call(self, token: str, number: int) -> str:
        """One in fifty takes another way than most."""
        stub: Any = self._stub
        match number % 250:
            case 0:
                return str(await stub.add_large(token, np.zeros(LARGE, np.uint8)))
            case 50:
                answer, _ = await stub.add_and_get(token)
                return str(answer)
            case 100:
                async with aclosing(stub.watch(token)) as items:
                    seen = [item async for item in items]
                return token if seen == [token] * ITEMS else "too few"
            case 150:
                return str(await stub.gather(_repeated(token)))
            case 200:
                return str(await stub.add_in_thread(token))
        return str(await stub.add(token, number % 3 * 0.01, number % 2 * 0.01))


async def _repeated(token: str) -> AsyncIterator[str]:
    for _ in range(ITEMS):
        await trio.sleep(0.002)
        yield token


async def tell_paths(node: Node) -> None:
    server = identity_of("server").peer_id
    with node.events() as events:
        async for event in events:
            if isinstance(event, PathChanged | PeerConnected) and event.peer_id == server:
                status = node.path(server)
                say("path", path=None if status is None else status.path)


async def drained(node: Node, stub: Counter) -> dict[str, int]:
    """What is still left of calls at the server, and here, once it is nothing or time is up."""
    end = trio.current_time() + DRAIN
    while True:
        try:
            left = await with_options(stub, timeout=CALL_TIMEOUT).left()
        except RpcError:
            left = {"unreachable": 1}
        own = node.rpc.statistics()
        left["own_calls"] = sum(each.active for each in own.methods if each.side == "client")
        if not any(left.values()) or trio.current_time() > end:
            return left
        await trio.sleep(0.5)


async def call(done: int, calls: int, seconds: float, *relays: str) -> int:
    """Make the calls from number `done` on; the exit status."""
    async with node_of("client", [*relays]) as node, trio.open_nursery() as nursery:
        nursery.start_soon(tell_paths, node)
        server = identity_of("server").peer_id
        for relay in relays:
            node.add_address(server, f"{relay}/p2p-circuit")
        stub = node.rpc.stub(server, Counter, timeout=CALL_TIMEOUT)
        caller = Caller(node, stub)
        done = await caller.reach(done, calls)
        # Faults wait for this: what they meet must be at work, however slow the machine is.
        say("ready", peer_id=str(node.peer_id), addrs=[str(addr) for addr in node.addrs])
        await caller.run(done, calls, seconds)
        left = await drained(node, stub)
        say("called", calls=calls, late=caller.late, left=left)
        nursery.cancel_scope.cancel()
    return 1 if caller.late or any(left.values()) else 0


def main(role: str, *words: str) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if role == "serve":
        trio.run(serve, *words)
        return 0
    calls, seconds, *relays = words
    attempts = Path(ATTEMPTS)
    done = len(attempts.read_text().splitlines()) if attempts.exists() else 0
    return trio.run(call, done, int(calls), float(seconds), *relays)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
