"""Lines to a pipe, terminal or file whose reader may stall, without ever waiting for it.

For log lines and for events as JSON: what watches a node must not be able to stop it.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

from lattica.nat.base.printable import printable_lines

QUEUE_SIZE = 1024
"""Texts that wait for a stalled reader at most."""
CLOSING_TIME = 1.0
"""Seconds that :meth:`LineWriter.close` waits for the reader."""
_AT_ONCE = 4096
"""Bytes that a pipe takes without waiting when it says that it takes any (POSIX's PIPE_BUF)."""


class LineWriter:
    """Writes lines to a descriptor; whoever has one to write never waits.

    What the descriptor takes at once is written at once. The rest waits in a queue of
    :data:`QUEUE_SIZE` texts, which a thread writes out; beyond that texts are dropped and counted,
    and when the reader is back, `lost` makes the line that says in their place how many.

    What is not printable is shown by its code, as is what `encoding` lacks. The descriptor stays
    the caller's. May be used from several threads.
    """

    def __init__(
        self, descriptor: int, lost: Callable[[int], str], encoding: str = "utf-8"
    ) -> None:
        self._descriptor = descriptor
        self._tell_lost = lost
        self._encoding = encoding
        self._queue: deque[bytes] = deque()
        self._lost = 0
        self._error: OSError | None = None
        self._idle = threading.Condition()
        """Guards all this; notified when the thread ends."""
        self._thread: threading.Thread | None = None
        """It runs while something waits."""

    def write(self, text: str) -> None:
        """Write one line, or several with line feeds between them.

        Raises :class:`OSError` when nobody can read it any more (:class:`BrokenPipeError`), or
        the disk refuses; also for what was written before.
        """
        data = self._encode(text)
        with self._idle:
            if self._error is not None:
                raise OSError(self._error.errno, self._error.strerror)
            if self._thread is not None:
                if len(self._queue) < QUEUE_SIZE:
                    self._take_lost()
                    self._queue.append(data)
                else:
                    self._lost += 1
                return
            rest = self._write_at_once(data)
            if rest:
                self._queue.append(rest)
                self._thread = threading.Thread(
                    target=self._write_out, name="lattica-lines", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Wait until all is written, or for :data:`CLOSING_TIME` seconds."""
        with self._idle:
            self._idle.wait_for(lambda: self._thread is None, CLOSING_TIME)

    def _write_at_once(self, data: bytes) -> bytes:
        """Write what can be written without waiting, and return the rest."""
        if len(data) > _AT_ONCE or not self._takes(0):
            return data
        try:
            return data[os.write(self._descriptor, data) :]
        except BlockingIOError:
            return data

    def _takes(self, timeout_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(timeout_ms))

    def _take_lost(self) -> None:
        if self._lost:
            self._queue.append(self._encode(self._tell_lost(self._lost)))
            self._lost = 0

    def _write_out(self) -> None:
        while True:
            with self._idle:
                self._take_lost()
                data = b"".join(self._queue)
                self._queue.clear()
                if not data or self._error is not None:
                    self._thread = None
                    self._idle.notify_all()
                    return
            try:
                self._write_waiting(memoryview(data))
            except OSError as error:
                with self._idle:
                    self._error = error

    def _write_waiting(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever started us has made it so
                self._takes(None)

    def _encode(self, text: str) -> bytes:
        return f"{printable_lines(text)}\n".encode(self._encoding, "backslashreplace")
