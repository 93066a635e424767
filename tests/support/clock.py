"""A clock for what is pure and asks for the time, and what passes of the event loop bring."""

from __future__ import annotations

import trio


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Passes(trio.abc.Instrument):
    """Counts something, and knows most of it that has happened in one pass of the event loop."""

    def __init__(self) -> None:
        self.total = self.most = self._before = 0

    def start(self) -> None:
        """Look at passes from now on, whatever was counted before."""
        self._before = self.total
        trio.lowlevel.add_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        self.most = max(self.most, self.total - self._before)
        self._before = self.total
