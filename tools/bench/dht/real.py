"""The DHT of real nodes on loopback, all in this process: what is found when a third is killed, and
how long it takes.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from lattica import Node, NodeConfig, load_config
from lattica.dht.errors import DhtError
from lattica.nat.base.keys.identity import Identity
from tools.bench.cases import OURS, Case
from tools.bench.figures.stats import Measurement

_ROUNDS = 3
_HIVEMIND = Path(__file__).resolve().parents[1] / "programs" / "impl_hivemind_dht.py"
_SETTINGS = {
    "listen": ["/ip4/127.0.0.1/tcp/0"],
    "nat.port_mapping.enabled": False,
    "nat.autonat.client.enabled": False,
    "dht.enabled": True,
}


class RealNetwork:
    """Nodes that all know the first, as a bootstrap peer. Each can be killed by itself."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: dict[Node, trio.CancelScope] = {}
        self.nodes: list[Node] = []
        """Those that live."""

    async def add(self, identity: Identity | None = None, /, **settings: object) -> Node:
        """Start one more node, with a new key if none is given."""
        bootstrap = [str(addr) for node in self.nodes[:3] for addr in node.addrs]
        config = load_config(
            environment={}, overrides={**_SETTINGS, "bootstrap": bootstrap, **settings}
        )
        node: Node = await self._nursery.start(self._run, config, identity)
        self.nodes.append(node)
        return node

    async def _run(
        self,
        config: NodeConfig,
        identity: Identity | None,
        task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.CancelScope() as scope:
            async with Node(config, identity=identity) as node:
                self._scopes[node] = scope
                task_status.started(node)
                await trio.sleep_forever()

    def kill(self, node: Node) -> None:
        """Have a node end without saying goodbye to anybody."""
        self.nodes.remove(node)
        for connections in tuple(node.swarm.registry.by_peer.values()):
            for connection in tuple(connections):
                connection.abort("killed")
        self._scopes.pop(node).cancel()

    async def wait_joined(self) -> None:
        """Wait until every node has heard of others, and those of it."""
        least = min(len(self.nodes) - 1, 20) // 2
        for node in self.nodes:
            await node.dht.wait_ready()
            while len(node.dht.peers()) < least:  # noqa: ASYNC110
                await trio.sleep(0.1)


@asynccontextmanager
async def real_network(size: int, **settings: object) -> AsyncIterator[RealNetwork]:
    """So many nodes, which end with the block."""
    async with trio.open_nursery() as nursery:
        network = RealNetwork(nursery)
        for _ in range(size):
            await network.add(**settings)
        await network.wait_joined()
        yield network
        nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class Trial:
    """Operations of one kind: how many were right, and how long each took."""

    name: str
    right: int
    seconds: tuple[float, ...]

    @property
    def share(self) -> float:
        """Of operations that were right, in percent."""
        return 100 * self.right / len(self.seconds)


async def try_all(
    name: str, operations: Sequence[Callable[[], Awaitable[bool]]], *, at_once: int = 1
) -> Trial:
    """Run operations, each of which says whether it was right; at most `at_once` at a time."""
    seconds: list[float] = []
    right = 0
    limit = trio.CapacityLimiter(at_once)

    async def one(operation: Callable[[], Awaitable[bool]]) -> None:
        nonlocal right
        async with limit:
            began = time.perf_counter()
            with suppress(DhtError):
                right += await operation()
            seconds.append(time.perf_counter() - began)

    async with trio.open_nursery() as nursery:
        for operation in operations:
            nursery.start_soon(one, operation)
    return Trial(name, right, tuple(seconds))


async def survey(network: RealNetwork, each: int, rng: random.Random) -> AsyncIterator[Trial]:
    """Put, provide; kill a third; get, find, and put anew."""
    nodes = network.nodes
    owners = [rng.choice(nodes) for _ in range(each)]

    def put(number: int) -> Callable[[], Awaitable[bool]]:
        async def operation() -> bool:
            return await owners[number].dht.put(f"key {number}", {"n": number}) > 0

        return operation

    def provide(number: int) -> Callable[[], Awaitable[bool]]:
        async def operation() -> bool:
            return await owners[number].dht.provide(f"thing {number}") > 0

        return operation

    def get(number: int) -> Callable[[], Awaitable[bool]]:
        async def operation() -> bool:
            asker = rng.choice(network.nodes)
            found = await asker.dht.get(f"key {number}", owner=owners[number].peer_id)
            return found is not None and found.value == {"n": number}

        return operation

    def find(number: int) -> Callable[[], Awaitable[bool]]:
        async def operation() -> bool:
            asker = rng.choice([n for n in network.nodes if n is not owners[number]])
            async with asker.dht.find_providers(f"thing {number}", count=1) as providers:
                async for provider in providers:
                    return provider.peer_id == owners[number].peer_id
            return False

        return operation

    def peer(_: int) -> Callable[[], Awaitable[bool]]:
        async def operation() -> bool:
            asker, wanted = rng.sample(network.nodes, 2)
            found = await asker.dht.find_peer(wanted.peer_id)
            return found is not None and set(found.addrs) <= set(wanted.addrs)

        return operation

    numbers = range(each)
    yield await try_all("put", list(map(put, numbers)))
    yield await try_all("provide", list(map(provide, numbers)))
    yield await try_all("get", list(map(get, numbers)))
    yield await try_all("find", list(map(find, numbers)))
    for node in rng.sample(network.nodes, len(network.nodes) // 3):
        network.kill(node)
    yield await try_all("get-killed", list(map(get, numbers)))
    yield await try_all("find-killed", list(map(find, numbers)))
    yield await try_all("find-peer-killed", list(map(peer, numbers)))
    owners = [node if node in network.nodes else network.nodes[0] for node in owners]
    yield await try_all("put-killed", list(map(put, numbers)))
    yield await try_all("provide-killed", list(map(provide, numbers)))


def run_real(
    nodes: int, each: int, provides: int, seed: int, hivemind: Path | None = None
) -> Iterator[Measurement]:
    """Every figure of real nodes, as they are measured.

    Args:
        hivemind: the Python of an environment that has it, whose DHT does what two nodes do, in
            turns with ours.
    """
    yield from _pair(max(2 * each, 100), hivemind)
    yield from trio.run(_crowd, nodes, each, random.Random(seed))
    yield from trio.run(_many, nodes, provides, random.Random(seed))


def _measured(
    name: str, unit: str, better: str, values: Sequence[float], what: str, impl: str = OURS
) -> Measurement:
    case = Case("dht", f"real-{name}", unit, better, what)  # type: ignore[arg-type]
    return Measurement(case, impl, statistics.median(values), tuple(values), what)


def figures(trial: Trial, what: str) -> list[Measurement]:
    """How many of its operations were right, and how long they took."""
    p50 = 1000 * statistics.median(trial.seconds)
    return [
        _measured(f"{trial.name}-right", "%", "higher", [trial.share], what),
        _measured(f"{trial.name}-p50", "ms", "lower", [p50], what),
    ]


def _pair(operations: int, hivemind: Path | None) -> Iterator[Measurement]:
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(_ROUNDS):
        rounds = {OURS: trio.run(_two_nodes, operations)}
        if hivemind is not None:
            command = [str(hivemind), str(_HIVEMIND), str(operations)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rounds["hivemind"] = json.loads(done.stdout.splitlines()[-1])
        for impl, seconds in rounds.items():
            for kind in ("put", "get"):
                found.setdefault((impl, kind), []).append(1000 * statistics.median(seconds[kind]))
    what = f"two nodes in one process, {_ROUNDS} rounds of {operations} operations"
    for (impl, kind), medians in found.items():
        yield _measured(f"two-{kind}-p50", "ms", "lower", medians, what, impl)


async def _two_nodes(operations: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"put": [], "get": []}
    async with real_network(2) as network:
        one, other = network.nodes
        for number in range(operations):
            began = time.perf_counter()
            await one.dht.put(f"k{number}", number)
            seconds["put"].append(time.perf_counter() - began)
        for number in range(operations):
            began = time.perf_counter()
            found = await other.dht.get(f"k{number}")
            seconds["get"].append(time.perf_counter() - began)
            assert found is not None
            assert found.value == number
    return seconds


async def _crowd(nodes: int, each: int, rng: random.Random) -> list[Measurement]:
    found: list[Measurement] = []
    what = f"{nodes} nodes in one process on loopback, {each} operations one after another"
    async with real_network(nodes) as network:
        async for trial in survey(network, each, rng):
            found += figures(trial, what)
    return found


async def _many(nodes: int, provides: int, rng: random.Random) -> list[Measurement]:
    what = f"{provides} keys, {nodes} nodes, read back"
    async with real_network(nodes) as network:
        node = rng.choice(network.nodes)
        began = time.perf_counter()
        held = await node.dht.provide_many(f"root {n}" for n in range(provides))
        seconds = time.perf_counter() - began
    peers = statistics.mean(held.values())
    return [
        _measured("provide-many", "s", "lower", [seconds], what),
        _measured("provide-many-held", "peers", "higher", [peers], what),
    ]
