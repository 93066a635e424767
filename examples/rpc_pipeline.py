"""A transformer in four stages on four machines; one of them dies in the middle of a sentence.

    python examples/rpc_pipeline.py         here, on loopback: six processes
    python -m tools.netlab run pipeline     the same behind two NATs, in the network lab (as root)

Each worker has a quarter of the layers, and for each session that runs through it the keys and
values of what came before. The coordinator leads the tokens through the stages, a stream of calls
to each, and remembers what it sent. When a worker is killed (SIGKILL, while it computes), the
coordinator opens a stream to the spare worker of that stage, replays the session's history there,
and goes on: the tokens are the same as without the kill, which is asserted.

The weights are random, from a seed. With torch installed the layers run on it, else on NumPy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import trio

from lattica import Node, load_config
from lattica.nat.base.keys.identity import PeerId
from lattica.rpc import CallContext, RpcError

xp: Any = np
if find_spec("torch"):
    import torch

    xp = torch

STAGES, LAYERS, WIDTH, HEADS, VOCABULARY = 4, 8, 64, 4, 256
PROMPT = b"A peer is reached by its key"
TOKENS = 24
FATAL_STAGE = 2
FATAL_STEP = TOKENS + TOKENS // 2
"""Of the worker that dies: in the middle of the second sentence."""
PATIENCE = 10.0
"""Seconds for a step of a stage, after which it is taken for dead."""


# --- the model ---


def tensor(array: np.ndarray) -> Any:
    return xp.asarray(array)


def normalized(x: Any) -> Any:
    return x / xp.sqrt((x * x).mean(-1)[..., None] + 1e-6)


def softmax(x: Any) -> Any:
    e = xp.exp(x - x.max())
    return e / e.sum(-1)[..., None]


class Layer:
    """Attention with a cache of keys and values, and a feed-forward network."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shapes = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]
        self.weights = [
            tensor(rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32)) for shape in shapes
        ]

    def __call__(self, x: Any, cache: list[Any]) -> Any:
        """`x` has the positions that are new: (n, WIDTH). The cache grows by them."""
        qkv, out, up, down = self.weights
        n = x.shape[0]
        heads = (normalized(x) @ qkv).reshape(n, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads[:, 0], heads[:, 1], heads[:, 2]
        if cache:
            k, v = xp.concatenate((cache[0], k)), xp.concatenate((cache[1], v))
        cache[:] = [k, v]
        scores = xp.einsum("qhd,khd->hqk", q, k) / (WIDTH // HEADS) ** 0.5
        behind = np.tril(np.ones((n, k.shape[0]), np.float32), k.shape[0] - n)
        scores = scores + tensor((1 - behind) * np.float32(-1e9))
        mixed = xp.einsum("hqk,khd->qhd", softmax(scores), v).reshape(n, WIDTH)
        x = x + mixed @ out
        hidden = normalized(x) @ up
        return x + (hidden * (hidden > 0)) @ down


EMBEDDING, HEAD = np.random.default_rng(0).normal(0, 1, (2, VOCABULARY, WIDTH)).astype(np.float32)


def embedded(tokens: Sequence[int], position: int) -> np.ndarray:
    """Tokens at positions from `position` on, (n, WIDTH): where they are is told by sinusoids."""
    at = np.arange(position, position + len(tokens))[:, None]
    phase = at * 100.0 ** -np.linspace(0, 1, WIDTH // 2)
    where = np.concatenate((np.sin(phase), np.cos(phase)), axis=1)
    return (EMBEDDING[list(tokens)] + where).astype(np.float32)


# --- a worker ---


class Stage:
    """The layers of one stage. What it yields is as large as what it gets."""

    def __init__(self, number: int, dies_at: int | None = None) -> None:
        each = LAYERS // STAGES
        self._layers = [Layer(1 + number * each + index) for index in range(each)]
        self._dies_at = dies_at
        self._steps = 0

    async def forward(self, steps: AsyncIterator[np.ndarray]) -> AsyncIterator[np.ndarray]:
        """A session: it lives as long as the stream."""
        caches: list[list[Any]] = [[] for _ in self._layers]
        async for step in steps:
            yield await trio.to_thread.run_sync(self._run, step, caches)

    def _run(self, step: np.ndarray, caches: list[list[Any]]) -> np.ndarray:
        x = tensor(step)
        for layer, cache in zip(self._layers, caches, strict=True):
            x = layer(x, cache)
            if self._steps == self._dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
        self._steps += 1
        return np.asarray(x)


async def work(stage: int, coordinator: str, relays: list[str], dies_at: int | None) -> None:
    """Serve a stage until this process ends, once the coordinator knows of it."""
    async with make_node(relays) as node:
        node.rpc.serve(Stage(stage, dies_at))
        peer = await node.connect(coordinator)
        await node.rpc.stub(peer, Coordinator).join(stage, is_spare=dies_at is None)
        await trio.sleep_forever()


# --- the coordinator ---


class Coordinator:
    """Knows the workers, and generates with them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.workers: dict[int, list[PeerId]] = defaultdict(list)
        self.replays = 0
        self.joined = trio.Event()

    async def join(self, stage: int, is_spare: bool, context: CallContext) -> None:
        """For workers. Where there are two for a stage, the one that is no spare is used first."""
        at = len(self.workers[stage]) if is_spare else 0
        self.workers[stage].insert(at, context.peer)
        if sum(map(len, self.workers.values())) == STAGES + 1:
            self.joined.set()

    async def generate(self, prompt: bytes, count: int) -> list[int]:
        """The likeliest tokens after the prompt, one by one."""
        sessions = [Session(self, stage) for stage in range(STAGES)]
        tokens: list[int] = []
        x = embedded(prompt, 0)
        while len(tokens) < count:
            for session in sessions:
                x = await session.step(x)
            tokens.append(int(np.argmax(HEAD @ x[-1])))
            x = embedded(tokens[-1:], len(prompt) + len(tokens) - 1)
        for session in sessions:
            session.close()
        return tokens

    def worker(self, stage: int) -> Stage:
        """Who serves a stage now."""
        return self._node.rpc.stub(self.workers[stage][0], Stage)

    def lost(self, stage: int) -> None:
        """Who served it does so no more. Raises RuntimeError if there is nobody else."""
        peer = self.workers[stage].pop(0)
        say("lost", stage=stage, peer=str(peer))
        if not self.workers[stage]:
            raise RuntimeError(f"nobody is left for stage {stage}")
        self.replays += 1


class Session:
    """A sentence in one stage: the stream to its worker, and what has gone over it."""

    def __init__(self, coordinator: Coordinator, stage: int) -> None:
        self._coordinator = coordinator
        self._stage = stage
        self._history: list[np.ndarray] = []
        self._steps: trio.MemorySendChannel[np.ndarray] | None = None
        self._results: Any = None

    async def step(self, x: np.ndarray) -> np.ndarray:
        """What the stage makes of the next positions; by another worker if this one is lost."""
        self._history.append(x)
        while True:
            try:
                with trio.fail_after(PATIENCE):
                    if self._steps is not None:
                        return await self._ask(x)
                    self._steps, steps = trio.open_memory_channel[np.ndarray](1)
                    self._results = self._coordinator.worker(self._stage).forward(steps)
                    for past in self._history:
                        result = await self._ask(past)
                    return result
            except (RpcError, trio.TooSlowError):
                self.close()
                self._coordinator.lost(self._stage)

    async def _ask(self, x: np.ndarray) -> np.ndarray:
        if self._steps is None:
            raise RuntimeError("the session has ended")
        await self._steps.send(x)
        result: np.ndarray = await anext(self._results)
        return result

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()
            self._results.close()
            self._steps = None


async def coordinate(relays: list[str], *, starts_workers: bool) -> None:
    """Generate a sentence twice; a worker dies in the second one, and nobody sees it."""
    async with make_node(relays) as node, trio.open_nursery() as nursery:
        coordinator = Coordinator(node)
        node.rpc.serve(coordinator)
        if relays:
            await node.wait_reachable()
        addrs = [str(addr) for addr in node.addrs if not relays or "p2p-circuit" in str(addr)]
        say("ready", peer_id=str(node.peer_id), addrs=addrs)
        if starts_workers:
            for stage in range(STAGES):
                nursery.start_soon(start_worker, stage, addrs[0])
            nursery.start_soon(partial(start_worker, FATAL_STAGE, addrs[0], is_fatal=True))
        with trio.fail_after(90):
            await coordinator.joined.wait()
        without = await coordinator.generate(PROMPT, TOKENS)
        assert coordinator.replays == 0
        with_kill = await coordinator.generate(PROMPT, TOKENS)
        paths = {}
        for stage, (peer, *_) in sorted(coordinator.workers.items()):
            status = node.path(peer)
            paths[stage] = None if status is None else status.path
        say("done", backend=xp.__name__, tokens=with_kill, paths=paths)
        assert coordinator.replays == 1, "nobody has died"
        assert len(set(without)) > TOKENS // 3, "tokens that tell nothing of what came before"
        assert with_kill == without, f"without the kill the tokens were {without}"
        nursery.cancel_scope.cancel()


async def start_worker(stage: int, coordinator: str, *, is_fatal: bool = False) -> None:
    """A process of its own; the one that is fatal must end by SIGKILL."""
    command = [sys.executable, __file__, "work", "--stage", str(stage), "--join", coordinator]
    done = await trio.run_process([*command, *["--fatal"] * is_fatal], check=False)
    assert is_fatal, f"a worker of stage {stage} has ended"
    assert done.returncode == -signal.SIGKILL


# --- both ---


def make_node(relays: Sequence[str]) -> Node:
    return Node(load_config(overrides={"relays": [*relays]} if relays else {}))


def say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("role", nargs="?", choices=("all", "coordinate", "work"), default="all")
    parser.add_argument("--stage", type=int, default=0)
    parser.add_argument("--fatal", action="store_true", help="die in the second sentence")
    parser.add_argument("--join", metavar="ADDR", default="", help="the coordinator")
    parser.add_argument("--relay", metavar="ADDR", action="append", default=[])
    given = parser.parse_args()
    if given.role == "work":
        fatal_step = FATAL_STEP if given.fatal else None
        trio.run(work, given.stage, given.join, given.relay, fatal_step)
    else:
        trio.run(partial(coordinate, given.relay, starts_workers=given.role == "all"))


if __name__ == "__main__":
    main()
