"""Training over slow lines: fifty steps on one's own, then a tenth of what changed, in bf16.

Workers take many inner steps on data of their own. What a worker's parameters have moved is cut to
the tenth that moved most, rounded to bf16 (what is left is kept for the next time), and sent; the
mean of all is the gradient of an outer step with Nesterov momentum (after DiLoCo, arXiv
2311.08105). Everybody gets what the others sent, and takes the same outer step. Workers are killed
in mid-round: the others go on without, and new ones take their place. Compared with synchronous
training, in which each step sends all gradients and brings all parameters, in the same number of
steps. `python examples/diloco.py`; `--long` has twice the steps.
"""

from __future__ import annotations

import numpy as np
import trio
from support import digits
from support.processes import config, processes, run

from lattica import Node

WORKERS, INNER, DENSITY, MOMENTUM, DECAY = 4, 50, 0.1, 0.5, 3e-3
PATIENCE = 3.0
"""Seconds that a round waits for the last ones, from when half are there."""
SHAPES = [layer.shape for layer in digits.initial()]
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)
Delta = tuple[np.ndarray, np.ndarray]
"""Which parameters, a bit each, uint8; and how far these moved, bf16 as uint16."""


def flat(layers: digits.Arrays) -> np.ndarray:
    return np.concatenate([layer.ravel() for layer in layers])


def layers(parameters: np.ndarray) -> digits.Arrays:
    pieces = np.split(parameters, np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, SHAPES, strict=True)]


def pack(moved: np.ndarray) -> Delta:
    """The largest tenth of float32s (n,)."""
    chosen = np.zeros(SIZE, bool)
    chosen[np.argpartition(-np.abs(moved), int(SIZE * DENSITY))[: int(SIZE * DENSITY)]] = True
    bits = moved[chosen].astype(np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + (bits >> 16 & 1)  # to the nearest, ties to even
    return np.packbits(chosen), (rounded >> 16).astype(np.uint16)


def unpack(delta: Delta) -> np.ndarray:
    moved = np.zeros(SIZE, np.float32)
    chosen = np.unpackbits(delta[0], count=SIZE).astype(bool)
    moved[chosen] = (delta[1].astype(np.uint32) << 16).view(np.float32)
    return moved


def outer(parameters: np.ndarray, momentum: np.ndarray, deltas: list[Delta]) -> None:
    """The outer step, in place; the same at everybody who has the same deltas."""
    moved = np.mean([unpack(delta) for delta in deltas], axis=0, dtype=np.float32)
    momentum *= MOMENTUM
    momentum += moved
    parameters += (1 - MOMENTUM) * (moved + MOMENTUM * momentum)


def rate(step: int, steps: int) -> float:
    done = step / steps
    return 0.3 if done < 0.6 else 0.1 if done < 0.85 else 0.02


class Rounds:
    """Where the deltas of a round meet."""

    def __init__(self) -> None:
        self.round = 0
        self.parameters, self.momentum = flat(digits.initial()), np.zeros(SIZE, np.float32)
        self.counts: list[int] = []
        """Deltas of each round that is over."""
        self.bytes = 0
        self._deltas: list[Delta] = []
        self._over = trio.Event()

    async def join(self) -> tuple[int, np.ndarray, np.ndarray]:
        """The next round, and parameters and momentum before it."""
        self.bytes += 8 * SIZE
        return self.round, self.parameters, self.momentum

    async def submit(self, round: int, delta: Delta) -> list[Delta] | None:
        """The deltas of the round, when all are there or late; None: it is over, join again."""
        self.bytes += delta[0].nbytes + delta[1].nbytes
        if round != self.round:
            return None
        deltas, over = self._deltas, self._over
        deltas.append(delta)
        while len(deltas) < WORKERS and not over.is_set():
            with trio.move_on_after(PATIENCE):
                await over.wait()
            if len(deltas) >= WORKERS // 2:
                break
        if not over.is_set():
            outer(self.parameters, self.momentum, deltas)
            self.counts.append(len(deltas))
            self.round, self._deltas, self._over = round + 1, [], trio.Event()
            over.set()
        self.bytes += sum(one.nbytes + two.nbytes for one, two in deltas)
        return deltas


async def worker(address: str, shard: int, steps: int) -> None:
    images, labels, *_ = digits.load()
    mine = digits.shards(labels, WORKERS)[shard]
    rng = np.random.default_rng()
    async with Node(config()) as node:
        rounds = node.rpc.stub(await node.connect(address, timeout=30), Rounds)
        left = np.zeros(SIZE, np.float32)
        round, parameters, momentum = await rounds.join()
        while round * INNER < steps:
            own = layers(parameters)
            for step in range(round * INNER, (round + 1) * INNER):
                some = rng.choice(mine, 32)
                found = digits.gradients(own, images[some], labels[some], DECAY)
                pace = np.float32(rate(step, steps))
                own = [p - pace * g for p, g in zip(own, found, strict=True)]
            left += flat(own) - parameters
            delta = pack(left)
            deltas = await rounds.submit(round, delta)
            if deltas is None:
                round, parameters, momentum = await rounds.join()
                continue
            left -= unpack(delta)
            outer(parameters, momentum, deltas)
            round += 1


def synchronous(steps: int) -> tuple[np.ndarray, int]:
    """The same on one machine, and the bytes that its gradients and parameters would be."""
    images, labels, *_ = digits.load()
    parts, rng = digits.shards(labels, WORKERS), np.random.default_rng(0)
    parameters = flat(digits.initial())
    for step in range(steps):
        batches = [rng.choice(part, 32) for part in parts]
        found = [
            flat(digits.gradients(layers(parameters), images[some], labels[some], DECAY))
            for some in batches
        ]
        parameters -= np.float32(rate(step, steps)) * np.mean(found, axis=0, dtype=np.float32)
    return parameters, steps * WORKERS * 2 * 4 * SIZE


async def main(*, is_long: bool) -> None:
    steps = 4000 if is_long else 2000
    images, labels, *_ = digits.load()
    rounds = Rounds()
    async with Node(config()) as node, processes() as crew:
        node.rpc.serve(rounds)
        address = str(node.addrs[0])
        for shard in range(WORKERS):
            await crew.start(address=address, shard=shard, steps=steps)
        for shard in (0, 1):
            while rounds.round < (1 + shard) * steps // INNER // 4:
                await trio.sleep(0.01)
                crew.check()
            await crew.end(crew.processes[shard])
            print(f"a worker is killed in round {rounds.round}")
            await crew.start(address=address, shard=shard, steps=steps)
        with trio.fail_after(120):
            while rounds.round * INNER < steps:
                await trio.sleep(0.05)
                crew.check()
    central, central_bytes = synchronous(steps)
    ours, best = (
        digits.loss(layers(each), images, labels, DECAY) for each in (rounds.parameters, central)
    )
    fewer = central_bytes / rounds.bytes
    print(
        f"{len(rounds.counts)} rounds, of which {sum(n < WORKERS for n in rounds.counts)} by fewer"
    )
    print(f"loss {ours:.4f}, synchronous {best:.4f}: {100 * (ours / best - 1):+.1f}%")
    print(f"{rounds.bytes / 1e6:.2f} MB travelled, {fewer:.0f} times fewer")
    assert ours <= 1.02 * best
    assert fewer >= 100


if __name__ == "__main__":
    run(main, worker)
