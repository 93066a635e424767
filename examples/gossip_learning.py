"""Learning by gossip, with one merge at the end: as good as one machine that has all the data.

Every peer has digits of its own, of each class different shares. It takes a few steps on them and
averages its model with that of one other peer, again and again; at the very end each averages the
models of all. That one merge suffices (arXiv 2507.06542). Meanwhile a third of the peers is killed,
and comes back with nothing but its data. `python examples/gossip_learning.py`; `--long` has ten
peers in place of six.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import trio
from support import digits
from support.digits import Arrays
from support.processes import config, processes, run

from lattica import LatticaError, Node
from lattica.dht.topics.membership.service import Membership

T = TypeVar("T")
ROUNDS, STEPS = 120, 10
PACE = 0.02
"""Seconds for which a peer waits for each round that it is ahead of the slowest."""
TOPIC = "gossip-learning"


def rate(round: int) -> float:
    done = round / ROUNDS
    return 0.4 if done < 0.6 else 0.1 if done < 0.85 else 0.03


class Learner:
    """What a peer serves."""

    def __init__(self, shard: int, peers: int) -> None:
        self.shard = shard
        self.model = digits.initial()
        self.rounds = [0] * peers
        """How far each peer is, as far as this one has heard."""
        self.merged: Arrays | None = None

    @property
    def is_done(self) -> bool:
        """When the slowest one is, so that who came late had company."""
        return min(self.rounds) >= ROUNDS

    async def average(self, model: Arrays, rounds: list[int]) -> tuple[list[int], Arrays]:
        """Both have the mean of both afterwards."""
        if not self.is_done:
            self.model = digits.mean([self.model, model])
            self.rounds = [*map(max, self.rounds, rounds)]
        return self.rounds, self.model

    async def state(self) -> tuple[int, list[int], bool, Arrays, Arrays | None]:
        """Of which shard, how far all are, whether its model is ready, and its models."""
        return self.shard, self.rounds, self.is_done, self.model, self.merged


async def worker(bootstrap: str, shard: int, peers: int) -> None:
    images, labels, *_ = digits.load()
    mine = digits.shards(labels, peers)[shard]
    rng = np.random.default_rng()
    own = Learner(shard, peers)
    async with Node(config(rpc__call_timeout=5)) as node:
        node.rpc.serve(own)
        await node.connect(bootstrap, timeout=30)
        says = json.dumps([shard, str(node.addrs[0])]).encode()
        async with node.topic(TOPIC).membership(says) as members:
            # One that comes late begins with what another one has, and learns from its own then.
            async for _, rounds, _, own.model, _ in ask(node, members, state):
                own.rounds = [*rounds]
                own.rounds[shard] = min(max(rounds), ROUNDS // 2)
                break
            while len(members.members()) < peers:  # the others, and the one that watches
                await anext(members)
            while not own.is_done:
                pace = rate(own.rounds[shard])
                own.model = digits.train(
                    own.model, images[mine], labels[mine], STEPS, rng, rate=pace
                )
                own.rounds[shard] += 1
                sent, mix = own.model, partial(average, own.model, own.rounds)
                async for rounds, model in ask(node, members, mix):
                    if not own.is_done:
                        # Others may have been here meanwhile: what they brought stays.
                        own.model = [
                            o + m - s for o, m, s in zip(own.model, model, sent, strict=True)
                        ]
                        own.rounds = [*map(max, own.rounds, rounds)]
                    break
                # Nobody waits for all, but nobody runs away either.
                await trio.sleep(max(0, own.rounds[shard] - min(own.rounds) - 2) * PACE)
            # The one merge.
            models: dict[int, Arrays] = {shard: own.model}
            while len(models) < peers:
                await trio.sleep(0.1)
                async for number, _, is_done, model, _ in ask(node, members, state):
                    if is_done:
                        models[number] = model
            own.merged = digits.mean([*models.values()])
            await trio.sleep_forever()


async def ask(
    node: Node, members: Membership, question: Callable[[Learner], Awaitable[T]]
) -> AsyncIterator[T]:
    """The answers of the others, in any order, of those that can be reached."""
    found = [each for each in members.members().items() if each[1]]
    for peer, says in random.sample(found, len(found)):
        try:
            if not node.is_connected(peer):
                await node.connect(json.loads(says)[1], timeout=2)
            answer = await question(node.rpc.stub(peer, Learner))
        except (LatticaError, TimeoutError):
            continue  # killed, and not missed yet
        yield answer


def average(model: Arrays, rounds: list[int], other: Learner) -> Awaitable[Any]:
    return other.average(model, rounds)


def state(other: Learner) -> Awaitable[Any]:
    return other.state()


async def main(*, is_long: bool) -> None:
    peers, killed = (10, 3) if is_long else (6, 2)
    images, labels, *test = digits.load()
    central = digits.initial()
    rng = np.random.default_rng(1)
    for round in range(ROUNDS):
        central = digits.train(central, images, labels, STEPS, rng, rate=rate(round))
    async with (
        processes() as crew,
        Node(config()) as node,
        node.topic(TOPIC).membership() as members,
    ):
        for shard in range(peers):
            await crew.start(bootstrap=str(node.addrs[0]), shard=shard, peers=peers)
        rounds = [0]
        while min(rounds) < ROUNDS // 4:
            await trio.sleep(0.05)
            crew.check()
            rounds = max([each[1] async for each in ask(node, members, state)], default=[0])
        print(f"{peers} peers are in their rounds {sorted(rounds)}; {killed} of them are killed")
        for shard in range(killed):
            await crew.end(crew.processes[shard])
            await crew.start(bootstrap=str(node.addrs[0]), shard=shard, peers=peers)
        ends: list[tuple[Arrays, Arrays]] = []
        with trio.fail_after(180):
            while len(ends) < peers:
                await trio.sleep(0.1)
                crew.check()
                results = [each async for each in ask(node, members, state)]
                ends = [(model, merged) for *_, model, merged in results if merged is not None]
    best = digits.accuracy(central, *test)
    alone = [digits.accuracy(model, *test) for model, _ in ends]
    merged = [digits.accuracy(model, *test) for _, model in ends]
    print(f"before the merge: {min(alone):.1f}% to {max(alone):.1f}% right")
    print(f"after it: {min(merged):.1f}% to {max(merged):.1f}%; one machine with all: {best:.1f}%")
    assert min(merged) >= best - 1


if __name__ == "__main__":
    run(main, worker)
