"""Six workers and no orchestrator: two of them are killed, and every task is done once.

The queue is a replicated document (after Matrix, arXiv 2511.21686, which has no orchestrator but
distributed queues). Whoever has it open takes what nobody has taken; what a killed worker had
taken is free again when its term is over. A task here tries one way to recognize digits by their
neighbours. `python examples/work_queue.py`; `--long` has four times the tasks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import trio
from support import digits
from support.processes import Crew, config, processes, run

from lattica import LatticaError, Node
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.uses.membership import Membership
from lattica.crdt.uses.work_queue import WorkQueue

WORKERS, KILLED, FOLDS = 6, 2, 5
TERM = 2.0
"""Seconds after which the task of a worker that is silent is free again."""
HEARD = 0.05
"""Seconds in which others have heard that a task was taken."""


def evaluate(task: Mapping[str, Any]) -> float:
    """Percent of one fifth of the digits that `neighbours` of the others recognize."""
    images, labels, *_ = digits.load()
    fold = np.arange(len(labels)) % FOLDS == task["fold"]
    distances = ((images[fold][:, None] - images[~fold]) ** 2).sum(2)
    nearest = np.argsort(distances, axis=1)[:, : task["neighbours"]]
    votes = np.apply_along_axis(np.bincount, 1, labels[~fold][nearest], minlength=10)
    return 100 * float((votes.argmax(1) == labels[fold]).mean())


async def worker(address: str, number: int) -> None:
    async with Node(config()) as node, trio.open_nursery() as nursery:
        document = await node.store.open("neighbours")
        await node.connect(address)
        await document.synced(timeout=30)
        members = Membership(document, node.peer_id)
        members.join(node.addrs, info={"number": number})
        nursery.start_soon(meet, node, members)
        queue = WorkQueue(document, term=TERM)
        while True:
            task = queue.take()
            if task is None:
                await trio.sleep(HEARD)
                continue
            await trio.sleep(HEARD)
            if queue.is_mine(task) and queue.result(task.id) is None:
                result = await trio.to_thread.run_sync(evaluate, task.payload)
                document.counter(f"done/{task.id}").add()
                queue.finish(task, [number, result])


async def meet(node: Node, members: Membership) -> None:
    """Workers connect to one another, so that nothing depends on the one that they began with."""
    while True:
        for other in members.workers():
            if other.peer != node.peer_id and not node.is_connected(other.peer):
                try:
                    await node.connect(other.addresses, timeout=2)
                except (LatticaError, TimeoutError):
                    continue  # killed, and not missed yet
        await trio.sleep(random.uniform(0.5, 1))


async def in_hand(crew: Crew, document: SharedDocument, members: Membership) -> tuple[int, object]:
    """A worker that lives and has a task in hand, and that."""
    while True:
        numbers = {each.peer: each.info["number"] for each in members.workers()}
        for task, holder in document.claims("jobs").held():
            number = numbers.get(document.peer_of(holder.author))
            if number is not None and crew.processes[number].poll() is None:
                return number, task
        await trio.sleep(HEARD)


async def main(*, is_long: bool) -> None:
    tasks = {
        f"k{neighbours}-fold{fold}": {"neighbours": neighbours, "fold": fold}
        for neighbours in range(1, 49 if is_long else 13)
        for fold in range(FOLDS)
    }
    async with Node(config()) as node, processes() as crew:
        document = await node.store.open("neighbours")
        queue = WorkQueue(document, term=TERM)
        for name, payload in tasks.items():
            queue.add(name, payload)
        for number in range(WORKERS):
            await crew.start(address=str(node.addrs[0]), number=number)

        with document.changes() as changes:
            while len(queue.results()) < len(tasks) // 3:
                await anext(changes)
        members = Membership(document, node.peer_id)
        for _ in range(KILLED):
            number, task = await in_hand(crew, document, members)
            await crew.end(crew.processes[number])
            print(f"worker {number} is killed, with task {task} in hand")

        with trio.fail_after(300):
            while len(queue.results()) < len(tasks):
                await trio.sleep(HEARD)
                crew.check()
        results = queue.results()
        done = {name: document.counter(f"done/{name}").value for name in tasks}
        twice = sum(count > 1 for count in done.values())
        by = sorted({number for number, _ in results.values()})
        print(f"all {len(results)} are done by workers {by}, {twice} of them twice")
        scores = {
            k: np.mean([results[f"k{k}-fold{fold}"][1] for fold in range(FOLDS)])
            for k in {task["neighbours"] for task in tasks.values()}
        }
        best = max(scores, key=lambda k: scores[k])
        print(f"{best} neighbours are best: {scores[best]:.1f}% right")
        assert results.keys() == tasks.keys()
        assert min(done.values()) >= 1
        assert twice <= 0.05 * len(tasks)
        assert not queue.failed()
        assert scores[best] > 97


if __name__ == "__main__":
    run(main, worker)
