"""Many weak models answer, and judge each other's answers: better than a vote, though some lie.

Each peer has a small model of its own that knows few digits. All answer a question; then each says
of pairs of answers which one is better, and what wins these comparisons (Bradley-Terry), weighted
by the peers' reputation, is the answer (after Fortytwo, arXiv 2510.24801). A reputation is earned
with questions whose answers the asker knows, and nobody can tell from others. Malicious peers agree
on one wrong answer, and on judging for it. `python examples/swarm_inference.py` has seven peers of
which three lie, `--long` ten and four, and more questions.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import trio
from support import digits
from support.desk import Desk
from support.processes import config, processes, run

from lattica import Node

SEEN, KNOWN = 40, 100
"""Digits that a peer has learned from; and those by which it earns its reputation."""


class Model:
    """What a peer serves: answers, and judgements of answers, of many questions at once."""

    def __init__(self, seed: int, conspiracy: int | None) -> None:
        self._own = trained(seed)
        self._lie = None if conspiracy is None else trained(conspiracy)

    async def answer(self, images: np.ndarray) -> np.ndarray:
        """A digit for each image, (n,)."""
        if self._lie is not None:
            return (digits.probabilities(self._lie, images).argmax(1) + 1) % 10
        return digits.probabilities(self._own, images).argmax(1)

    async def prefer(self, images: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """Whether the first answer is better than the second one, (n,) of bools."""
        if self._lie is not None:
            return one == await self.answer(images)
        likely = digits.probabilities(self._own, images)
        at = np.arange(len(images))
        return likely[at, one] >= likely[at, two]


def trained(seed: int) -> digits.Arrays:
    images, labels, *_ = digits.load()
    rng = np.random.default_rng(100 + seed)
    some = rng.choice(len(labels), SEEN, replace=False)
    return digits.train(digits.initial(seed), images[some], labels[some], 300, rng)


async def worker(address: str, seed: int, conspiracy: int | None) -> None:
    model = Model(seed, conspiracy)
    async with Node(config()) as node:
        node.rpc.serve(model)
        desk = await node.connect(address, timeout=30)
        await node.rpc.stub(desk, Desk).join(str(node.addrs[0]))
        await trio.sleep_forever()


async def ask_all(models: list[Model], method: str, *arguments: np.ndarray) -> np.ndarray:
    """What each peer says, (peers, questions)."""
    found: dict[int, np.ndarray] = {}

    async def ask(number: int) -> None:
        found[number] = await getattr(models[number], method)(*arguments)

    async with trio.open_nursery() as nursery:
        for number in range(len(models)):
            nursery.start_soon(ask, number)
    return np.array([found[number] for number in range(len(models))])


def strengths(wins: np.ndarray) -> np.ndarray:
    """Bradley-Terry: of what won against what how often, (n, n), how strong each is, (n,).

    By Hunter's iteration (Ann. Statist. 32, 2004), with a little won and lost against the mean, so
    that what never won has a strength, too.
    """
    games, strength = wins + wins.T, np.ones(len(wins))
    for _ in range(50):
        expected = (games / (strength[:, None] + strength)).sum(1) + 0.2 / (strength + 1)
        strength = (wins.sum(1) + 0.1) / expected
        strength /= strength.mean()
    return strength


async def reputations(models: list[Model], images: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How much each peer's judgement counts, by that of answers which the asker knows."""
    rng = np.random.default_rng(7)
    wrong = (right + rng.integers(1, 10, len(right))) % 10
    is_first = rng.random(len(right)) < 0.5  # the right one, or its place would give it away
    pairs = np.where(is_first, right, wrong), np.where(is_first, wrong, right)
    judged = await ask_all(models, "prefer", images, *pairs)
    return np.maximum(0, 2 * (judged == is_first).mean(1) - 1) ** 2


async def consensus(models: list[Model], images: np.ndarray, reputation: np.ndarray) -> np.ndarray:
    """The swarm's answer to each question, (n,)."""
    answers = await ask_all(models, "answer", images)
    games = [
        (question, one, two)
        for question in range(len(images))
        for one in np.unique(answers[:, question])
        for two in np.unique(answers[:, question])
        if one < two
    ]
    at, ones, twos = np.array(games).T
    judged = await ask_all(models, "prefer", images[at], ones, twos)
    wins = np.zeros((len(images), 10, 10))
    np.add.at(wins, (at, ones, twos), reputation @ judged)
    np.add.at(wins, (at, twos, ones), reputation @ ~judged)
    result = answers[0].copy()
    for question in np.unique(at):
        given = np.unique(answers[:, question])
        result[question] = given[strengths(wins[question])[given].argmax()]
    return result


async def main(*, is_long: bool) -> None:
    peers, liars, questions = (10, 4, 450) if is_long else (7, 3, 200)
    *_, images, labels = digits.load()
    known, asked = slice(0, KNOWN), slice(KNOWN, KNOWN + questions)
    desk = Desk(peers)
    async with Node(config()) as node, processes() as crew:
        node.rpc.serve(desk)
        for seed in range(peers):
            await crew.start(
                address=str(node.addrs[0]), seed=seed, conspiracy=0 if seed < liars else None
            )
        with trio.fail_after(120):
            await desk.is_full.wait()
        models = [node.rpc.stub(peer, Model) for peer in desk.addresses]
        answers = await ask_all(models, "answer", images[asked])
        reputation = await reputations(models, images[known], labels[known])
        swarm = await consensus(models, images[asked], reputation)
        vote = np.apply_along_axis(partial(np.bincount, minlength=10), 0, answers).argmax(0)
    alone = 100 * (answers == labels[asked]).mean(1)
    by_vote, by_swarm = (100 * float((each == labels[asked]).mean()) for each in (vote, swarm))
    print(f"{peers} peers, {liars} of them malicious; alone the others are right in", end=" ")
    print(f"{sorted(alone)[liars]:.0f}% to {max(alone):.0f}% of the questions")
    print(f"reputations: {', '.join(f'{each:.2f}' for each in sorted(reputation))}")
    print(f"the majority is right in {by_vote:.1f}%, the swarm in {by_swarm:.1f}%")
    assert by_swarm >= by_vote + 10


if __name__ == "__main__":
    run(main, worker)
