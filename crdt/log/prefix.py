"""The beginning of an author's chain, without the entries that do not matter any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from lattica.crdt.base.turns import Turns
from lattica.crdt.entries.fork import MAX_PATH, ForkProof, Side
from lattica.crdt.entries.header import Entry
from lattica.crdt.entries.remnant import entry_of, size_of
from lattica.crdt.log.feed import Feed, identity_in

_TURN: Final = 256
"""Entries."""


@dataclass(slots=True)
class FeedPrefix:
    """What a snapshot has of one author."""

    author: bytes
    identity: bytes = b""
    """Who vouches for the session key, as the first entry says; known where it was read."""
    ids: list[bytes] = field(default_factory=list)
    """Of all entries, by sequence number."""
    size: int = 0
    """Bytes that they count for the author's quota; known where they were read."""
    entries: list[Entry] = field(default_factory=list)
    """Those that matter, in order; the first and, without a fork, the newest are among them."""
    remnants: dict[int, bytes] = field(default_factory=dict)
    """Of the others, by sequence number; see :mod:`lattica.crdt.entries.remnant`."""
    fork: ForkProof | None = None

    def chain(self, doc_id: bytes, since: int = 0) -> Iterator[Entry]:
        """All entries from a sequence number on; of those of which remnants are here what these
        say.
        """
        here = {each.header.seq: each for each in self.entries}
        for place in range(since, len(self.ids)):
            prev_id = self.ids[place - 1] if place else doc_id
            entry = here.get(place)
            yield entry or entry_of(self.remnants[place], doc_id, self.author, place, prev_id)

    def side_at(self, doc_id: bytes, seq: int) -> Side:
        """An entry, and what follows on it, up to one that is signed by itself, if that is here."""
        path: list[Entry] = []
        for entry in islice(self.chain(doc_id, seq), MAX_PATH + 1):
            path.append(entry)
            if entry.is_signed():
                break
        if self.fork is not None:
            path += self.fork.behind(path[-1].header)
        return Side(path[0], tuple(path[1:]))

    def put_into(self, feed: Feed) -> None:
        """Have a feed go as far as this, which has the same entries as far as both go, and no fork
        that cuts off what is there.
        """
        feed.identity = self.identity or feed.identity
        feed.fork = self.fork or feed.fork
        if len(self.ids) > len(feed.ids):
            feed.ids, feed.size = [*self.ids], self.size
        if self.entries:  # before a fork they may be later than the last that is kept there
            feed.hlc = max(feed.hlc, self.entries[-1].header.hlc)

    def cuts(self, feed: Feed) -> bool:
        """Whether what a feed has is partly behind the fork that is known here."""
        return self.fork is not None and len(feed.ids) > self.fork.seq

    def up_to(self, length: int) -> FeedPrefix:
        """The first so many entries."""
        return replace(
            self,
            ids=self.ids[:length],
            entries=[each for each in self.entries if each.header.seq < length],
            remnants={seq: each for seq, each in self.remnants.items() if seq < length},
        )

    def end_vouched(self) -> None:
        """Leave out at the end what the author need not have written: entries that he has not
        signed by themselves, and remnants behind the newest entry, if the proof of a fork does not
        name the last.

        With made-up IDs a replica would take nothing more of that author from those who have his.
        """
        if self.fork is not None and self.fork.vouches_for(self.ids):
            return
        while self.entries and not self.entries[-1].is_signed():
            self.size -= self.entries.pop().size
        self._end_at(self.entries[-1].header.seq + 1 if self.entries else 0)

    def end_before(self, seq: int) -> None:
        """Leave out an entry and what follows on it."""
        while self.entries and self.entries[-1].header.seq >= seq:
            self.size -= self.entries.pop().size
        self._end_at(seq)
        self.end_vouched()

    def _end_at(self, length: int) -> None:
        for seq in [seq for seq in self.remnants if seq >= length]:
            self.size -= size_of(self.remnants.pop(seq), seq)
        del self.ids[length:]


def whole_chains(
    prefixes: Collection[FeedPrefix], doc_id: bytes
) -> Turns[tuple[list[list[Entry]], list[ForkProof]]]:
    """The chains, and the proofs of forks."""
    chains: list[list[Entry]] = []
    for each in prefixes:
        if not each.remnants:
            chains += [each.entries] if each.ids else ()
            continue
        entries: list[Entry] = []
        for entry in each.chain(doc_id):
            entries.append(entry)
            if len(entries) % _TURN == 0:
                yield
        chains.append(entries)
    return chains, [each.fork for each in prefixes if each.fork is not None]


def pruned_ids(prefixes: Iterable[FeedPrefix]) -> frozenset[bytes]:
    """The IDs of those entries of which only remnants are here."""
    return frozenset(each.ids[seq] for each in prefixes for seq in each.remnants)


def name_authors(prefixes: Mapping[bytes, FeedPrefix], withdrawn: Iterable[Entry]) -> None:
    """Say whose those sessions are that contradict themselves from their first entry on, by what is
    withdrawn of them.
    """
    for entry in withdrawn:
        prefix = prefixes.get(entry.header.author)
        if prefix is not None and not prefix.identity:
            prefix.identity = identity_in(entry)
