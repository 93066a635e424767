"""A document on disk: entries, proofs of forks and the session, in one SQLite file.

Two rules of durability. What others wrote can be had again from them: it is committed in batches
without waiting for the disk (WAL, `synchronous=NORMAL`). One's own entries are on disk before
anybody sees them (`FULL`): after a crash, the next entry must not take the number of one that is
out. A file that comes back from a backup is another file; it is known by its inode, and begins a
session of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heapify, heappop, heapreplace
from itertools import groupby, islice
from pathlib import Path
from typing import Final

from lattica.crdt.entries.erasure import Shown
from lattica.crdt.entries.fork import ForkProof, decode_fork
from lattica.crdt.entries.genesis import Genesis, decode_genesis
from lattica.crdt.entries.header import (
    ID_BYTES,
    ID_CONTEXT,
    MAX_HLC,
    Entry,
    Kind,
    decode_header,
)
from lattica.crdt.entries.remnant import hlc_of, remnant_of, size_of, split_remnants
from lattica.crdt.keys.session import SessionKey
from lattica.crdt.log.clock import hlc_at, wall_clock_ms
from lattica.crdt.log.disk.arrival import ARRIVED, STAND_IN_BYTES, Arrival, drop, left_over, runs
from lattica.crdt.log.disk.schema import (
    ARRIVAL,
    ERASURES,
    FORMER,
    INSERT,
    JOINED,
    OF_KEYS,
    OF_RIGHTS,
    SCHEMA,
    VERSION,
    WITHDRAWN,
    corrupt,
    named,
)
from lattica.crdt.log.errors import StoreCorruptError, StoreError
from lattica.crdt.log.feed import Feed
from lattica.crdt.log.prefix import FeedPrefix
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError

logger = logging.getLogger(__name__)

_BATCH: Final = 128
"""Entries that are read in a turn."""
_BIN32: Final = b"\xc4\x20"
"""What canonical data have in front of 32 bytes."""


class DocumentDatabase:
    """The file of one document, for one program at a time. Its calls block.

    Args:
        path: the file; it is made, readable by its owner alone, if it is not there.
        genesis: the document.

    Raises:
        StoreInUseError: another node or program has it open.
        StoreCorruptError: it is damaged.
        StoreError: it cannot be opened, or is of another document or of a later version.
    """

    def __init__(
        self, path: Path, genesis: Genesis, wall: Callable[[], int] = wall_clock_ms
    ) -> None:
        self.path = path
        self._genesis = genesis
        self._wall = wall
        self._numbers: dict[bytes, int] = {}
        self._has_to_wipe = False
        """Whether the journal still has what was erased."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}") from None
        # A large file is opened in a thread that does not use it any further.
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            with self._errors():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        # What is erased, or was written over, is not left where nothing is any more.
        db.execute("PRAGMA secure_delete=ON")
        db.execute("BEGIN EXCLUSIVE")
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                row = (self._genesis.doc_id, self._genesis.encode())
                db.execute("INSERT INTO document VALUES (?, ?)", row)
                db.execute(f"PRAGMA user_version={VERSION}")
            elif version in FORMER:
                if version == 2:
                    db.execute(ERASURES)
                if version < 6:
                    db.execute(ARRIVAL)
                db.execute(JOINED)
                db.execute(WITHDRAWN)
                db.execute(f"PRAGMA user_version={VERSION}")
            elif version != VERSION:
                raise StoreError(f"{self.path} is of version {version}, which is not known here")
            drop(db, left_over(db))
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise StoreCorruptError(self._corrupt("its pages contradict each other"))
        doc_id, encoded = db.execute("SELECT doc_id, genesis FROM document").fetchone()
        try:
            decode_genesis(encoded, doc_id)
        except RemoteProtocolError as error:
            raise StoreCorruptError(self._corrupt(f"{error}")) from None
        if doc_id != self._genesis.doc_id:
            raise StoreError(f"{self.path} is that of another document")

    def close(self) -> None:
        """Close the file. Using it afterwards raises StoreError."""
        self._db.close()

    # Reading.

    def session(self) -> SessionKey | None:
        """The session key of this file; None if it has none, or if the file is a copy."""
        with self._errors():
            row = self._db.execute("SELECT seed, inode FROM session").fetchone()
        if row is None or row[1] != self._inode():
            return None
        return SessionKey(row[0])

    def given_by(self) -> bytes:
        """Whose snapshot nobody has confirmed yet; empty: nobody's."""
        with self._errors():
            row = self._db.execute("SELECT given_by FROM joined").fetchone()
        return row[0] if row else b""

    def load(self) -> tuple[list[Feed], list[bytes]]:
        """What is admitted, by author, and the IDs of tombstones and of what was withdrawn.

        Raises:
            StoreCorruptError: an entry is not what its ID says, or one is missing.
        """
        feeds: dict[int, Feed] = {}
        others: list[bytes] = []
        with self._errors():
            for number, key, identity, fork in self._db.execute(
                f"SELECT * FROM author WHERE length(key) != {STAND_IN_BYTES}"
            ):
                self._numbers[key] = number
                feeds[number] = Feed(key, identity)
                if fork is not None:
                    feeds[number].fork = self._fork(fork)
            gone: dict[int, dict[int, tuple[bytes, int]]] = {}
            for number, seq, ids, size in self._db.execute(
                f"SELECT author, seq, ids, size FROM pruned WHERE {ARRIVED}"
            ):
                gone.setdefault(number, {})[seq] = (ids, size)
            rows = self._db.execute(
                "SELECT author, seq, id, header, payload, hlc, size, is_admitted FROM entry "
                f"WHERE {ARRIVED} ORDER BY author, seq"
            )
            for number, seq, entry_id, header, payload, hlc, size, is_admitted in rows:
                if hashlib.sha256(ID_CONTEXT + header).digest() != entry_id or not (
                    # Which is in it as 32 bytes, with their length in front.
                    payload is None or _BIN32 + hashlib.sha256(payload).digest() in header
                ):
                    raise StoreCorruptError(self._corrupt("an entry is not what its ID says"))
                feed = feeds.get(number)
                if feed is None:
                    raise StoreCorruptError(self._corrupt("an entry is nobody's"))
                if not is_admitted:
                    others.append(entry_id)
                    feed.note_withdrawn(seq)
                    continue
                _add_pruned(feed, gone.get(number, {}))
                if seq != len(feed.ids):
                    raise StoreCorruptError(self._corrupt("an entry is missing"))
                feed.ids.append(entry_id)
                feed.hlc = int.from_bytes(hlc, "big")
                feed.size += size
            for number, feed in feeds.items():
                _add_pruned(feed, gone.get(number, {}))
                if feed.fork is not None or feed.is_cut:  # so that its last may be a remnant
                    for remnant in self.remnants_at(feed.author, len(feed.ids) - 1, 1):
                        feed.hlc = hlc_of(remnant)
            if any(gone.values()):
                raise StoreCorruptError(self._corrupt("an entry is missing"))
            others += (row[0] for row in self._db.execute("SELECT id FROM withdrawn"))
        return list(feeds.values()), others

    def entry(self, author: bytes, seq: int) -> Entry:
        """An admitted entry.

        Raises:
            LocalProtocolError: there is none.
            StoreCorruptError: it cannot be read.
        """
        for entry in self.entries(author, seq, seq + 1):
            return entry
        raise LocalProtocolError(f"no entry {seq} of that author is admitted")

    def entries(self, author: bytes, since: int, until: int) -> Iterator[Entry]:
        """Admitted entries of an author, in order."""
        number = self._numbers.get(author, -1)
        yield from self._select(
            "WHERE author = ? AND seq >= ? AND seq < ? AND is_admitted ORDER BY seq",
            (number, since, until),
        )

    def entries_before(self, author: bytes, ms: int) -> Iterator[Entry]:
        """Admitted entries of an author of before a time, in milliseconds since 1970, which had
        come here before that time, too; the last first. They are read as they are asked for.
        """
        number = self._numbers.get(author, -1)
        yield from self._select(
            "WHERE author = ? AND hlc < ? AND came < ? AND is_admitted ORDER BY seq DESC",
            (number, min(hlc_at(ms), MAX_HLC).to_bytes(8, "big"), ms),
        )

    def all_entries(self) -> Iterator[Entry]:
        """All admitted entries, by their times. They are read as they are asked for."""
        yield from self._select(f"WHERE is_admitted AND {ARRIVED} ORDER BY hlc, author", ())

    def batches_by_time(self, lengths: Mapping[bytes, int]) -> Iterator[list[Entry]]:
        """Admitted entries of some authors up to a sequence number each, by their times, in
        batches, some of which are empty. Others may write between any two of them.
        """
        heads: list[tuple[int, bytes, Entry, Iterator[Entry]]] = []
        for number, (author, length) in enumerate(lengths.items()):
            entries = self._paged(author, length)
            for entry in entries:
                heads.append((entry.header.hlc, author, entry, entries))
                break
            if number % _BATCH == 0:
                yield []
        heapify(heads)
        batch: list[Entry] = []
        while heads:
            _, author, entry, entries = heads[0]
            batch.append(entry)
            following = next(entries, None)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (following.header.hlc, author, following, entries))
            if len(batch) == _BATCH:
                yield batch
                batch = []
        yield batch

    def _paged(self, author: bytes, until: int) -> Iterator[Entry]:
        """Admitted entries of an author, with no statement of SQL that stays open."""
        number, since = self._numbers.get(author, -1), 0
        where = "WHERE author = ? AND seq >= ? AND seq < ? AND is_admitted ORDER BY seq LIMIT ?"
        while page := list(self._select(where, (number, since, until, _BATCH))):
            yield from page
            since = page[-1].header.seq + 1

    def withdrawn_at(self, author: bytes, seq: int) -> Iterator[Entry]:
        """What was withdrawn of an author at a sequence number."""
        number = self._numbers.get(author, -1)
        yield from self._select("WHERE author = ? AND seq = ? AND NOT is_admitted", (number, seq))

    def withdrawn_entries(self) -> Iterator[Entry]:
        """What is kept without effect. They are read as they are asked for."""
        yield from self._select("WHERE NOT is_admitted", ())

    def withdrawn_ids(self) -> list[bytes]:
        """The IDs of these."""
        with self._errors():
            return [
                row[0] for row in self._db.execute("SELECT id FROM entry WHERE NOT is_admitted")
            ]

    def _select(self, where: str, values: tuple[int | bytes, ...]) -> Iterator[Entry]:
        with self._errors():
            rows = self._db.execute(f"SELECT header, signature, payload FROM entry {where}", values)
            for header, signature, payload in rows:
                try:
                    yield Entry(decode_header(header), signature, payload)
                except RemoteProtocolError as error:
                    raise StoreCorruptError(self._corrupt(f"{error}")) from None

    def remnants(self, author: bytes) -> dict[int, bytes]:
        """What is left of an author's entries that were pruned, by sequence number."""
        return {seq: remnant for seq, (_, remnant) in self.gone(author).items()}

    def remnants_at(self, author: bytes, seq: int, most: int) -> list[bytes]:
        """What is left of entries that were pruned and follow on each other, from a sequence number
        on; nothing if that one was not.
        """
        with self._errors():
            row = self._db.execute(
                "SELECT seq, remnants FROM pruned WHERE author = ? AND seq <= ? "
                "ORDER BY seq DESC LIMIT 1",
                (self._numbers.get(author, -1), seq),
            ).fetchone()
        if row is None:
            return []
        try:
            return list(islice(split_remnants(row[1]), seq - row[0], seq - row[0] + most))
        except RemoteProtocolError as error:
            raise StoreCorruptError(self._corrupt(f"{error}")) from None

    def withdrawn_remnants_at(self, author: bytes, seq: int) -> list[tuple[bytes, bytes]]:
        """IDs and remnants of what was pruned, and then withdrawn, of an author at a sequence
        number; be it admitted again.
        """
        row = (self._numbers.get(author, -1), seq)
        with self._errors():
            return self._db.execute(
                "SELECT id, remnant FROM withdrawn WHERE author = ? AND seq = ?", row
            ).fetchall()

    def pruned_end(self, author: bytes) -> int:
        """The sequence number after the last entry of an author that was pruned; 0 if none was."""
        with self._errors():
            row = self._db.execute(
                "SELECT seq, length(ids) FROM pruned WHERE author = ? ORDER BY seq DESC LIMIT 1",
                (self._numbers.get(author, -1),),
            ).fetchone()
        return row[0] + row[1] // ID_BYTES if row else 0

    def is_pruned(self) -> bool:
        """Whether anything was."""
        with self._errors():
            query = "SELECT 1 FROM pruned UNION ALL SELECT 1 FROM withdrawn LIMIT 1"
            return self._db.execute(query).fetchone() is not None

    def gone(self, author: bytes) -> dict[int, tuple[bytes, bytes]]:
        """IDs and remnants of an author's entries that were pruned, by sequence number."""
        found: dict[int, tuple[bytes, bytes]] = {}
        with self._errors():
            for start, ids, packed in self._db.execute(
                "SELECT seq, ids, remnants FROM pruned WHERE author = ?",
                (self._numbers.get(author, -1),),
            ):
                try:
                    split = list(split_remnants(packed))
                    pairs = zip(_split_ids(ids), split, strict=True)
                    found |= {start + place: pair for place, pair in enumerate(pairs)}
                except (RemoteProtocolError, ValueError) as error:
                    raise StoreCorruptError(self._corrupt(f"{error}")) from None
        return found

    def entries_about_rights(self) -> Iterator[Entry]:
        """Admitted entries that give rights or take them back, and the certificates."""
        for entry in self._select(
            f"WHERE is_admitted AND {ARRIVED} AND (seq = 0 OR {OF_RIGHTS})", ()
        ):
            if entry.header.kind in (Kind.SESSION, Kind.GRANT, Kind.REVOKE, Kind.FINAL):
                yield entry

    def entries_about_keys(self) -> Iterator[tuple[Entry, bool]]:
        """Entries about read keys, and whether they are admitted; others may be withdrawn."""
        for where, is_admitted in (("is_admitted", True), ("NOT is_admitted", False)):
            for entry in self._select(f"WHERE {where} AND {ARRIVED} AND {OF_KEYS}", ()):
                if entry.header.kind == Kind.KEY:
                    yield entry, is_admitted

    def found(self, is_wanted: Callable[[bytes], bool]) -> Iterator[Entry]:
        """Entries with IDs that are wanted, be they withdrawn."""
        return self._picked("id", ARRIVED, (), is_wanted)

    def saying(self, author: bytes, is_wanted: Callable[[bytes], bool]) -> Iterator[Entry]:
        """Admitted entries of an author with payloads that are wanted, in order."""
        where = "author = ? AND is_admitted AND payload IS NOT NULL ORDER BY seq"
        return self._picked("payload", where, (self._numbers.get(author, -1),), is_wanted)

    def _picked(
        self, column: str, where: str, values: tuple[int, ...], is_wanted: Callable[[bytes], bool]
    ) -> Iterator[Entry]:
        """Entries of which a column is wanted: few, so the others are not made."""
        with self._errors():
            rows = self._db.execute(
                f"SELECT author, seq, id, {column} FROM entry WHERE {where}", values
            )
            wanted = [row[:3] for row in rows if is_wanted(row[3])]
        for row in wanted:
            yield from self._select("WHERE author = ? AND seq = ? AND id = ?", row)

    def certificate(self, author: bytes) -> bytes:
        """That of a session whose first entry is here, be it withdrawn."""
        number = self._numbers.get(author, -1)
        for entry in self._select("WHERE author = ? AND seq = 0 LIMIT 1", (number,)):
            return entry.payload or b""
        return b""

    def erasures(self) -> Iterator[tuple[Entry, bytes]]:
        """All that are known, with the certificates of those whose sessions are not here."""
        with self._errors():
            rows = self._db.execute(
                "SELECT header, signature, payload, certificate FROM erasure"
            ).fetchall()
        for header, signature, payload, certificate in rows:
            try:
                yield Entry(decode_header(header), signature, payload), certificate
            except RemoteProtocolError as error:
                raise StoreCorruptError(self._corrupt(f"{error}")) from None

    # Writing.

    def begin_session(self, session: SessionKey) -> None:
        """Have this file write with another key from now on; on disk when it returns."""
        with self.transaction("FULL"):
            self._db.execute("DELETE FROM session")
            self._db.execute("INSERT INTO session VALUES (?, ?)", (session.seed, self._inode()))

    def note_given_by(self, peer: bytes) -> None:
        """Keep whose snapshot nobody has confirmed yet; empty: nobody's. Raises StoreError."""
        if peer == self.given_by():
            return
        with self.transaction("NORMAL"):
            self._db.execute("DELETE FROM joined")
            if peer:
                self._db.execute("INSERT INTO joined VALUES (?)", (peer,))

    def keep_own(
        self,
        entries: Sequence[Entry],
        identity: bytes,
        erasures: Sequence[Shown] = (),
        erased: Sequence[Entry] = (),
    ) -> None:
        """Keep entries of one's own: on disk when it returns, so that they may be sent. `erasures`
        are among them, and the payloads of `erased` go.

        Raises:
            StoreFullError: there is no space; none of them is kept.
            StoreError: it cannot be written; none of them is kept.
        """
        with self.transaction("FULL"):
            number = self.number(entries[0].header.author, identity)
            self.insert(entries, number, is_admitted=True)
            self.keep_erasures(erasures)
            self._erase(erased)

    def keep(
        self,
        admitted: Sequence[Entry],
        identities: dict[bytes, bytes],
        forks: Sequence[ForkProof] = (),
        tombstones: Sequence[Entry] = (),
        resigned: Sequence[Entry] = (),
        withdrawn: Sequence[tuple[bytes, int]] = (),
        erasures: Sequence[Shown] = (),
        erased: Sequence[Entry] = (),
        restored: Sequence[Entry] = (),
        prefixes: Iterable[FeedPrefix] = (),
    ) -> None:
        """Keep what came from others, all or nothing; the newest may be lost if power fails.

        `identities` are those of the authors in `admitted` and `tombstones`; the payloads of
        `erased` go. `prefixes` are all that is admitted of authors of whom there are only remnants
        in part, here or in a snapshot.

        Raises:
            StoreFullError: there is no space.
            StoreError: it cannot be written.
        """
        with self.transaction("NORMAL"):
            for author, seq in withdrawn:
                number = self.number(author)
                self._db.executemany(
                    "INSERT INTO withdrawn VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    [(number, *each) for each in self._withdraw(number, seq)],
                )
            self._insert_of(admitted, identities, is_admitted=True)
            for proof in forks:
                self.keep_fork(self.number(proof.author), proof)
            self._insert_of(tombstones, identities, is_admitted=False)
            self._db.executemany(
                "UPDATE entry SET signature = ? WHERE author = ? AND seq = ? AND id = ?",
                [
                    (
                        each.signature,
                        self.number(each.header.author),
                        each.header.seq,
                        each.id,
                    )
                    for each in resigned
                ],
            )
            self.keep_erasures(erasures)
            self._erase(erased)
            self._db.executemany(
                "UPDATE entry SET payload = ? WHERE author = ? AND seq = ? AND id = ?",
                [
                    (each.payload, self.number(each.header.author), each.header.seq, each.id)
                    for each in restored
                ],
            )
            for prefix in prefixes:
                if prefix.ids:
                    self.arrival().merge(prefix)

    def erase(self, erased: Sequence[Entry]) -> None:
        """Have the payloads of entries go. Raises StoreError."""
        with self.transaction("NORMAL"):
            self._erase(erased)

    def keep_erasures(self, erasures: Iterable[Shown]) -> None:
        """Note erasures that have become known; in a transaction."""
        self._db.executemany(
            "INSERT INTO erasure VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (
                    each.entry.id,
                    each.entry.header.encoded,
                    each.entry.signature,
                    each.entry.payload,
                    each.certificate,
                )
                for each in erasures
            ],
        )

    def _erase(self, erased: Sequence[Entry]) -> None:
        self._has_to_wipe |= bool(erased)
        self._db.executemany(
            "UPDATE entry SET payload = NULL WHERE author = ? AND seq = ? AND id = ?",
            [(self.number(each.header.author), each.header.seq, each.id) for each in erased],
        )

    def wipe(self) -> None:
        """Have the journal begin anew, if what was erased is still in it. That cannot be while
        somebody goes through entries, or the disk is full; then it is asked for again. What was
        written is safe, whatever comes of this.
        """
        if not self._has_to_wipe:
            return
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._has_to_wipe = False
        except sqlite3.Error as error:
            logger.debug("what was erased is still in the journal file=%s: %s", self.path, error)

    def prune(self, dead: Mapping[bytes, Sequence[int]]) -> None:
        """Keep only IDs and remnants of these entries, ascending by author; on disk when it
        returns.

        Raises:
            StoreFullError, StoreError: it cannot be written; all of them are kept.
        """
        with self.transaction("FULL"):
            for author, seqs in dead.items():
                number = self._numbers[author]
                for start, end in runs(seqs):
                    where = "WHERE author = ? AND seq >= ? AND seq < ? AND is_admitted"
                    rows = self._db.execute(
                        f"SELECT id, header, signature FROM entry {where} ORDER BY seq",
                        (number, start, end),
                    ).fetchall()
                    if len(rows) != end - start:
                        raise LocalProtocolError("an entry is to be pruned that is not there")
                    self._db.execute(f"DELETE FROM entry {where}", (number, start, end))
                    left = [
                        (entry_id, remnant_of(Entry(decode_header(header), signature, None)))
                        for entry_id, header, signature in rows
                    ]
                    self.keep_remnants(number, start, left)

    def keep_fork(self, number: int, proof: ForkProof) -> None:
        """Have what an author wrote from a fork on not count; in a transaction."""
        self._db.execute("UPDATE author SET fork = ? WHERE number = ?", (proof.encode(), number))
        self._withdraw(number, proof.seq)

    def _withdraw(self, number: int, seq: int) -> list[tuple[int, bytes, bytes]]:
        """Have what an author wrote from a sequence number on not count; in a transaction. Returns
        numbers, IDs and remnants of what was pruned of it.
        """
        self._db.execute(
            "UPDATE entry SET is_admitted = 0 WHERE author = ? AND seq >= ?", (number, seq)
        )
        return self._cut_pruned(number, seq)

    def keep_remnants(self, number: int, seq: int, gone: Sequence[tuple[bytes, bytes]]) -> None:
        """Note IDs and remnants of contiguous entries from a sequence number on; in a
        transaction.
        """
        size = sum(size_of(remnant, seq + place) for place, (_, remnant) in enumerate(gone))
        ids, remnants = b"".join(pair[0] for pair in gone), b"".join(pair[1] for pair in gone)
        self._db.execute(
            "INSERT INTO pruned VALUES (?, ?, ?, ?, ?)", (number, seq, ids, remnants, size)
        )

    def _cut_pruned(self, number: int, seq: int) -> list[tuple[int, bytes, bytes]]:
        """Forget the IDs from a sequence number on; what that was."""
        cut: list[tuple[int, bytes, bytes]] = []
        for start, ids, packed in self._db.execute(
            "SELECT seq, ids, remnants FROM pruned WHERE author = ?", (number,)
        ).fetchall():
            if start + len(ids) // ID_BYTES > seq:
                pairs = list(zip(_split_ids(ids), split_remnants(packed), strict=True))
                self._db.execute("DELETE FROM pruned WHERE author = ? AND seq = ?", (number, start))
                kept = max(0, seq - start)
                if kept:
                    self.keep_remnants(number, start, pairs[:kept])
                cut += ((start + kept + n, *pair) for n, pair in enumerate(pairs[kept:]))
        return cut

    def insert(self, entries: Iterable[Entry], number: int, *, is_admitted: bool) -> None:
        """Keep entries of the author with this number; in a transaction."""
        now = self._wall()
        self._db.executemany(
            INSERT,
            [
                (
                    number,
                    each.header.seq,
                    each.header.id,
                    each.header.encoded,
                    each.signature,
                    each.payload,
                    # SQLite's integers have a sign.
                    each.header.hlc.to_bytes(8, "big"),
                    each.header.size,
                    is_admitted,
                    now,
                )
                for each in entries
            ],
        )

    def _insert_of(
        self, entries: Iterable[Entry], identities: Mapping[bytes, bytes], *, is_admitted: bool
    ) -> None:
        """Keep entries, each author's together."""
        for author, own in groupby(entries, lambda each: each.header.author):
            number = self.number(author, identities.get(author, b""))
            self.insert(own, number, is_admitted=is_admitted)

    def has_author(self, author: bytes) -> bool:
        """Whether something of an author is here."""
        return author in self._numbers

    def number(self, author: bytes, identity: bytes = b"") -> int:
        """The number of an author in this file, who is added if need be; in a transaction."""
        number = self._numbers.get(author)
        if number is None:
            self._db.execute(
                "INSERT INTO author (key, identity) VALUES (?, ?) ON CONFLICT (key) DO NOTHING",
                (author, identity),
            )
            row = self._db.execute("SELECT number FROM author WHERE key = ?", (author,))
            number = int(row.fetchone()[0])
            self._numbers[author] = number
        if identity:
            self._db.execute(
                "UPDATE author SET identity = ? WHERE number = ? AND identity != ?",
                (identity, number, identity),
            )
        return number

    def arrival(self) -> Arrival:
        """What is to be written of a snapshot."""
        return Arrival(self, self._db)

    @contextmanager
    def transaction(self, synchronous: str) -> Iterator[None]:
        """All or nothing of what is written in it: on the disk (`FULL`), or soon (`NORMAL`).

        Raises StoreFullError and StoreError.
        """
        with self._errors():
            self._db.execute(f"PRAGMA synchronous={synchronous}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
                self.wipe()
            except BaseException:
                # Numbers that were given out in it are not taken.
                self._numbers.clear()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._reload_numbers()
                raise

    def _reload_numbers(self) -> None:
        for number, key in self._db.execute("SELECT number, key FROM author"):
            if len(key) != STAND_IN_BYTES:
                self._numbers[key] = number

    def _fork(self, data: bytes) -> ForkProof:
        try:
            return decode_fork(data, self._genesis.doc_id)
        except RemoteProtocolError as error:
            raise StoreCorruptError(self._corrupt(f"{error}")) from None

    def _inode(self) -> int:
        # Larger ones would not fit; they stay different enough.
        return os.stat(self.path).st_ino & 2**63 - 1

    def _corrupt(self, what: str) -> str:
        return corrupt(self.path, what)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise StoreError(f"{self.path} is closed; open it again") from None
        except sqlite3.Error as error:
            raise named(self.path, error) from None


def _add_pruned(feed: Feed, gone: dict[int, tuple[bytes, int]]) -> None:
    """Take the runs that come next on a feed out of those that are gone."""
    while (run := gone.pop(len(feed.ids), None)) is not None:
        ids, size = run
        feed.ids += _split_ids(ids)
        feed.size += size


def _split_ids(ids: bytes) -> list[bytes]:
    return [ids[place : place + ID_BYTES] for place in range(0, len(ids), ID_BYTES)]
