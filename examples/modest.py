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
from dataclasses import dataclass

import numpy as np
import trio
from support import digits
from support.digits import Arrays
from support.processes import config, processes, run

from lattica import LatticaError, Node, PeerId
from lattica.rpc import CallContext

PROCESSES, EACH, FROZEN = 5, 4, 4
PEERS, SAMPLE, STEPS, NEIGHBOURS = PROCESSES * EACH, 4, 40, 2
PATIENCE = 0.5
"""Seconds in which a peer answers a ping, or is passed over."""
STALLED = 6.0
"""Seconds without a round after which another peer leads it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A peer, as everybody knows it."""

    peer: str
    address: str


class Desk:
    """Where peers learn once who there is, and where the last round is told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.round = 0
        self.bytes = 0
        self.model = digits.initial()
        self.is_begun = False
        self.came = trio.Event()
        self.are_all = trio.Event()

    async def join(self, address: str, context: CallContext) -> list[Entry]:
        self.entries.append(Entry(str(context.peer), address))
        if len(self.entries) == PEERS:
            self.are_all.set()
        await self.are_all.wait()
        return self.entries

    async def watch(self, round: int, moved: int, model: Arrays) -> None:
        """Only to be shown; `moved` are the bytes of models that the round has sent."""
        self.bytes += moved
        if round > self.round:
            self.round, self.model = round, model
            self.came.set()
            self.came = trio.Event()


async def answering(node: Node, entries: list[Entry]) -> list[Entry]:
    """Those that answer a ping, in their order; the node itself needs none."""
    there = {str(node.peer_id)}

    async def ping(entry: Entry) -> None:
        try:
            if not node.is_connected(entry.peer):
                await node.connect(entry.address, timeout=PATIENCE)
            await node.rpc.stub(entry.peer, Peer, timeout=PATIENCE).ping()
            there.add(entry.peer)
        except (LatticaError, TimeoutError):
            return

    async with trio.open_nursery() as nursery:
        for entry in entries:
            if entry.peer not in there:
                nursery.start_soon(ping, entry)
    return [entry for entry in entries if entry.peer in there]


class Peer:
    """What a peer serves."""

    def __init__(self, node: Node, desk: PeerId, shard: int, rounds: int) -> None:
        images, labels, *_ = digits.load()
        mine = digits.shards(labels, PEERS)[shard]
        self.entries: list[Entry] = []
        self._images, self._labels = images[mine], labels[mine]
        self._node, self._desk, self._rounds = node, desk, rounds
        self._rng = np.random.default_rng()
        self._silent: set[str] = set()
        self._led = -1
        self._tasks: trio.Nursery | None = None

    async def run(self) -> None:
        async with trio.open_nursery() as self._tasks:
            await trio.sleep_forever()

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
        assert self._tasks is not None
        if round > self._led:
            self._led = round
            self._silent.update(silent)
            self._tasks.start_soon(self._lead, round, model)

    async def _lead(self, round: int, model: Arrays) -> None:
        learned: list[Arrays] = []

        async def train(entry: Entry) -> None:
            try:
                learned.append(await self._stub(entry, 4 * PATIENCE).train(round, model))
            except (LatticaError, TimeoutError):
                return  # the others are enough

        async with trio.open_nursery() as nursery:
            for entry in await self._sample(round, SAMPLE):
                nursery.start_soon(train, entry)
        model = digits.mean(learned) if learned else model
        moved = digits.nbytes(model) * (2 * SAMPLE + 1)
        await self._node.rpc.stub(self._desk, Desk).watch(round + 1, moved, model)
        while round + 1 < self._rounds:
            for entry in await self._sample(round + 1, 1):
                try:
                    stub = self._stub(entry, 4 * PATIENCE)
                    await stub.lead(round + 1, model, sorted(self._silent))
                    return
                except (LatticaError, TimeoutError):
                    continue

    async def _sample(self, round: int, count: int) -> list[Entry]:
        """The first peers that answer, in the order of the round."""
        found: list[Entry] = []
        ordered = sorted(
            self.entries,
            key=lambda each: (
                each.peer in self._silent,
                hashlib.sha256(f"{round}|{each.peer}".encode()).digest(),
            ),
        )
        # As many at a time when one is wanted, too: of those next in order all may be frozen.
        while ordered and len(found) < count:
            batch, ordered = ordered[:SAMPLE], ordered[SAMPLE:]
            there = await answering(self._node, batch)
            found += there
            # These are asked after the others from now on.
            self._silent.update(entry.peer for entry in batch if entry not in there)
        return found[:count]

    def _stub(self, entry: Entry, timeout: float) -> Peer:
        if entry.peer == str(self._node.peer_id):
            return self
        return self._node.rpc.stub(entry.peer, Peer, timeout=timeout)


async def one(address: str, shard: int, rounds: int) -> None:
    async with Node(config()) as node, trio.open_nursery() as nursery:
        desk = await node.connect(address, timeout=30)
        own = Peer(node, desk, shard, rounds)
        nursery.start_soon(own.run)
        node.rpc.serve(own)
        own.entries = await node.rpc.stub(desk, Desk, timeout=120).join(str(node.addrs[0]))
        await trio.sleep_forever()


async def worker(address: str, shards: list[int], rounds: int) -> None:
    async with trio.open_nursery() as nursery:
        for shard in shards:
            nursery.start_soon(one, address, shard, rounds)


async def one_round(node: Node, desk: Desk) -> None:
    """Whoever sees that no round comes, as its leader is frozen, has another one lead it; at the
    beginning, too.
    """
    with trio.move_on_after(STALLED if desk.is_begun else 0):
        await desk.came.wait()
        return
    desk.is_begun = True
    there = await answering(node, desk.entries)
    for entry in random.sample(there, len(there)):
        try:
            peer = node.rpc.stub(entry.peer, Peer, timeout=2 * PATIENCE)
            await peer.lead(desk.round, desk.model, [])
            return
        except (LatticaError, TimeoutError):
            continue


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
            await desk.are_all.wait()
            is_frozen = False
            while desk.round < rounds:
                crew.check()
                if desk.round >= rounds // 3 and not is_frozen:
                    for process in crew.processes[:FROZEN]:
                        process.send_signal(signal.SIGSTOP)
                    is_frozen = True
                    print(f"{FROZEN * EACH} of {PEERS} peers are frozen in round {desk.round}")
                await one_round(node, desk)
    right = digits.accuracy(desk.model, images, labels)
    gossip = rounds * PEERS * NEIGHBOURS * digits.nbytes(desk.model)
    print(f"{desk.round} rounds, {right:.1f}% right, {desk.bytes / 1e6:.1f} MB of models")
    print(
        f"gossip of all with {NEIGHBOURS} others each would be {gossip / desk.bytes:.1f} times that"
    )
    assert right > 90
    assert gossip >= 3 * desk.bytes


if __name__ == "__main__":
    run(main, worker)
