"""A policy is trained in one process, and three others act by it: `python examples/weights_rl.py`.

The trainer pushes its weights after each step; the rollouts take the newest whenever they begin
a batch, and send what they have seen back. The policy is a small network that learns which of four
actions is right for what it sees, from rewards alone (REINFORCE).
"""

import sys

import numpy as np
import trio

from lattica import Node
from lattica.content import WeightPublisher, WeightSubscriber

ROLLOUTS, BATCH, STEPS, RATE = 3, 512, 60, 1.0
SEEN, HIDDEN, ACTIONS = 12, 32, 4
STALE = 4
"""Versions by which a policy may be behind; what older ones have seen teaches little."""
RIGHT = np.random.default_rng(1).normal(size=(SEEN, ACTIONS))
Policy = dict[str, np.ndarray]


def fresh_policy() -> Policy:
    rng = np.random.default_rng(2)
    return {
        "hidden": rng.normal(size=(SEEN, HIDDEN)).astype(np.float32) / 3,
        "out": np.zeros((HIDDEN, ACTIONS), np.float32),
    }


def act(policy: Policy, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the hidden layer makes of it, and how probable each action is."""
    hidden = np.tanh(seen @ policy["hidden"])
    scores = np.exp(hidden @ policy["out"])
    return hidden, scores / scores.sum(1, keepdims=True)


def learn(policy: Policy, seen: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
    hidden, chances = act(policy, seen)
    better = np.eye(ACTIONS)[actions] - chances
    better *= (rewards - rewards.mean())[:, None] / len(seen)
    back = better @ policy["out"].T * (1 - hidden**2)
    policy["out"] += RATE * hidden.T @ better
    policy["hidden"] += RATE * seen.T @ back


class Trainer:
    def __init__(self) -> None:
        self.version = 0
        self.send, self.batches = trio.open_memory_channel[tuple[np.ndarray, ...]](0)

    async def take(
        self, version: int, seen: np.ndarray, actions: np.ndarray, rewards: np.ndarray
    ) -> None:
        """Returns when there is room for more."""
        if version >= self.version - STALE:
            await self.send.send((seen, actions, rewards))


async def train() -> None:
    trainer, policy = Trainer(), fresh_policy()
    async with Node() as node, WeightPublisher(node, "policy") as publisher:
        node.rpc.serve(trainer)
        trainer.version = (await publisher.push(policy)).version
        command = [sys.executable, __file__, str(node.addrs[0])]
        async with trio.open_nursery() as rollouts:
            for seed in range(ROLLOUTS):
                rollouts.start_soon(trio.run_process, [*command, str(seed)])
            for step in range(1, STEPS + 1):
                batches = [await trainer.batches.receive() for _ in range(ROLLOUTS)]
                seen, actions, rewards = map(np.concatenate, zip(*batches, strict=True))
                learn(policy, seen, actions, rewards)
                trainer.version = (await publisher.push(policy)).version
                if step % 20 == 0:
                    mean = rewards.mean()
                    print(f"version {trainer.version}: mean reward {mean:.2f}", flush=True)
            rollouts.cancel_scope.cancel()
    assert rewards.mean() > 0.7


async def roll_out(trainer_addr: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    async with Node() as node:
        peer = await node.connect(trainer_addr)
        trainer = node.rpc.stub(peer, Trainer)
        async with WeightSubscriber(node, f"{peer}/policy") as weights:
            await weights.wait()
            while True:
                newest = weights.newest
                policy = newest.numpy()
                seen = rng.normal(size=(BATCH, SEEN))
                _, chances = act(policy, seen)
                actions = (chances.cumsum(1) > rng.random((BATCH, 1))).argmax(1)
                rewards = (actions == (seen @ RIGHT).argmax(1)).astype(np.float64)
                await trainer.take(newest.version, seen, actions, rewards)


if len(sys.argv) == 1:
    trio.run(train)
else:
    trio.run(roll_out, sys.argv[1], int(sys.argv[2]))
