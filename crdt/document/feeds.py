"""What a document gives to replicas that lack it: heads, chains and proofs of forks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from lattica.crdt.compaction.history import History
from lattica.crdt.entries.chain import (
    FRAME_BYTES,
    MAX_CHAIN,
    encode_chain,
    fitting,
    fitting_shown,
    signed_part,
)
from lattica.crdt.entries.header import Entry
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.outcome import Outcome
from lattica.crdt.log.withdrawn import withdrawn_chains
from lattica.crdt.sync.heads import ID_PREFIX, MAX_LACKING, Head, HeadIndex

_PIECE: Final = 1024
"""Entries of a chain that is sent: whoever reads it does nothing else meanwhile."""
_VOUCHING_BYTES: Final = 1024
"""Of an entry without its payload, at most."""


class Feeds:
    """The chains of a document's authors, as others are told of them and given them."""

    def __init__(self, replica: Replica, history: History) -> None:
        self._replica = replica
        self._history = history
        self._head_index: HeadIndex | None = None
        self._withdrawn: frozenset[bytes] | None = None
        """IDs of what is kept without effect; None: it has to be looked for."""

    def chains_since(self, heads: Mapping[bytes, tuple[int, bytes]]) -> Iterator[bytes]:
        """As :meth:`Document.chains_since`."""
        for author, (length, _) in self._history.heads().items():
            since, newest = heads.get(author, (0, b""))
            if 0 < since <= length and self._replica.log.id_at(author, since - 1) != newest:
                since = 0
            yield from self.chains_of(author, since)

    def chains_of(self, author: bytes, since: int) -> Iterator[bytes]:
        """As :meth:`Document.chains_of`."""
        length = self._replica.log.length(author)
        while since < length:
            entries, size = fitting(self._replica.database.entries(author, since, length), _PIECE)
            if not entries or entries[0].header.seq != since:
                return  # only the ID of the one before is here
            count = len(entries)
            vouching = self._cut_off(author, entries)
            if vouching and size + len(vouching) * _VOUCHING_BYTES <= MAX_CHAIN - FRAME_BYTES:
                entries += vouching
                size += len(vouching) * _VOUCHING_BYTES
            chain = signed_part(fitting_shown(entries, size, self._replica.shown_for))
            if not chain:
                return
            yield encode_chain(chain, with_prev=True, shown=self._replica.shown_for(chain))
            since += min(count, len(chain))

    def _cut_off(self, author: bytes, entries: list[Entry]) -> tuple[Entry, ...]:
        """What vouches for the last entry before a fork, if that is the last of `entries` and not
        signed by itself: of the fork's proof, so without payloads. Whoever knows the fork, which
        is told first, takes nothing of it.
        """
        fork = self._replica.log.feeds[author].fork
        behind = fork.behind(entries[-1].header) if fork is not None and entries else ()
        return () if behind and entries[-1].is_signed() else behind

    def withdrawn_for(self, author: bytes, since: int) -> Iterator[bytes]:
        """As :meth:`Document.withdrawn_for`."""
        log, database = self._replica.log, self._replica.database
        if self._withdrawn is None:
            feeds = log.feeds.values()
            is_any = any(feed.fork is not None or feed.is_cut for feed in feeds)
            self._withdrawn = frozenset(database.withdrawn_ids() if is_any else ())
        if not self._withdrawn:
            return
        entries = database.entries(author, since, log.length(author))
        wanted = self._withdrawn.intersection(dep for entry in entries for dep in entry.header.deps)
        if wanted:
            yield from withdrawn_chains(
                wanted, database.withdrawn_entries(), log.feeds, self._replica.shown_for
            )

    def has_gap(self, author: bytes, since: int) -> bool:
        """As :meth:`Document.has_gap`."""
        return since < self._replica.database.pruned_end(author)

    @property
    def head_index(self) -> HeadIndex:
        """As :meth:`Document.head_index`."""
        if self._head_index is None:
            self._head_index = HeadIndex()
            for author in self._replica.log.feeds:
                self._note(author)
        return self._head_index

    def comes_first(self, author: bytes) -> bool:
        """As :meth:`Document.comes_first`."""
        rights, feed = self._replica.log.rights, self._replica.log.feeds.get(author)
        return rights is not None and feed is not None and rights.ownership.was_owner(feed.identity)

    def fork_of(self, author: bytes) -> bytes | None:
        """As :meth:`Document.fork_of`."""
        feed = self._replica.log.feeds.get(author)
        return feed.fork.encode() if feed is not None and feed.fork is not None else None

    def forks(self) -> Iterator[bytes]:
        """As :meth:`Document.forks`."""
        for feed in self._replica.log.feeds.values():
            if feed.fork is not None:
                yield feed.fork.encode()

    def take(self, outcome: Outcome) -> None:
        """Note whose heads are others by what a log has admitted and withdrawn."""
        if outcome.forks or outcome.withdrawn or outcome.tombstones or outcome.has_revived:
            self._withdrawn = None
        for author in {entry.header.author for entry in outcome.admitted}:
            self._note(author)
        for proof in outcome.forks:
            self._note(proof.author)
        for author, _ in outcome.withdrawn:
            self._note(author)
        for author in outcome.settled:
            self._note(author)

    def forget(self) -> None:
        """Have the heads be read anew: the log is another one."""
        self._head_index = self._withdrawn = None

    def _note(self, author: bytes) -> None:
        if self._head_index is None:
            return
        feed = self._replica.log.feeds[author]
        newest = feed.ids[-1][:ID_PREFIX] if feed.ids else b""
        fork = feed.fork.seq if feed.fork else None
        lacking = tuple(feed.lacking[:MAX_LACKING])
        self._head_index.set(Head(author, len(feed.ids), newest, fork, lacking))
