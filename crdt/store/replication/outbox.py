"""What one peer is still to be told: pure, and as places in chains, not as bytes. However slow a
peer is, its outbox grows by authors only, and what it gets is in large pieces then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from lattica.crdt.entries.fork import ForkProof
from lattica.crdt.entries.header import Entry
from lattica.crdt.sync.messages import encode_entries, encode_fork_message, encode_presence_message
from lattica.crdt.sync.session import SyncSource

MAX_AUTHORS: Final = 1024
"""Beyond, an exchange says what is lacking better than news."""


class Outbox:
    """News for one peer."""

    def __init__(self) -> None:
        self._since: dict[bytes, int] = {}
        """By author, the first entry to send."""
        self._forks: dict[bytes, None] = {}
        self._presence: dict[bytes, bytes] = {}
        self.is_full = False
        """Whether something was left out: an exchange is due."""

    def __bool__(self) -> bool:
        return bool(self._since or self._forks or self._presence)

    def put(self, entries: Iterable[Entry], forks: Iterable[ForkProof]) -> None:
        """Note what was admitted."""
        for entry in entries:
            author, seq = entry.header.author, entry.header.seq
            if author in self._since or len(self._since) < MAX_AUTHORS:
                self._since[author] = min(seq, self._since.get(author, seq))
            else:
                self.is_full = True
        for proof in forks:
            self._forks[proof.author] = None

    def put_presence(self, key: bytes, statement: bytes) -> None:
        """Note a statement of presence; it takes the place of an earlier one with this key."""
        if key in self._presence or len(self._presence) < 4 * MAX_AUTHORS:
            self._presence[key] = statement

    def take(self, source: SyncSource) -> Iterator[bytes]:
        """All that is to be sent, as messages made one by one. What comes meanwhile is for the
        next time.
        """
        since, self._since = self._since, {}
        forks, self._forks = self._forks, {}
        presence, self._presence = self._presence, {}
        for statement in presence.values():
            yield encode_presence_message(statement)
        for author in forks:
            proof = source.fork_of(author)
            if proof is not None:
                yield encode_fork_message(proof)
        for author, seq in since.items():
            for chain in source.chains_of(author, seq):
                yield encode_entries(chain)
