"""The form of a document's file, and what SQLite says of it in our words."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from lattica.crdt.entries.genesis import Genesis, decode_genesis
from lattica.crdt.entries.header import Kind
from lattica.crdt.log.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreInUseError,
)
from lattica.nat.base.errors import RemoteProtocolError

VERSION: Final = 7
"""Of the form; a file of a later one is refused."""
FORMER: Final = (2, 3, 4, 5, 6)
"""Those that are brought to it. Up to 3 no remnant has a signature; up to 4 nothing of documents
with owners is pruned; up to 5 it is not known when entries came here."""
ARRIVAL: Final = "ALTER TABLE entry ADD COLUMN came INTEGER NOT NULL DEFAULT 0"
"""Milliseconds since 1970, by the clock here."""
ERASURES: Final = """
CREATE TABLE erasure (
    id BLOB PRIMARY KEY, header BLOB NOT NULL, signature BLOB NOT NULL, payload BLOB NOT NULL,
    certificate BLOB NOT NULL) WITHOUT ROWID
"""
"""All that are known, be they admitted or not. Files of version 2 have none."""
JOINED: Final = """
CREATE TABLE joined (given_by BLOB NOT NULL)
"""
"""Whose snapshot nobody has confirmed yet, if any: a peer's ID. Files of versions up to 6
lack it."""
WITHDRAWN: Final = """
CREATE TABLE withdrawn (
    author INTEGER NOT NULL, seq INTEGER NOT NULL, id BLOB NOT NULL, remnant BLOB NOT NULL,
    PRIMARY KEY (author, seq, id)) WITHOUT ROWID
"""
"""What is left of entries that were pruned, and that no right covered any more at some time. Files
of versions up to 6 lack it."""
SCHEMA: Final = (
    """
CREATE TABLE document (doc_id BLOB NOT NULL, genesis BLOB NOT NULL);
CREATE TABLE session (seed BLOB NOT NULL, inode INTEGER NOT NULL);
CREATE TABLE author (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, identity BLOB NOT NULL, fork BLOB);
CREATE TABLE entry (
    author INTEGER NOT NULL, seq INTEGER NOT NULL, id BLOB NOT NULL, header BLOB NOT NULL,
    signature BLOB NOT NULL, payload BLOB, hlc BLOB NOT NULL, size INTEGER NOT NULL,
    is_admitted INTEGER NOT NULL, came INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (author, seq, id)) WITHOUT ROWID;
CREATE TABLE pruned (
    author INTEGER NOT NULL, seq INTEGER NOT NULL, ids BLOB NOT NULL, remnants BLOB NOT NULL,
    size INTEGER NOT NULL, PRIMARY KEY (author, seq)) WITHOUT ROWID;
"""
    + ERASURES
    + ";"
    + JOINED
    + ";"
    + WITHDRAWN
)
"""In `pruned` are runs of entries that are gone: from a sequence number on their IDs, what is left
of their headers, and their bytes."""
INSERT: Final = (
    "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    # Withdrawn once, and admitted again.
    "ON CONFLICT DO UPDATE SET is_admitted = max(is_admitted, excluded.is_admitted), signature = "
    # With which it is admitted now: that may be its own, where the other was not.
    "CASE WHEN excluded.is_admitted > is_admitted THEN excluded.signature ELSE signature END"
)
"""An entry, by the author's number; one that is here may be admitted by it."""


def _of_kinds(*kinds: Kind) -> str:
    """Finds entries that may be of these kinds: their headers say what they are."""
    wanted = ", ".join(f"x'{kind:02x}'" for kind in kinds)
    # The kind stands before the hash and the size of the payload, of which the length differs.
    places = [f"substr(header, -{35 + size}, 1) IN ({wanted})" for size in (1, 2, 3, 5)]
    return f"({' OR '.join(places)})"


OF_RIGHTS: Final = _of_kinds(Kind.GRANT, Kind.REVOKE, Kind.FINAL)
OF_KEYS: Final = _of_kinds(Kind.KEY)
"""Conditions that find, among few others, entries about rights and about read keys."""


def read_genesis(path: Path) -> Genesis:
    """What the document of a file is, which has to be there.

    Raises:
        StoreInUseError: another node or program has it open.
        StoreCorruptError: it is damaged.
        StoreError: it cannot be read, or is no document's.
    """
    if not path.is_file():
        raise StoreError(f"{path} is no file")
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=0, uri=True)
    try:
        doc_id, encoded = db.execute("SELECT doc_id, genesis FROM document").fetchone()
        return decode_genesis(encoded, doc_id)
    except RemoteProtocolError as error:
        raise StoreCorruptError(corrupt(path, f"{error}")) from None
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB):  # no such table
            raise StoreError(f"{path} is not the file of a document") from None
        raise named(path, error) from None
    finally:
        db.close()


def corrupt(path: Path, what: str) -> str:
    """Says that a file is damaged, and what becomes of it."""
    return (
        f"{path} is damaged: {what}. When it is opened, what is good of it goes into a new file; "
        "the rest comes back from peers that have it"
    )


def named(path: Path, error: sqlite3.Error) -> StoreError:
    """What an error of SQLite is to those who use a document."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreInUseError(
            f"{path} is in use by another node or program, which alone may have it open: close "
            "that, or give this one a folder of its own (`store.path`)"
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreFullError(f"no space is left for {path}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        # The last: a table or column is not there any more.
        return StoreCorruptError(corrupt(path, f"{error}"))
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(f"{path}: {error}; the disk fails, or a quota is used up")
    return StoreError(f"{path}: {error}")
