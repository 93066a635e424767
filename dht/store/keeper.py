"""Writes what has changed in the store to its file, in a thread, many changes at a time.

Where it cannot be written (the disk is full), records are kept in memory, which is said once, and
written when there is room again.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from pathlib import Path

import trio

from lattica.dht.store.disk import RecordFile, read_without_room
from lattica.dht.store.rows import Kind, Row, RowId, RowSource

logger = logging.getLogger(__name__)

_RETRY = 30.0
"""Seconds after which a file that could not be written is tried again."""
_BATCH = 512
"""Rows of one transaction: they are put together in one pass."""

_MOST_NOTED = 65_536
"""Rows that are noted to be written later while nothing can be. Of more, the file is compared with
what there is when it can be written again."""


class Keeper:
    """The :class:`~lattica.dht.store.rows.Journal` of a node.

    Args:
        path: the file; None: records are kept in memory alone.
        take_late: is given the rows of a file that :meth:`load` could not open, without those that
            have changed since.
    """

    def __init__(
        self,
        path: Path | None,
        take_late: Callable[[list[Row]], Awaitable[object]] | None = None,
    ) -> None:
        self._path = path
        self._take_late = take_late
        self._file: RecordFile | None = None
        self._sources: dict[Kind, RowSource] = {}
        self._dirty: dict[RowId, None] = {}
        self._is_behind = False
        """More has changed than is noted."""
        self._wake = trio.Event()
        self._written = trio.Event()
        """Replaced when it is set."""
        self._version = 0
        self._written_version = 0
        self.problem = ""
        """Why nothing is written now; empty: all is well."""

    @property
    def is_on_disk(self) -> bool:
        """Whether there is a file, and it could be written the last time."""
        return self._file is not None and not self.problem

    def serve(self, kinds: tuple[Kind, ...], source: RowSource) -> None:
        """Rows of these kinds are those of `source`."""
        self._sources.update(dict.fromkeys(kinds, source))

    def changed(self, row_id: RowId) -> None:
        """A row is another one now, or gone."""
        if self._path is None:
            return
        if self.problem and len(self._dirty) >= _MOST_NOTED and row_id not in self._dirty:
            self._is_behind = True
        else:
            self._dirty[row_id] = None
        self._version += 1
        self._wake.set()

    async def drop_missing(self, rows: Iterable[Row]) -> None:
        """Of rows that were read from the file, those that nobody has taken leave it."""
        for row in await self._missing(rows):
            self.changed(row.row_id)

    async def load(self) -> list[Row]:
        """Open the file, and read what is in it: also where it cannot be written, as when the disk
        is full. Never raises for what is wrong with the file.
        """
        if self._path is None:
            await trio.lowlevel.checkpoint()
            return []
        path = self._path

        try:
            self._file, rows = await trio.to_thread.run_sync(_open_and_read, path)
        except (OSError, sqlite3.Error) as error:
            self._fail(error)
            return await trio.to_thread.run_sync(read_without_room, path)
        return rows

    async def run(self) -> None:
        """Write until cancelled; what is left then is written by :meth:`aclose`."""
        while True:
            await self._wake.wait()
            await self._write_all()
            if self.problem:
                await trio.sleep(_RETRY)
                await self._reopen()

    async def wait_written(self) -> None:
        """Wait until all that has changed before this call is in the file, where there is one that
        can be written.
        """
        version = self._version
        await trio.lowlevel.checkpoint()
        while self._written_version < version and self.is_on_disk:
            await self._written.wait()

    async def aclose(self) -> None:
        """Write what is left, and close the file."""
        with trio.CancelScope(shield=True):
            if self._dirty and self.is_on_disk:
                await self._write_all()
            if self._file is not None:
                file, self._file = self._file, None
                await trio.to_thread.run_sync(file.close)

    async def _write_all(self) -> None:
        self._wake = trio.Event()
        while self._dirty and self._file is not None:
            version = self._version
            is_all = len(self._dirty) <= _BATCH and not self._is_behind
            ids = list(islice(self._dirty, _BATCH))
            rows, gone = [], []
            for row_id in ids:
                row = self._row(row_id)
                if row is None:
                    gone.append(row_id)
                else:
                    rows.append(row)
                del self._dirty[row_id]
            try:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._file.write, rows, gone)
            except (OSError, sqlite3.Error) as error:
                self._dirty.update(dict.fromkeys(ids))
                self._fail(error)
                break
            if self.problem:
                logger.info("records are written to %s again", self._path)
                self.problem = ""
            if self._is_behind:
                await self._compare()
            if is_all:
                self._written_version = version
            self._announce()

    async def _compare(self) -> None:
        """Note all rows that there are, and all that are in the file."""
        assert self._file is not None
        self._is_behind = False
        try:
            self._dirty.update(dict.fromkeys(await trio.to_thread.run_sync(self._file.read_ids)))
        except sqlite3.Error as error:
            self._is_behind = True
            self._fail(error)
            return
        for source in set(self._sources.values()):
            self._dirty.update(dict.fromkeys(source.row_ids()))
            await trio.lowlevel.checkpoint()

    async def _reopen(self) -> None:
        """Open the file if that has failed, and take what is in it and was not known."""
        if self._file is None and self._path is not None:
            try:
                self._file, rows = await trio.to_thread.run_sync(_open_and_read, self._path)
            except (OSError, sqlite3.Error) as error:
                self._fail(error)
            else:
                if self._take_late is not None:
                    await self._take_late(await self._missing(rows))
        self._wake.set()

    async def _missing(self, rows: Iterable[Row]) -> list[Row]:
        """Those that are not there, and did not go since they are noted."""
        missing = []
        for number, row in enumerate(rows):
            if number % _BATCH == 0:
                await trio.lowlevel.checkpoint()
            if row.row_id not in self._dirty and self._row(row.row_id) is None:
                missing.append(row)
        return missing

    def _row(self, row_id: RowId) -> Row | None:
        try:
            return self._sources[row_id.kind].row(row_id)
        except (ValueError, IndexError):  # the file has an ID that is none
            return None

    def _fail(self, error: Exception) -> None:
        if not self.problem:
            logger.warning(
                "records of the DHT cannot be written to %s (%s): they are kept in memory, and "
                "lost when the node ends; make room there, and it goes on",
                self._path,
                error,
            )
        self.problem = str(error) or type(error).__name__
        self._wake.set()
        self._announce()

    def _announce(self) -> None:
        written, self._written = self._written, trio.Event()
        written.set()


def _open_and_read(path: Path) -> tuple[RecordFile, list[Row]]:
    """Blocking: for a thread."""
    file = RecordFile(path)
    try:
        return file, list(file.read())
    except BaseException:
        file.close()
        raise
