"""A few peers train in each round, chosen by a hash that all compute: no server, no gossip of all.

Who trains in a round are the first peers that answer, in the order of SHA-256(round ‖ peer); the
first of them also averages what they have learned, and hands it to the next round (after MoDeST,
arXiv 2302.13837). Everybody comes to the same choice without asking anybody. In the middle of it
four fifths of the peers freeze (SIGSTOP): they still accept connections, and never answer. Training
goes on, with far fewer bytes than if all peers had sent their models to others in each round.
`python examples/modest.py`; `--long` has sixty rounds in place of eighteen.
"""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

import numpy as np
import trio
from support import digits
from support.digits import Arrays
from support.processes import config, processes, run

from lattica import LatticaError, Node, PeerId
from lattica.rpc import CallContext

T = TypeVar("T")
PROCESSES, EACH, FROZEN = 5, 4, 4
PEERS, SAMPLE, STEPS, NEIGHBOURS = PROCESSES * EACH, 4, 40, 2
PATIENCE = 0.5
"""Seconds in which a peer answers a ping, or is passed over."""
STALLED = 6.0
"""Seconds without a round after which another peer leads it."""


async def answers(ask: Callable[[str], Awaitable[T]], peers: Iterable[str]) -> dict[str, T]:
    """What peers say, all asked at once; those that do not answer are left out."""
    found: dict[str, T] = {}

    async def one(peer: str) -> None:
        with suppress(LatticaError, TimeoutError):
            found[peer] = await ask(peer)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(one, peer)
    return found


class Desk:
    """Where peers learn once who there is, and where the last round is told."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.round, self.model, self.bytes = 0, digits.initial(), 0
        self.is_full, self.news = trio.Event(), trio.Event()

    async def join(self, address: str, context: CallContext) -> dict[str, str]:
        self.addresses[str(context.peer)] = address
        if len(self.addresses) == PEERS:
            self.is_full.set()
        await self.is_full.wait()
        return self.addresses

    async def watch(self, round: int, moved: int, model: Arrays) -> None:
        """Only to be shown; `moved` are the bytes of models that the round has sent."""
        self.bytes += moved
        if round > self.round:
            self.round, self.model = round, model
            self.news.set()
            self.news = trio.Event()


class Crowd:
    """All peers, as a node sees them; `own` is what it serves, if it is one of them."""

    def __init__(self, node: Node, own: Peer | None = None) -> None:
        self.addresses: dict[str, str] = {}
        self.silent: set[str] = set()
        """Those that did not answer, who are asked after the others."""
        self._node, self._own = node, own

    def stub(self, peer: str, timeout: float = 4 * PATIENCE) -> Peer:
        if self._own is not None and peer == str(self._node.peer_id):
            return self._own
        return self._node.rpc.stub(peer, Peer, timeout=timeout)

    async def ping(self, peer: str) -> None:
        if peer != str(self._node.peer_id) and not self._node.is_connected(peer):
            await self._node.connect(self.addresses[peer], timeout=PATIENCE)
        await self.stub(peer, PATIENCE).ping()

    async def sample(self, round: int, count: int) -> list[str]:
        """The first peers that answer, in the order of the round."""

        def place(peer: str) -> tuple[bool, bytes]:
            return peer in self.silent, hashlib.sha256(f"{round}|{peer}".encode()).digest()

        ordered, found = sorted(self.addresses, key=place), list[str]()
        # As many at a time when one is wanted, too: of those next in order all may be frozen.
        while ordered and len(found) < count:
            batch, ordered = ordered[:SAMPLE], ordered[SAMPLE:]
            there = await answers(self.ping, batch)
            found += [peer for peer in batch if peer in there]
            self.silent.update(batch - there.keys())
        return found[:count]

    async def begin(self, round: int, model: Arrays) -> None:
        """Have anybody who answers lead a round."""
        there = [*await answers(self.ping, self.addresses)]
        for peer in random.sample(there, len(there)):
            with suppress(LatticaError, TimeoutError):
                await self.stub(peer).lead(round, model, [])
                return


class Peer:
    """What a peer serves."""

    def __init__(
        self, node: Node, desk: PeerId, shard: int, rounds: int, tasks: trio.Nursery
    ) -> None:
        images, labels, *_ = digits.load()
        mine = digits.shards(labels, PEERS)[shard]
        self.crowd = Crowd(node, self)
        self.desk = node.rpc.stub(desk, Desk, timeout=120)
        self._images, self._labels = images[mine], labels[mine]
        self._rounds, self._tasks = rounds, tasks
        self._rng = np.random.default_rng()
        self._led = -1

    async def ping(self) -> None:
        """Whether it is there."""

    async def train(self, round: int, model: Arrays) -> Arrays:
        rate = 0.3 if round < 0.7 * self._rounds else 0.1
        return digits.train(model, self._images, self._labels, STEPS, self._rng, rate=rate)

    async def lead(self, round: int, model: Arrays, silent: list[str]) -> None:
        """Average what the sample of a round learns, and hand it on. Returns at once.

        A second time it does nothing: of two leaders, when one was taken for frozen and was not,
        one ends here. `silent` are those who did not answer the leaders before this one.
        """
        if round > self._led:
            self._led = round
            self.crowd.silent.update(silent)
            self._tasks.start_soon(self._lead, round, model)

    async def _lead(self, round: int, model: Arrays) -> None:
        sample = await self.crowd.sample(round, SAMPLE)
        learned = await answers(lambda peer: self.crowd.stub(peer).train(round, model), sample)
        model = digits.mean([*learned.values()]) if learned else model
        await self.desk.watch(round + 1, digits.nbytes(model) * (2 * SAMPLE + 1), model)
        while round + 1 < self._rounds:
            for peer in await self.crowd.sample(round + 1, 1):
                with suppress(LatticaError, TimeoutError):
                    silent = sorted(self.crowd.silent)
                    await self.crowd.stub(peer).lead(round + 1, model, silent)
                    return


async def one(address: str, shard: int, rounds: int) -> None:
    async with Node(config()) as node, trio.open_nursery() as nursery:
        own = Peer(node, await node.connect(address, timeout=30), shard, rounds, nursery)
        node.rpc.serve(own)
        own.crowd.addresses = await own.desk.join(str(node.addrs[0]))
        await trio.sleep_forever()


async def worker(address: str, shards: list[int], rounds: int) -> None:
    async with trio.open_nursery() as nursery:
        for shard in shards:
            nursery.start_soon(one, address, shard, rounds)


async def main(*, is_long: bool) -> None:
    rounds = 60 if is_long else 18
    *_, images, labels = digits.load()
    desk = Desk()
    async with Node(config()) as node, processes() as crew:
        node.rpc.serve(desk)
        for number in range(PROCESSES):
            shards = [*range(number, PEERS, PROCESSES)]
            await crew.start(address=str(node.addrs[0]), shards=shards, rounds=rounds)
        with trio.fail_after(300):
            await desk.is_full.wait()
            crowd, is_frozen = Crowd(node), False
            crowd.addresses = desk.addresses
            await crowd.begin(0, desk.model)
            while desk.round < rounds:
                crew.check()
                if desk.round >= rounds // 3 and not is_frozen:
                    for process in crew.processes[:FROZEN]:
                        process.send_signal(signal.SIGSTOP)
                    is_frozen = True
                    print(f"{FROZEN * EACH} of {PEERS} peers are frozen in round {desk.round}")
                with trio.move_on_after(STALLED) as patience:
                    await desk.news.wait()
                if patience.cancelled_caught:  # its leader is frozen
                    await crowd.begin(desk.round, desk.model)
    right = digits.accuracy(desk.model, images, labels)
    gossip = rounds * PEERS * NEIGHBOURS * digits.nbytes(desk.model) / desk.bytes
    print(f"{desk.round} rounds, {right:.1f}% right, {desk.bytes / 1e6:.1f} MB of models")
    print(f"gossip of all with {NEIGHBOURS} others each would be {gossip:.1f} times that")
    assert right > 90
    assert gossip >= 3


if __name__ == "__main__":
    run(main, worker)
