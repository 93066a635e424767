"""The file that keeps a node's records over restarts: rows in SQLite.

What is written is written in transactions, with a write-ahead log: a process that is killed loses
nothing of what was committed, and the file is never half of something. A file that is damaged is
put aside, and a new one begun. Blocking: for a thread.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from lattica.dht.store.rows import Kind, Row, RowId

logger = logging.getLogger(__name__)

_VERSION = 1
_BUSY_TIMEOUT = 5.0
"""Seconds that another process, such as a backup, may hold the file."""

_KINDS = frozenset(kind.value for kind in Kind)


class RecordFile:
    """Rows in a file.

    Raises:
        OSError: its directory cannot be made.
        sqlite3.Error: it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # it is locked, or cannot be opened or written: it may be whole
            aside = path.with_name(f"{path.name}.damaged")
            logger.warning(
                "the records in %s are damaged (%s): put aside as %s", path, error, aside
            )
            self._put_aside(aside)
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"written by another version ({version})")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS rows (kind INTEGER NOT NULL, id BLOB NOT NULL, "
                "data BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID"
            )
            connection.execute(f"PRAGMA user_version={_VERSION}")
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self, aside: Path) -> None:
        os.replace(self.path, aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def read(self) -> Iterator[Row]:
        """All rows; of a kind that is not known, none."""
        return _rows(self._connection)

    def read_ids(self) -> list[RowId]:
        """Which rows there are; of a kind that is not known, none."""
        found = self._connection.execute("SELECT kind, id FROM rows")
        return [RowId(Kind(kind), row_id) for kind, row_id in found if _is_known(kind, row_id)]

    def write(self, rows: Iterable[Row], gone: Iterable[RowId]) -> None:
        """Write all of this or, when it raises, nothing."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?)",
                ((row.row_id.kind.value, row.row_id.id, row.data) for row in rows),
            )
            connection.executemany(
                "DELETE FROM rows WHERE kind = ? AND id = ?",
                ((row_id.kind.value, row_id.id) for row_id in gone),
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def read_without_room(path: Path) -> list[Row]:
    """The rows of a file that :class:`RecordFile` cannot open because there is no room beside it,
    or because it may not be written. None where that fails, too.
    """
    # A log that a killed process has left is read into memory by who has the file for itself;
    # without that, only what is in the file itself can be read where nothing can be written.
    for mode, pragma in (("rw", "PRAGMA locking_mode=EXCLUSIVE"), ("ro&immutable=1", "")):
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=0.1
            )
            try:
                connection.execute(pragma)
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                return list(_rows(connection)) if version == _VERSION else []
            finally:
                connection.close()
        except sqlite3.Error as error:
            logger.debug("%s cannot be read (%s): %s", path, mode, error)
    return []


def _rows(connection: sqlite3.Connection) -> Iterator[Row]:
    for kind, row_id, data in connection.execute("SELECT kind, id, data FROM rows"):
        if _is_known(kind, row_id) and isinstance(data, bytes):
            yield Row(RowId(Kind(kind), row_id), data)


def _is_known(kind: object, row_id: object) -> bool:
    return kind in _KINDS and isinstance(row_id, bytes)
