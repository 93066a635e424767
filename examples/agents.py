"""Agents that find each other by what they can do, while a third of them is killed.

Each agent is a node of its own. It says in a topic, as a member of it, what it can do, what that
costs, and where it is reached, so that everybody knows everybody by gossip and asks no registry
(after AIOS Server, arXiv 2504.14411); a request goes to whose description is nearest to it, the
cheapest of these, and on to the next if that is gone (after Federation of Agents, arXiv
2509.20175).
`python examples/agents.py` has thirty agents in six processes, `--long` a hundred in ten, and waits
until nobody knows the killed ones any more.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import trio
from support.processes import Crew, config, processes, run

from lattica import LatticaError, Node, PeerId
from lattica.dht.topics.membership.service import Membership

SKILLS: dict[str, Callable[[str], str]] = {
    "sorts the words of a text alphabetically": lambda text: " ".join(sorted(text.split())),
    "adds numbers up to their sum": lambda text: str(sum(map(int, text.split()))),
    "counts the words of a text": lambda text: str(len(text.split())),
    "writes a text backwards, reversed": lambda text: text[::-1],
    "computes the SHA-256 hash of a text": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}
REQUESTS = {
    "sort these words, please": ("pear apple fig", "apple fig pear"),
    "what is the sum of the numbers": ("17 4 21", "42"),
    "how many words does this text count": ("a peer is reached by its key", "7"),
    "give me it reversed": ("lattica", "acittal"),
    "I need a SHA-256 hash": ("", hashlib.sha256(b"").hexdigest()),
}
TTL = 30.0
"""Seconds after which a member of a topic that is silent is none any more."""
TOPIC = "agents/v1"
WIDTH = 512


@dataclass(frozen=True, slots=True)
class Capability:
    """What an agent says of itself, in at most 512 bytes."""

    number: int
    skill: str
    cost: int
    address: str

    def encode(self) -> bytes:
        return json.dumps([self.number, self.skill, self.cost, self.address]).encode()


def vector(text: str) -> np.ndarray:
    """A unit vector (512,) of the groups of three letters in a text: near for similar texts."""
    found = np.zeros(WIDTH)
    text = f" {text.lower()} "
    for at in range(len(text) - 2):
        digest = hashlib.blake2b(text[at : at + 3].encode(), digest_size=4).digest()
        found[int.from_bytes(digest) % WIDTH] += 1
    return found / np.linalg.norm(found)


class Agent:
    """What is served: one skill."""

    def __init__(self, skill: str) -> None:
        self._do = SKILLS[skill]

    async def ask(self, text: str) -> str:
        return self._do(text)


async def agent(bootstrap: str, number: int) -> None:
    skill = [*SKILLS][number % len(SKILLS)]
    async with Node(config()) as node:
        node.rpc.serve(Agent(skill))
        await node.connect(bootstrap, timeout=30)
        says = Capability(number, skill, 1 + number // len(SKILLS), str(node.addrs[0]))
        async with node.topic(TOPIC).membership(says.encode()) as members:
            async for _ in members:
                # A few connections of its own: the one that all began with may go.
                others = [*read(members).values()]
                if len(node.peers()) < 4 and others:
                    try:
                        await node.connect(random.choice(others).address, timeout=5)
                    except (LatticaError, TimeoutError):
                        continue


async def worker(bootstrap: str, numbers: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(agent, bootstrap, number)


def read(members: Membership) -> dict[PeerId, Capability]:
    """Who can do what, as far as is known here; what is no capability is left out."""
    found = {}
    for peer, data in members.members().items():
        try:
            number, skill, cost, address = json.loads(data)
            found[peer] = Capability(int(number), str(skill), int(cost), str(address))
        except (ValueError, TypeError):
            continue
    return found


async def ask(node: Node, agents: Mapping[PeerId, Capability], request: str, text: str) -> str:
    """Whose description is nearest to a request answers: the cheapest that is there."""
    wanted = vector(request)
    nearest = max({each.skill for each in agents.values()}, key=lambda s: vector(s) @ wanted)
    for peer in sorted(agents, key=lambda peer: agents[peer].cost):
        if agents[peer].skill == nearest:
            try:
                await node.connect(agents[peer].address, timeout=5)
                return await node.rpc.stub(peer, Agent, timeout=5).ask(text)
            except (LatticaError, TimeoutError):
                continue
    raise AssertionError(f"nobody for {request!r}")


async def until(
    crew: Crew, members: Membership, found: set[int], gone: set[int], timeout: float = TTL
) -> float:
    """Seconds until some are known and others are not. Raises TooSlowError after `timeout`."""
    begin = time.monotonic()
    with trio.fail_after(timeout):
        while True:
            known = {each.number for each in read(members).values()}
            if found <= known and not gone & known:
                return time.monotonic() - begin
            crew.check()
            await trio.sleep(0.05)


async def main(*, is_long: bool) -> None:
    count, killed, each = (10, 3, 10) if is_long else (6, 2, 5)
    table = np.arange(count * each).reshape(each, count).T
    gone, left = set(table[:killed].flat), set(table[killed:].flat)
    async with (
        processes() as crew,
        Node(config()) as first,
        first.topic(TOPIC).membership() as members,  # one that can do nothing
    ):
        for numbers in table.tolist():
            await crew.start(bootstrap=str(first.addrs[0]), numbers=numbers)
        took = await until(crew, members, gone | left, set(), timeout=120)
        print(f"{count * each} agents have found each other, {took:.1f} s after their start")
        for process in crew.processes[:killed]:
            await crew.end(process)
        killed_at = time.monotonic()
        print(f"{len(gone)} of them are killed")

        async with Node(config()) as newcomer:
            await newcomer.connect(first.addrs[0])
            async with newcomer.topic(TOPIC).membership() as known:
                took = await until(crew, known, left, set())
                print(f"who comes now finds the other {len(left)} within {took:.1f} s")
                for request, (text, expected) in REQUESTS.items():
                    answer = await ask(newcomer, read(known), request, text)
                    print(f"{request}: {text!r} → {answer[:16]!r}")
                    assert answer == expected
                # Who was there before asks the killed ones first, and gets its answers, too.
                for request, (text, expected) in REQUESTS.items():
                    assert await ask(first, read(members), request, text) == expected
                if is_long:
                    # Three intervals from the last sign of life, which may be just before.
                    await until(crew, members, left, gone, timeout=TTL + 5)
                    took = time.monotonic() - killed_at
                    print(f"and nobody knows the killed ones any more after {took:.1f} s")


if __name__ == "__main__":
    run(main, worker)
