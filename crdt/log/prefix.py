"""The beginning of an author's chain, without the entries that do not matter any more."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import Final

from lattica.crdt.entries.fork import MAX_PATH, ForkProof, Side
from lattica.crdt.entries.header import Entry
from lattica.crdt.entries.remnant import entry_of, hlc_of, size_of
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

    @property
    def hlc(self) -> int:
        """The hybrid time of the last entry; 0 if there is none."""
        last = self.remnants.get(len(self.ids) - 1)
        if last is not None:  # before a fork
            return hlc_of(last)
        return self.entries[-1].header.hlc if self.entries else 0

    def _place(self, seq: int) -> int:
        """Where among the entries those from a sequence number on begin."""
        return bisect_left(self.entries, seq, key=lambda each: each.header.seq)

    def entry_at(self, seq: int) -> Entry | None:
        """The entry of a sequence number, if it matters."""
        for entry in self.entries[(place := self._place(seq)) : place + 1]:
            return entry if entry.header.seq == seq else None
        return None

    def remnants_at(self, seq: int, most: int) -> list[bytes]:
        """Of as many entries as said, at most, of which remnants are here and that follow on each
        other from a sequence number on, these remnants.
        """
        here = takewhile(self.remnants.__contains__, range(seq, seq + most))
        return [self.remnants[each] for each in here]

    def chain(self, doc_id: bytes, since: int = 0) -> Iterator[Entry]:
        """All entries from a sequence number on; of those of which remnants are here what these
        say.
        """
        here = islice(self.entries, self._place(since), None)
        following = next(here, None)
        for seq in range(since, len(self.ids)):
            if following is not None and following.header.seq == seq:
                yield following
                following = next(here, None)
            else:
                prev_id = self.ids[seq - 1] if seq else doc_id
                yield entry_of(self.remnants[seq], doc_id, self.author, seq, prev_id)

    def pieces(self, doc_id: bytes, since: int = 0) -> Iterator[list[Entry]]:
        """The same in pieces, each of which can be admitted by itself: it ends with an entry that
        is signed, or is the last.
        """
        piece: list[Entry] = []
        for entry in self.chain(doc_id, since):
            piece.append(entry)
            if len(piece) >= _TURN and entry.is_signed():
                yield piece
                piece = []
        if piece:
            yield piece

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
            feed.hlc = self.hlc

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


def name_authors(prefixes: Mapping[bytes, FeedPrefix], withdrawn: Iterable[Entry]) -> None:
    """Say whose those sessions are that contradict themselves from their first entry on, by what is
    withdrawn of them.
    """
    for entry in withdrawn:
        prefix = prefixes.get(entry.header.author)
        if prefix is not None and not prefix.identity:
            prefix.identity = identity_in(entry)
