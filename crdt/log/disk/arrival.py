"""What a snapshot brings to a document's file: much, so it is written in turns, and counts in one.

Until then its authors stand in the file under a stand-in, which is no key, and what is theirs is
not seen by anybody. What is left over goes, at the latest when the file is opened again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from lattica.crdt.base.turns import Turns
from lattica.crdt.entries.erasure import Shown, erasure_of
from lattica.crdt.entries.header import Entry
from lattica.crdt.entries.remnant import has_signature
from lattica.crdt.log.errors import StoreError
from lattica.crdt.log.prefix import FeedPrefix

if TYPE_CHECKING:
    from lattica.crdt.log.disk.database import DocumentDatabase

logger = logging.getLogger(__name__)

STAND_IN_BYTES: Final = 16
"""Fewer than a key has."""
ARRIVED: Final = f"author NOT IN (SELECT number FROM author WHERE length(key) = {STAND_IN_BYTES})"
"""A condition of SQL: of authors who count."""
_BATCH: Final = 512
"""Entries of a turn."""


class Arrival:
    """What one snapshot brings, of authors who are not here yet. Made by
    :meth:`DocumentDatabase.arrival`; leaving its context undoes what was not taken.
    """

    def __init__(self, database: DocumentDatabase, db: sqlite3.Connection) -> None:
        self._database = database
        self._db = db
        self._numbers: dict[bytes, int] = {}
        """By author, the number under which what he wrote is."""

    def __enter__(self) -> Arrival:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            if self._numbers:
                with self._database.transaction("NORMAL"):
                    drop(self._db, self._numbers.values())
        except StoreError as error:
            logger.warning("what is left of a snapshot stays until the next opening: %s", error)
        self._numbers.clear()

    def bringing(self, prefixes: Iterable[FeedPrefix]) -> Turns[None]:
        """Write what they have, in turns. Nothing of it counts.

        Raises:
            StoreFullError, StoreError: it cannot be written.
        """
        for batch in _batches(prefixes):
            with self._database.transaction("NORMAL"):
                for prefix, entries, remnants in batch:
                    number = self._number(prefix.author)
                    self._database.insert(entries, number, is_admitted=True)
                    self._keep(number, prefix, remnants)
            yield

    def take(
        self,
        prefixes: Sequence[FeedPrefix],
        withdrawn: Iterable[Entry],
        shown: Iterable[Shown] = (),
    ) -> None:
        """Have what a snapshot has count, beside all that is here; what of it was not brought is
        written now. On disk when it returns. `shown` are erasures beside those in the chains.

        Raises:
            StoreFullError, StoreError: it cannot be written; all is as it was.
        """
        taken: list[bytes] = []
        with self._database.transaction("FULL"):
            for prefix in prefixes:
                brought = self._numbers.get(prefix.author)
                if brought is not None and not self._database.has_author(prefix.author):
                    row = (prefix.author, prefix.identity, brought)
                    self._db.execute(
                        "UPDATE author SET key = ?, identity = ? WHERE number = ?", row
                    )
                    number = self._database.number(prefix.author)
                    taken.append(prefix.author)
                else:
                    number = self.merge(prefix)
                if prefix.fork is not None:
                    self._database.keep_fork(number, prefix.fork)
            for entry in withdrawn:
                number = self._database.number(entry.header.author)
                self._database.insert([entry], number, is_admitted=False)
            self._database.keep_erasures(
                each for each in (*shown, *_erasures_of(prefixes)) if each is not None
            )
        for author in taken:
            del self._numbers[author]

    def merge(self, prefix: FeedPrefix) -> int:
        """Add what it has to what is here of its author, whose number is returned; in a
        transaction.
        """
        number = self._database.number(prefix.author, prefix.identity)
        rows = self._db.execute("SELECT seq FROM entry WHERE author = ? AND is_admitted", (number,))
        here = {row[0] for row in rows}
        new = [entry for entry in prefix.entries if entry.header.seq not in here]
        self._database.insert(new, number, is_admitted=True)
        here.update(entry.header.seq for entry in new)
        gone = self._database.gone(prefix.author)
        for seq, rest in prefix.remnants.items():
            # What earlier versions have left lacks a signature.
            if seq not in gone or has_signature(rest):
                gone[seq] = (prefix.ids[seq], rest)
        if gone:
            gone = {seq: rest for seq, rest in gone.items() if seq not in here}
            self._db.execute("DELETE FROM pruned WHERE author = ?", (number,))
            for start, end in runs(sorted(gone)):
                self._database.keep_remnants(
                    number, start, [gone[seq] for seq in range(start, end)]
                )
        return number

    def _keep(self, number: int, prefix: FeedPrefix, remnants: range) -> None:
        if remnants:
            pairs = [(prefix.ids[seq], prefix.remnants[seq]) for seq in remnants]
            self._database.keep_remnants(number, remnants.start, pairs)

    def _number(self, author: bytes) -> int:
        number = self._numbers.get(author)
        if number is None:
            stand_in = os.urandom(STAND_IN_BYTES)
            row = self._db.execute(
                "INSERT INTO author (key, identity) VALUES (?, x'') RETURNING number", (stand_in,)
            )
            number = self._numbers[author] = int(row.fetchone()[0])
        return number


def _erasures_of(prefixes: Iterable[FeedPrefix]) -> Iterator[Shown | None]:
    for prefix in prefixes:
        for entry in prefix.entries:
            yield erasure_of(entry, prefix.identity)


def drop(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Delete what stands under these numbers, in a transaction."""
    rows = [(number,) for number in numbers]
    for statement in (
        "DELETE FROM entry WHERE author = ?",
        "DELETE FROM pruned WHERE author = ?",
        "DELETE FROM author WHERE number = ?",
    ):
        db.executemany(statement, rows)


def left_over(db: sqlite3.Connection) -> list[int]:
    """Under which numbers something stands that does not count."""
    rows = db.execute(f"SELECT number FROM author WHERE length(key) = {STAND_IN_BYTES}")
    return [row[0] for row in rows]


_Piece = tuple[FeedPrefix, Sequence[Entry], range]
"""Some entries of a prefix, or of which numbers remnants."""


def _batches(prefixes: Iterable[FeedPrefix]) -> Iterator[list[_Piece]]:
    """All that they have, about so much at a time."""
    batch: list[_Piece] = []
    count = 0
    for prefix in prefixes:
        for piece in _pieces(prefix):
            batch.append(piece)
            count += len(piece[1]) + len(piece[2])
            if count >= _BATCH:
                yield batch
                batch, count = [], 0
    if batch:
        yield batch


def _pieces(prefix: FeedPrefix) -> Iterator[_Piece]:
    for start in range(0, len(prefix.entries), _BATCH):
        yield prefix, prefix.entries[start : start + _BATCH], range(0)
    for start, end in runs(sorted(prefix.remnants)):
        for begin in range(start, end, _BATCH):
            yield prefix, (), range(begin, min(begin + _BATCH, end))


def runs(seqs: Collection[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges, from and up to."""
    start = end = -1
    for seq in seqs:
        if seq != end:
            if end > start:
                yield start, end
            start = seq
        end = seq + 1
    if end > start:
        yield start, end
