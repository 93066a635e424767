"""Logs in memory, which keep entries as a store does."""

from __future__ import annotations

from collections.abc import Sequence

from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.core import Log
from lattica.crdt.log.outcome import Outcome
from tests.support.crdt.chains import DOC, START

NOW = START + 1_000_000


class MemoryLog:
    """A log, and the entries that it has admitted."""

    def __init__(self, genesis: Genesis = DOC, config: LogConfig | None = None) -> None:
        self.kept: dict[tuple[bytes, int], Entry] = {}
        self.log = Log(genesis, lambda author, seq: self.kept[author, seq], config)

    def receive(
        self,
        entries: Sequence[Entry],
        now_ms: int = NOW,
        now: float = 0.0,
        peer: object = "peer",
    ) -> Outcome:
        return self.keep(self.log.receive(entries, peer, now_ms, now))

    def receive_fork(self, proof: ForkProof) -> Outcome:
        return self.keep(self.log.receive_fork(proof, NOW))

    def keep(self, outcome: Outcome) -> Outcome:
        for entry in [*outcome.admitted, *outcome.resigned]:
            self.kept[entry.header.author, entry.header.seq] = entry
        for proof in outcome.forks:
            for key in [key for key in self.kept if key[0] == proof.author]:
                if key[1] >= proof.seq:
                    del self.kept[key]
        return outcome

    @property
    def state(self) -> dict[bytes, tuple[list[bytes], int | None]]:
        """What two replicas with the same entries agree on."""
        return {
            author: (feed.ids, feed.fork.seq if feed.fork else None)
            for author, feed in self.log.feeds.items()
            if feed.ids or feed.fork
        }
