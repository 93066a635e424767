"""Gives memory back to the system that connections have left free, on Linux with glibc.

The C library keeps what is freed for the next to come, some tens of MiB, and we have it keep more
(`_block` in :mod:`lattica.nat.swarm.yamux_connection`): page faults cost a fifth of a receiver's
processor time. What a flood has left is not worth that, as nobody will need it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from lattica.nat.config import MIB

_WORTH = 12 * MIB
"""Bytes by which the process has grown that are worth it."""
_CALM = 1.0
"""Seconds after the end of a connection, in which what went with it is freed."""
_AFTERWARDS = 45.0
"""Seconds in which that is done again if the process has not shrunk to what it was: what a
connection had may be freed some time after it, as calls that wait for their caller to come back."""
_AGAIN = 12.0
"""Seconds between two times then."""
_PAUSE = 5.0
"""Seconds between two times, each of which takes a thread some milliseconds."""


class Heap:
    """Trims the heap when connections have ended and the process has grown.

    Args:
        clock: gives monotonic seconds.
        resident: gives the bytes that the process takes; 0 if nobody knows.
        trim: gives back what is free; None where there is no such function.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        resident: Callable[[], int],
        trim: Callable[[], object] | None,
    ) -> None:
        self._clock = clock
        self._resident = resident
        self._trim = trim
        self._due: float | None = None
        self._not_before = 0.0
        self._until = 0.0
        """As long as this it is done even though the process has not grown."""
        self._before = 0
        """What it took before it had grown."""
        self._least = 0
        """What the process took when it took least since it was trimmed."""

    def note_end(self) -> None:
        """A connection has ended, or a handshake has come to nothing."""
        self._due = self._clock() + _CALM

    async def look(self) -> None:
        """Trim if that is due and worth it; the swarm calls it about once a second."""
        now = self._clock()
        if self._trim is None or (self._least and not self._is_due(now)):
            return
        resident = self._resident()
        self._due = None
        is_worth_it = bool(self._least) and resident >= self._least + _WORTH
        if is_worth_it:
            if now >= self._until:
                self._before = self._least
            self._until = now + _AFTERWARDS
        if is_worth_it or now < self._until:
            self._not_before = now + _PAUSE
            self._due = now + _AGAIN
            await trio.to_thread.run_sync(self._trim)
            self._least = self._resident()
            if self._least < self._before + _WORTH:
                self._until = 0.0
        else:
            self._least = min(self._least or resident, resident)

    def _is_due(self, now: float) -> bool:
        return self._due is not None and now >= self._due and now >= self._not_before


def malloc_trim() -> Callable[[], object] | None:
    """The C library's function of that name, without arguments; None if it has none."""
    import ctypes  # nobody who only imports this needs it

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes = (ctypes.c_size_t,)
    return lambda: trim(0)


def resident() -> int:
    """Bytes of memory that this process takes; 0 if the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read(100).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
