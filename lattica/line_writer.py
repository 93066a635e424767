"""Lines to a pipe, terminal or file whose reader may stall, without ever waiting for it.

For log lines and for events as JSON: what watches a node must not be able to stop it.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from lattica.nat.base.printable import printable_lines

QUEUE_SIZE = 1024
"""Texts that wait for a stalled reader at most."""
CLOSING_TIME = 1.0
"""Seconds that :meth:`LineWriter.close` waits for the reader."""
_AT_ONCE = 4096
"""Bytes that a pipe takes without waiting when it says that it takes any (POSIX's PIPE_BUF)."""


_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF)
"""There is nobody to write to, and never will be. All else, such as a full disk, may pass."""


@dataclass(frozen=True, slots=True)
class _Text:
    """What is to be written, and how many texts are lost with it."""

    data: bytes
    count: int = 1
    begun: bool = False
    """Its beginning has been written: without the rest, the line would not end."""


class LineWriter:
    """Writes lines to a descriptor; whoever has one to write never waits.

    What the descriptor takes at once is written at once. The rest waits in a queue of
    :data:`QUEUE_SIZE` texts, which a thread writes out; beyond that texts are dropped and counted,
    and when the reader is back, `lost` makes the line that says in their place how many. So it is
    with what the disk refuses, because it is full or broken: the next text tries again.

    `refused`, if given, is called with the disk's error, once until it takes lines again; from any
    thread that writes.

    What is not printable is shown by its code, as is what `encoding` lacks. The descriptor stays
    the caller's. May be used from several threads.
    """

    def __init__(
        self,
        descriptor: int,
        lost: Callable[[int], str],
        encoding: str = "utf-8",
        refused: Callable[[OSError], None] | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._tell_lost = lost
        self._tell_refused = refused
        self._encoding = encoding
        self._queue: deque[_Text] = deque()
        self._lost = 0
        self._begun: _Text | None = None
        """The rest of a text in the middle of which the disk was full: it goes first."""
        self._refusing = False
        self._error: OSError | None = None
        self._idle = threading.Condition()
        """Guards all this; notified when the thread ends."""
        self._thread: threading.Thread | None = None
        """It runs while something waits."""

    def write(self, text: str) -> None:
        """Write one line, or several with line feeds between them.

        Raises :class:`OSError` when nobody can read it any more (:class:`BrokenPipeError`); also
        for what was written before.
        """
        made = _Text(self._encode(text))
        refusal = None
        with self._idle:
            if self._error is not None:
                raise OSError(self._error.errno, self._error.strerror)
            if self._thread is not None:
                if len(self._queue) < QUEUE_SIZE:
                    self._queue += self._owed()
                    self._queue.append(made)
                else:
                    self._lost += 1
                return
            texts = [*self._owed(), made]
            try:
                rest = _unwritten(texts, self._write_at_once(b"".join(t.data for t in texts)))
            except OSError as error:
                refusal = self._refuse(error, texts)
                rest = []
                if self._error is not None:
                    raise
            if rest:
                self._queue += rest
                self._thread = threading.Thread(
                    target=self._write_out, name="lattica-lines", daemon=True
                )
                self._thread.start()
        self._tell(refusal)

    def close(self) -> None:
        """Wait until all is written, or for :data:`CLOSING_TIME` seconds."""
        with self._idle:
            self._idle.wait_for(lambda: self._thread is None, CLOSING_TIME)

    def _write_at_once(self, data: bytes) -> int:
        """Write what can be written without waiting, and return how much that was."""
        if len(data) > _AT_ONCE or not self._takes(0):
            return 0
        return self._write(data)

    def _write(self, data: bytes | memoryview) -> int:
        try:
            count = os.write(self._descriptor, data)
        except BlockingIOError:  # whoever started us has made it so
            return 0
        self._refusing = False
        return count

    def _takes(self, timeout_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(timeout_ms))

    def _owed(self) -> list[_Text]:
        """What goes before the next text: the rest of a line, and what is said of lost ones."""
        owed = [] if self._begun is None else [self._begun]
        if self._lost:
            owed.append(_Text(self._encode(self._tell_lost(self._lost)), self._lost))
        self._begun, self._lost = None, 0
        return owed

    def _refuse(self, error: OSError, texts: list[_Text]) -> OSError | None:
        """The disk has refused these: count them. Returns the error if it is to be told."""
        if error.errno in _GONE:
            self._error = error
            return None
        for text in texts:
            if text.begun:
                self._begun = text
            else:
                self._lost += text.count
        if self._refusing:
            return None
        self._refusing = True
        return error

    def _tell(self, refusal: OSError | None) -> None:
        """Outside the lock: whoever is told may log, and so write."""
        if refusal is not None and self._tell_refused is not None:
            self._tell_refused(refusal)

    def _write_out(self) -> None:
        while True:
            with self._idle:
                texts = list(self._queue)
                self._queue.clear()
                texts += self._owed()
                if not texts:
                    self._thread = None
                    self._idle.notify_all()
                    return
            data = memoryview(b"".join(text.data for text in texts))
            done = 0
            try:
                while done < len(data):
                    done += (count := self._write(data[done:]))
                    if not count:
                        self._takes(None)
            except OSError as error:
                with self._idle:
                    # Who writes meanwhile finds a thread; the next one tries again without it.
                    texts = [*_unwritten(texts, done), *self._queue]
                    self._queue.clear()
                    refusal = self._refuse(error, texts)
                    self._thread = None
                    self._idle.notify_all()
                self._tell(refusal)
                return

    def _encode(self, text: str) -> bytes:
        return f"{printable_lines(text)}\n".encode(self._encoding, "backslashreplace")


def _unwritten(texts: list[_Text], done: int) -> list[_Text]:
    """What is left of texts of which `done` bytes have been written."""
    rest = []
    for text in texts:
        if done >= len(text.data):
            done -= len(text.data)
        elif done:
            rest.append(_Text(text.data[done:], 0, begun=True))
            done = 0
        else:
            rest.append(text)
    return rest
