"""A policy in torch is trained behind one NAT, and three others, each behind a NAT of its own, act
by its newest weights: `python examples/weights_nats.py`.

Each of the four is a process in a network namespace of its own; the lab (tools/netlab, from a
checkout, on Linux) has their routers and a relay, by which they meet. The trainer pushes its
weights after each step; the rollouts take the newest whenever they begin a batch, and send back
what they have seen. `--long` is ten times as many steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from lattica import Node, load_config
from lattica.content import WeightPublisher, WeightSubscriber
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import LATTICA
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Router

BEHIND = {
    "trainer": "port-restricted",
    "berlin": "full-cone",
    "madrid": "port-restricted",
    "warsaw": "symmetric-random",
}
"""The four, and what kind of NAT each is behind."""
ROLLOUTS, BATCH, STEPS, RATE = 3, 512, 60, 0.01
SEEN, HIDDEN, ACTIONS = 12, 64, 4
RIGHT = torch.randn(SEEN, ACTIONS, generator=torch.Generator().manual_seed(1))
"""Which action is right for what is seen: unknown to the policy, which hears of rewards alone."""
PROGRAM = str(Path(__file__).resolve())


def fresh_policy() -> torch.nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(2)
    return torch.nn.Sequential(
        torch.nn.Linear(SEEN, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, ACTIONS)
    )


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def node_at(relay: str) -> Node:
    settings = {
        "listen": ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1/noise"],
        "relays": [relay],
        "nat.port_mapping.enabled": False,
        "log_level": "error",
    }
    return Node(load_config(environment={}, overrides=settings))


# The trainer.


class Trainer:
    def __init__(self) -> None:
        self.send, self.batches = trio.open_memory_channel[tuple[np.ndarray, ...]](0)

    async def take(self, seen: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Returns when there is room for more."""
        await self.send.send((seen, actions, rewards))


async def train(relay: str, steps: int) -> None:
    trainer, policy = Trainer(), fresh_policy()
    optimizer = torch.optim.Adam(policy.parameters(), RATE)
    async with node_at(relay) as node, WeightPublisher(node, "policy") as publisher:
        node.rpc.serve(trainer)
        await node.wait_announced(30)
        await publisher.push(policy.state_dict())
        say("ready", addr=next(str(addr) for addr in node.addrs if "p2p-circuit" in str(addr)))
        for step in range(1, steps + 1):
            batches = [await trainer.batches.receive() for _ in range(ROLLOUTS)]
            arrays = map(np.concatenate, zip(*batches, strict=True))
            seen, actions, rewards = map(torch.from_numpy, arrays)
            chances = torch.log_softmax(policy(seen), 1)[range(len(actions)), actions]
            loss = -(chances * (rewards - rewards.mean())).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pushed = await publisher.push(policy.state_dict())
            if step % (steps // 3) == 0:
                say("step", version=pushed.version, reward=round(float(rewards.mean()), 3))
        sums = {name: float(tensor.double().sum()) for name, tensor in policy.state_dict().items()}
        say("done", version=pushed.version, sums=sums)
        await trio.sleep_forever()  # the last version is still to be had


# A rollout.


async def roll_out(relay: str, trainer_addr: str, steps: int, seed: int) -> None:
    policy = fresh_policy()
    random = torch.Generator().manual_seed(seed)
    async with node_at(relay) as node:
        peer = await node.connect(trainer_addr)
        trainer = node.rpc.stub(peer, Trainer)
        paths = {node.path(peer).path}
        versions = set()

        async def act(weights: WeightSubscriber) -> None:
            while True:
                seen = torch.randn(BATCH, SEEN, generator=random)
                with torch.no_grad():
                    chances = torch.softmax(policy(seen), 1)
                actions = torch.multinomial(chances, 1, generator=random)[:, 0]
                rewards = (actions == (seen @ RIGHT).argmax(1)).float()
                await trainer.take(seen.numpy(), actions.numpy(), rewards.numpy())
                take_newest(weights)

        def take_newest(weights: WeightSubscriber) -> None:
            version = weights.newest
            version.load_into(policy.state_dict())
            versions.add(version.version)
            paths.add(node.path(peer).path)

        async with WeightSubscriber(node, f"{peer}/policy") as weights:
            await weights.wait()
            take_newest(weights)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(act, weights)
                async for version in weights:
                    if version.version > steps:
                        break
                nursery.cancel_scope.cancel()
            take_newest(weights)
            state = policy.state_dict()
            sums = {name: float(tensor.double().sum()) for name, tensor in state.items()}
            say("acted", versions=sorted(versions), paths=sorted(paths), sums=sums)
            await trio.sleep_forever()  # others may get what this one has


# Who looks at them.


async def start(lab: Lab, name: str, *arguments: str) -> Any:
    return await lab.start(name, [sys.executable, PROGRAM, *arguments], name=name)


async def said(running: Any, name: str) -> dict[str, Any]:
    with trio.fail_after(150):
        _, event = await running.wait_event(lambda event: event.get("event") == name)
    found: dict[str, Any] = event
    return found


async def main(steps: int) -> None:
    hosts = (Host("relay"), *(Host(name, behind=f"{name}-nat") for name in BEHIND))
    routers = tuple(Router(f"{name}-nat", nat=NAMES[nat]) for name, nat in BEHIND.items())
    scenario = Scenario("weights", hosts=hosts, routers=routers, duration_s=600.0)
    async with open_lab(scenario) as lab:
        argv = [*LATTICA, "relay", "--open", "--json", "--listen", "/ip4/0.0.0.0/tcp/4001"]
        relay = await lab.start("relay", argv, name="relay")
        at = next(addr for addr in (await said(relay, "ready"))["addrs"] if "/tcp" in addr)
        how = ["--relay", at, "--steps", str(steps)]
        trainer = await start(lab, "trainer", *how)
        addr = (await said(trainer, "ready"))["addr"]
        rollouts = {
            name: await start(lab, name, *how, "--trainer", addr, "--seed", str(seed))
            for seed, name in enumerate(BEHIND)
            if name != "trainer"
        }
        done = await said(trainer, "done")
        for event in trainer.events:
            if event.get("event") == "step":
                print(f"version {event['version']}: mean reward {event['reward']:.2f}")
                reward = event["reward"]
        assert reward > 0.7
        for name, rollout in rollouts.items():
            acted = await said(rollout, "acted")
            print(
                f"{name}, behind {BEHIND[name]}: by {' and '.join(acted['paths'])}, "
                f"acted by {len(acted['versions'])} of {done['version']} versions"
            )
            assert acted["versions"][-1] == done["version"] == steps + 1
            assert acted["sums"] == done["sums"], "the weights are the trainer's"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="ten times as many steps")
    parser.add_argument("--steps", type=int, default=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--relay", help=argparse.SUPPRESS)
    parser.add_argument("--trainer", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.trainer is not None:
        trio.run(roll_out, given.relay, given.trainer, given.steps, given.seed)
    elif given.relay is not None:
        trio.run(train, given.relay, given.steps)
    else:
        trio.run(partial(main, given.steps * (10 if given.long else 1)))
