"""The last lines of a program's log, and those that come, for whoever asks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trio

from lattica.nat.base.printable import printable

KEPT = 500
"""Lines."""
_LONGEST = 2000
"""Characters of a line that are kept."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line."""

    time: float
    """Seconds since 1970."""
    level: str
    logger: str
    message: str


class LogLines(logging.Handler):
    """Keeps the last :data:`KEPT` lines. Records may come from any thread; readers are in trio."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[LogEntry] = deque(maxlen=KEPT)
        self._count = 0
        self._news = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hear what the program logs, in this block."""
        logging.getLogger().addHandler(self)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; never waits."""
        try:
            message = record.getMessage()
        except Exception:  # somebody else's arguments
            message = str(record.msg)
        entry = LogEntry(
            record.created,
            record.levelname.lower(),
            record.name,
            printable(message[:_LONGEST]),
        )
        # The loop may end at any time, and with it what wakes it.
        with suppress(trio.RunFinishedError, OSError):
            self._token.run_sync_soon(self._take, entry)

    def _take(self, entry: LogEntry) -> None:
        self._lines.append(entry)
        self._count += 1
        news, self._news = self._news, trio.Event()
        news.set()

    def last(self, count: int) -> list[LogEntry]:
        """The last lines, oldest first."""
        return [*self._lines][-count:] if count > 0 else []

    @property
    def position(self) -> int:
        """How many lines there have been."""
        return self._count

    def since(self, position: int) -> tuple[int, list[LogEntry]]:
        """The lines after a position that there are, and the position then."""
        return self._count, self.last(self._count - position)

    async def after(self, position: int) -> tuple[int, list[LogEntry]]:
        """Wait for lines after a position; those there are of them, and the position then.

        Of who is slower than :data:`KEPT` lines, the oldest are lost.
        """
        while self._count <= position:
            await self._news.wait()
        return self.since(position)
