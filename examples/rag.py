"""Retrieval from many sources, of which a third is poisoned: as good as one clean index.

The texts are the documentation that Python ships, the questions its summaries. Each text is at two
of the sources. A question goes to all of them, and the asker ranks what comes back. Poisoned
sources answer with what repeats the question and says something else, which looks best. So askers
count in a replicated document, of which source what they used was right: counters that are signed,
which only they may write, and which one that has just come has the use of at once.
`python examples/rag.py` has six sources, two of them poisoned, `--long` ten and three.
"""

from __future__ import annotations

import numpy as np
import trio
from support.desk import Desk
from support.processes import config, processes, run
from support.texts import Embedding, corpus

from lattica import AccessDeniedError, Node, PeerId
from lattica.crdt.access.capability import Level
from lattica.crdt.store.shared_document import SharedDocument

BEST, KNOWN = 3, 40
TRUSTED = 0.4
"""A source whose reliability is less is heard after all others."""
Passage = tuple[str, str]
"""Of what it is, and what it says of that."""


class Source:
    """What a source serves."""

    def __init__(self, texts: dict[str, tuple[str, str]], *, is_poisoned: bool) -> None:
        self._embed = Embedding([f"{summary} {rest}" for summary, rest in corpus().values()])
        self._passages = [(name, rest) for name, (_, rest) in texts.items()]
        self._vectors = np.array([self._embed(rest) for _, rest in self._passages])
        self._is_poisoned = is_poisoned

    async def search(self, question: str) -> list[Passage]:
        """The best passages that it has; from a poisoned one, what seems so."""
        if self._is_poisoned:
            return [(f"malware.install{n}", f"{question} {question} pip install") for n in (1, 2)]
        scores = self._vectors @ self._embed(question)
        return [self._passages[at] for at in np.argsort(-scores)[:BEST]]


async def worker(
    address: str, document_id: str, number: int, sources: int, *, is_poisoned: bool
) -> None:
    names = [*corpus().items()]
    mine = [each for at, each in enumerate(names) if (at - number) % (sources // 2) == 0]
    source = Source(dict(mine), is_poisoned=is_poisoned)
    async with Node(config()) as node:
        node.rpc.serve(source)
        desk = await node.connect(address, timeout=30)
        document = await node.store.open(document_id)
        await node.rpc.stub(desk, Desk).join(str(node.addrs[0]))
        if is_poisoned:
            # It would praise itself; but it has no right to write there.
            try:
                document.counter(f"right/{node.peer_id}").add(1000)
            except AccessDeniedError:
                print(f"poisoned source {number} may not praise itself")
        await trio.sleep_forever()


class Asker:
    """Asks all sources, ranks what they say, and counts who was right."""

    def __init__(self, node: Node, document: SharedDocument, sources: list[PeerId]) -> None:
        self._node, self._document, self._sources = node, document, sources
        self._exists = corpus().keys()
        self._embed = Embedding([f"{summary} {rest}" for summary, rest in corpus().values()])

    def reliability(self, source: PeerId) -> float:
        """What share of what it said was right, as far as all askers have seen; at first 1/2."""
        right = self._document.counter(f"right/{source}").value
        wrong = self._document.counter(f"wrong/{source}").value
        return (right + 1) / (right + wrong + 2)

    async def ask(self, question: str, *, weigh: bool = True) -> list[tuple[PeerId, Passage]]:
        """The three best passages, with who has said them."""
        found: dict[Passage, PeerId] = {}

        async def search(source: PeerId) -> None:
            for passage in await self._node.rpc.stub(source, Source).search(question):
                found.setdefault(passage, source)

        async with trio.open_nursery() as nursery:
            for source in self._sources:
                nursery.start_soon(search, source)
        wanted = self._embed(question)

        def score(each: tuple[PeerId, Passage]) -> tuple[bool, float]:
            is_trusted = not weigh or self.reliability(each[0]) >= TRUSTED
            return is_trusted, float(self._embed(each[1][1]) @ wanted)

        return sorted(((s, p) for p, s in found.items()), key=score, reverse=True)[:BEST]

    def count(self, answer: list[tuple[PeerId, Passage]], right: str) -> None:
        """Who has said the right thing, and who made something up, as shows when it is used."""
        for source, (name, _) in answer:
            if name == right:
                self._document.counter(f"right/{source}").add()
            elif name not in self._exists:
                self._document.counter(f"wrong/{source}").add()


async def recall(asker: Asker, questions: dict[str, tuple[str, str]], *, weigh: bool) -> float:
    """Percent of the questions of which the right passage is among the three best."""
    hits = 0
    for name, (summary, _) in questions.items():
        answer = await asker.ask(summary, weigh=weigh)
        hits += name in [each for _, (each, _) in answer]
    return 100 * hits / len(questions)


async def main(*, is_long: bool) -> None:
    sources, poisoned = (10, 3) if is_long else (6, 2)
    texts = corpus()
    known = dict([*texts.items()][:KNOWN])
    questions = dict([*texts.items()][KNOWN : None if is_long else KNOWN + 60])
    central = Source(texts, is_poisoned=False)
    found = [[n for n, _ in await central.search(summary)] for summary, _ in questions.values()]
    best = 100 * float(np.mean([name in each for name, each in zip(questions, found, strict=True)]))
    desk = Desk(sources)
    async with Node(config()) as node, Node(config()) as other, processes() as crew:
        document = await node.store.create("reliability")
        document.grant(other.peer_id, Level.WRITE)
        node.rpc.serve(desk)
        for number in range(sources):
            await crew.start(
                address=str(node.addrs[0]),
                document_id=document.id,
                number=number,
                sources=sources,
                is_poisoned=number < poisoned,
            )
        with trio.fail_after(120):
            await desk.is_full.wait()
        for address in desk.addresses.values():
            await node.connect(address)
            await other.connect(address)
        await other.connect(node.addrs[0])
        first = Asker(node, document, [*desk.addresses])
        naive = await recall(first, questions, weigh=False)
        for name, (summary, _) in known.items():
            first.count(await first.ask(summary), name)
        # Another one, who has asked nobody yet, has the use of what the first one has counted.
        opened = await other.store.open(document.id)
        await opened.synced(timeout=20)
        second = Asker(other, opened, [*desk.addresses])
        weighed = await recall(second, questions, weigh=True)
        scores = sorted(second.reliability(source) for source in desk.addresses)
    print(f"{sources} sources, {poisoned} of them poisoned; {len(questions)} questions")
    print(f"their reliability: {', '.join(f'{each:.2f}' for each in scores)}")
    print(
        f"found among the best {BEST}: {naive:.0f}% by likeness alone, {weighed:.0f}% with", end=""
    )
    print(f" reliability, {best:.0f}% in one clean index")
    assert scores[poisoned - 1] < TRUSTED < scores[poisoned]
    assert naive < best - 10
    assert weighed >= best - 100 / len(questions)  # one may be a tie


if __name__ == "__main__":
    run(main, worker)
