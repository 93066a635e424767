"""Commands that go on until SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

GRACE: Final = 60.0
"""Seconds after the last signal in which the command ends by itself."""


class Stop:
    """What a signal ends."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        """For tasks beside the command's own."""
        self.scope = nursery.cancel_scope
        """Cancelled by a signal: by default all, else what is set here, and the rest goes on."""
        self.signal: int | None = None
        """The one that has come last."""

    async def _listen(self, signals: AsyncIterator[int]) -> None:
        async for self.signal in signals:
            self.scope.cancel()
            # Where there is no memory left a library's thread may be gone for which its end waits.
            # The system's own alarm wants neither memory nor a thread.
            signal.setitimer(signal.ITIMER_REAL, GRACE)


@asynccontextmanager
async def stopped_by_signals() -> AsyncIterator[Stop]:
    """A block that SIGINT and SIGTERM end. Entered before the node starts, no signal is lost.

    If it has not ended :data:`GRACE` seconds after one, SIGALRM ends the process.
    """
    alarm = signal.getitimer(signal.ITIMER_REAL)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with trio.open_nursery() as nursery:
                stop = Stop(nursery)
                nursery.start_soon(stop._listen, signals)
                yield stop
                nursery.cancel_scope.cancel()
        finally:
            signal.setitimer(signal.ITIMER_REAL, *alarm)
