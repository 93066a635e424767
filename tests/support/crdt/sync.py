"""Exchanges between documents, message by message."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from lattica.crdt.document import Document
from lattica.crdt.entries.chain import encode_chain
from lattica.crdt.entries.header import Entry
from lattica.crdt.sync.messages import Entries, Fork, decode_message
from lattica.crdt.sync.session import SyncCounts, SyncSession

NONCE = bytes(16)


class Exchange:
    """A session on both sides; messages go from one to the other when the test says so."""

    def __init__(self, opener: Document, other: Document, *, opener_tells: bool = True) -> None:
        self.sides = [
            SyncSession(opener, "opener", NONCE, is_opener=True, tells=opener_tells),
            SyncSession(other, "other", NONCE, is_opener=False),
        ]
        self._speaker = 0
        self._messages = self.sides[0].turn()

    def step(self) -> bool:
        """Carry one message; False when there is nothing more to say."""
        message = next(self._messages, None)
        if message is None:
            return False
        listener = self.sides[1 - self._speaker]
        if listener.take(message):
            assert next(self._messages, None) is None
            if listener.is_over:
                return False
            self._speaker = 1 - self._speaker
            self._messages = listener.turn()
        return True

    def run(self) -> tuple[SyncCounts, SyncCounts]:
        """Carry all there is."""
        while self.step():
            pass
        assert all(side.is_over for side in self.sides)
        return self.sides[0].counts, self.sides[1].counts


def exchange(opener: Document, other: Document) -> tuple[SyncCounts, SyncCounts]:
    """A whole exchange; what it has cost both sides."""
    return Exchange(opener, other).run()


def exchange_all(*documents: Document) -> None:
    """Exchanges between each two of them, either of which opens one, and once more for what comes
    by way of others.
    """
    for _ in range(2):
        for one, other in itertools.permutations(documents, 2):
            exchange(one, other)


def hand_over(*documents: Document) -> None:
    """Give each of them what each has, without an exchange; nothing is refused."""
    for giver in documents:
        for taker in documents:
            for proof in giver.forks():
                taker.receive_fork(proof)
            for chain in giver.chains_since(taker.heads()):
                assert not taker.receive(chain, "peer").refusals


def tell(document: Document, messages: Iterable[bytes]) -> None:
    """Have a document hear news."""
    for message in messages:
        match decode_message(message):
            case Fork(proof):
                document.receive_fork(proof)
            case Entries(chain):
                document.receive(chain, "peer")
            case other:
                raise AssertionError(other)


def take(document: Document, *entries: Entry) -> None:
    """Have a document hear a chain of these."""
    document.receive(encode_chain(entries, with_prev=True), "peer")
