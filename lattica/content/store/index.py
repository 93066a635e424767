"""What a store holds, in a SQLite file: publications, blocks, pins and tags. Blocking.

What is on disk is the truth: a block counts where its file is, and a row without a file, or a file
without a row, is what a crash may leave, and no more than work for the next collection.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lattica.content.manifest.cid import Cid

_SCHEMA = """
CREATE TABLE IF NOT EXISTS publication (
    digest BLOB PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL,
    added REAL NOT NULL, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS reference (
    digest BLOB NOT NULL, number INTEGER NOT NULL, path BLOB NOT NULL,
    PRIMARY KEY (digest, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS block (
    digest BLOB PRIMARY KEY, size INTEGER NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pin (
    digest BLOB PRIMARY KEY, expires REAL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_PUBLICATIONS = """
SELECT p.digest, name, size, added, used, pin.digest IS NOT NULL, pin.expires,
    EXISTS (SELECT 1 FROM reference r WHERE r.digest = p.digest)
FROM publication p LEFT JOIN pin ON pin.digest = p.digest
"""
VERSION = 1
_PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


@dataclass(frozen=True, slots=True)
class StoredPublication:
    """A publication that is in the store."""

    cid: Cid
    name: str
    size: int
    """Bytes of its files."""
    by_reference: bool
    """Its files are elsewhere; only what they are is here."""
    added: float
    """Seconds since 1970, as are the others."""
    used: float
    is_pinned: bool
    expires: float | None
    """Until when it is kept, where it is not pinned."""


class Index:
    """One connection; for one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`sqlite3.Error`, and ValueError for the file of a later version."""
        self._db = sqlite3.connect(
            path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise ValueError(f"it is of version {version}, and this program knows {VERSION}")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield

    # --- blocks ---

    def add_block(self, digest: bytes, size: int, now: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO block VALUES (?, ?, ?)", (digest, size, now))

    def remove_block(self, digest: bytes) -> None:
        self._db.execute("DELETE FROM block WHERE digest = ?", (digest,))

    def blocks(self) -> dict[bytes, tuple[int, float]]:
        """Size and last use by digest."""
        rows = self._db.execute("SELECT digest, size, used FROM block")
        return {digest: (size, used) for digest, size, used in rows}

    def block_bytes(self) -> int:
        """Bytes of all blocks."""
        [total] = self._db.execute("SELECT coalesce(sum(size), 0) FROM block").fetchone()
        return int(total)

    # --- publications ---

    def add_publication(
        self,
        cid: Cid,
        name: str,
        size: int,
        now: float,
        references: Sequence[Path],
    ) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO publication VALUES (?, ?, ?, ?, ?)",
            (cid.digest, name, size, now, now),
        )
        self._db.execute("DELETE FROM reference WHERE digest = ?", (cid.digest,))
        self._db.executemany(
            "INSERT INTO reference VALUES (?, ?, ?)",
            ((cid.digest, number, os.fsencode(path)) for number, path in enumerate(references)),
        )

    def remove_publication(self, cid: Cid) -> None:
        for table in ("publication", "reference", "pin"):
            self._db.execute(f"DELETE FROM {table} WHERE digest = ?", (cid.digest,))

    def references(self, cid: Cid) -> list[Path]:
        """The files of a publication that is kept by reference, in the manifest's order."""
        rows = self._db.execute(
            "SELECT path FROM reference WHERE digest = ? ORDER BY number", (cid.digest,)
        )
        return [Path(os.fsdecode(path)) for (path,) in rows]

    def publications(self, now: float) -> list[StoredPublication]:
        """All of them, those that were used last at the end."""
        rows = self._db.execute(f"{_PUBLICATIONS} ORDER BY used, p.digest")
        return [_publication(now, *row) for row in rows]

    def publication(self, cid: Cid, now: float) -> StoredPublication | None:
        """That one, if it is here."""
        row = self._db.execute(f"{_PUBLICATIONS} WHERE p.digest = ?", (cid.digest,)).fetchone()
        return None if row is None else _publication(now, *row)

    def touch(self, cid: Cid, now: float) -> None:
        self._db.execute("UPDATE publication SET used = ? WHERE digest = ?", (now, cid.digest))
        self._db.execute("UPDATE block SET used = ? WHERE digest = ?", (now, cid.digest))

    # --- pins ---

    def pin(self, cid: Cid, expires: float | None) -> None:
        self._db.execute("INSERT OR REPLACE INTO pin VALUES (?, ?)", (cid.digest, expires))

    def unpin(self, cid: Cid) -> bool:
        return self._db.execute("DELETE FROM pin WHERE digest = ?", (cid.digest,)).rowcount > 0

    def kept(self, now: float) -> set[bytes]:
        """What is pinned, or has a tag that has not expired."""
        rows = self._db.execute(
            "SELECT digest FROM pin WHERE expires IS NULL OR expires > ?", (now,)
        )
        return {digest for (digest,) in rows}


def _publication(
    now: float,
    digest: bytes,
    name: str,
    size: int,
    added: float,
    used: float,
    has_pin: int,
    expires: float | None,
    is_reference: int,
) -> StoredPublication:
    """What a row of :data:`_PUBLICATIONS` says."""
    pinned = bool(has_pin) and expires is None
    until = expires if expires is not None and expires > now else None
    return StoredPublication(
        Cid(digest), name, size, bool(is_reference), added, used, pinned, until
    )
