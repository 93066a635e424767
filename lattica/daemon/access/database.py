"""The file in which a relay keeps what it must not forget: tokens, bans, accounts, traffic.

SQLite with a write-ahead log: what was committed survives a process that is killed, and commands
(`lattica relay token`, `ban`, `accounts`) read and write it while the relay runs, which sees so by
:attr:`Database.version`. Blocking: for a thread, one call at a time.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lattica.nat.base.errors import LatticaError

_VERSION = 1
_ROOM = 64 * 1024
"""Bytes that SQLite needs at least for what it keeps beside the file."""
_BUSY_TIMEOUT = 5.0
"""Seconds that another process may hold the file."""
MAX_ACCOUNTS = 100_000
"""Peers with an account; of more, those not seen for longest lose theirs."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, peer TEXT NOT NULL, note TEXT NOT NULL"
    ", created INTEGER NOT NULL, not_after INTEGER NOT NULL, rate INTEGER NOT NULL,"
    " month INTEGER NOT NULL, circuits INTEGER NOT NULL, revoked INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS bans (what TEXT PRIMARY KEY, note TEXT NOT NULL,"
    " created INTEGER NOT NULL, not_after INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS accounts (peer TEXT PRIMARY KEY, first_seen INTEGER NOT NULL,"
    " last_seen INTEGER NOT NULL, reservations INTEGER NOT NULL, circuits INTEGER NOT NULL,"
    " refused INTEGER NOT NULL, bytes_sent INTEGER NOT NULL, bytes_received INTEGER NOT NULL)"
    " WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS traffic (period TEXT NOT NULL, whose TEXT NOT NULL,"
    " name TEXT NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (period, whose, name)) WITHOUT ROWID",
)


class DatabaseError(LatticaError):
    """The file of a relay cannot be opened, read or written; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token that was given. Times are Unix times; numbers that are 0 set no limit."""

    id: str
    peer: str
    note: str
    created: int
    not_after: int
    rate: int
    month: int
    circuits: int
    revoked: int = 0
    """When it was taken back; 0 while it holds."""


@dataclass(frozen=True, slots=True)
class BanRow:
    """Who is not served, nor connected."""

    what: str
    """A peer's ID, or a network."""
    note: str
    created: int
    not_after: int
    """Unix time; 0: for ever."""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """What a peer has had of the relay since it was first seen; or has had more, in
    :meth:`Database.add_accounts`."""

    peer: str
    first_seen: int
    last_seen: int
    reservations: int = 0
    """Made, renewals not counted."""
    circuits: int = 0
    """Opened, whichever end the peer was."""
    refused: int = 0
    bytes_sent: int = 0
    """From the peer."""
    bytes_received: int = 0


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path).free < _ROOM
    except OSError:
        return False


class Database:
    """The file at `path`, made (for this user alone) where there is none.

    Raises:
        DatabaseError: in all its methods, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it is written by another version ({version})")
        for statement in _SCHEMA:
            connection.execute(statement)
        if version != _VERSION:
            connection.execute(f"PRAGMA user_version={_VERSION}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else f"{error}{self._hint(error)}"
            raise DatabaseError(f"the relay's file {self.path}: {reason}") from None

    def _hint(self, error: sqlite3.Error) -> str:
        """What to do, where SQLite's words do not say it."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return (
                ": it is damaged; restore it from a backup, or move it away and begin without "
                "its tokens, bans and accounts"
            )
        if code == sqlite3.SQLITE_IOERR and _is_full(self.path):
            return ": the disk is full; make room there"
        return ""

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _read(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        with self._errors():
            return self._connection.execute(query, arguments).fetchall()

    def close(self) -> None:
        self._connection.close()

    @property
    def version(self) -> int:
        """Another number after another process has written."""
        ((number,),) = self._read("PRAGMA data_version")
        assert isinstance(number, int)
        return number

    # --- tokens ---

    def add_token(self, row: TokenRow) -> None:
        with self._writing() as db:
            db.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.id, row.peer, row.note, row.created, row.not_after, row.rate, row.month,
                 row.circuits, row.revoked),
            )  # fmt: skip

    def tokens(self) -> list[TokenRow]:
        """All, the oldest first."""
        return [TokenRow(*row) for row in self._read("SELECT * FROM tokens ORDER BY created, id")]  # type: ignore[arg-type]

    def revoke(self, ids: Iterable[str], now: int) -> int:
        """Take tokens back for ever; how many of them held till now."""
        with self._writing() as db:
            changes = (
                db.execute(
                    "UPDATE tokens SET revoked = ? WHERE id = ? AND revoked = 0", (now, each)
                )
                for each in ids
            )
            return sum(change.rowcount for change in changes)

    # --- bans ---

    def add_ban(self, row: BanRow) -> None:
        """In place of an earlier one of the same peer or network."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO bans VALUES (?, ?, ?, ?)",
                (row.what, row.note, row.created, row.not_after),
            )

    def bans(self) -> list[BanRow]:
        return [BanRow(*row) for row in self._read("SELECT * FROM bans ORDER BY created, what")]  # type: ignore[arg-type]

    def remove_ban(self, what: str) -> bool:
        """False: there was none."""
        with self._writing() as db:
            return db.execute("DELETE FROM bans WHERE what = ?", (what,)).rowcount > 0

    # --- accounts and traffic ---

    def add_accounts(self, rows: Iterable[AccountRow]) -> None:
        """Add what peers have had since the last time."""
        with self._writing() as db:
            db.executemany(
                "INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(peer) DO UPDATE"
                " SET last_seen = excluded.last_seen,"
                " reservations = reservations + excluded.reservations,"
                " circuits = circuits + excluded.circuits, refused = refused + excluded.refused,"
                " bytes_sent = bytes_sent + excluded.bytes_sent,"
                " bytes_received = bytes_received + excluded.bytes_received",
                (
                    (r.peer, r.first_seen, r.last_seen, r.reservations, r.circuits, r.refused,
                     r.bytes_sent, r.bytes_received)
                    for r in rows
                ),
            )  # fmt: skip
            db.execute(
                "DELETE FROM accounts WHERE peer IN (SELECT peer FROM accounts"
                " ORDER BY last_seen DESC LIMIT -1 OFFSET ?)",
                (MAX_ACCOUNTS,),
            )

    def accounts(self) -> list[AccountRow]:
        """All, those with most bytes first."""
        query = "SELECT * FROM accounts ORDER BY bytes_sent + bytes_received DESC, peer"
        return [AccountRow(*row) for row in self._read(query)]  # type: ignore[arg-type]

    def forget_accounts(self, before: int) -> int:
        """Delete those of peers that were not seen since `before`, a Unix time; how many."""
        with self._writing() as db:
            return db.execute("DELETE FROM accounts WHERE last_seen < ?", (before,)).rowcount

    def set_traffic(self, period: str, rows: Iterable[tuple[str, str, int]]) -> None:
        """What has been used in a month, by (whose, name); other months are forgotten."""
        with self._writing() as db:
            db.execute("DELETE FROM traffic WHERE period != ?", (period,))
            db.executemany(
                "INSERT OR REPLACE INTO traffic VALUES (?, ?, ?, ?)",
                ((period, *row) for row in rows),
            )

    def traffic(self, period: str) -> list[tuple[str, str, int]]:
        query = "SELECT whose, name, used FROM traffic WHERE period = ?"
        return [(str(w), str(n), int(str(u))) for w, n, u in self._read(query, period)]
