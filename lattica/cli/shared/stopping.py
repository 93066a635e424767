"""Commands that go on until SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

GRACE: Final = 60.0
"""Seconds after the last signal in which the command ends by itself."""


class Stop:
    """What a signal ends."""

    def __init__(self, nursery: trio.Nursery, end_soon: Callable[[], None]) -> None:
        self._end_soon = end_soon
        self.nursery = nursery
        """For tasks beside the command's own."""
        self.scope = nursery.cancel_scope
        """Cancelled by a signal: by default all, else what is set here, and the rest goes on."""
        self.signal: int | None = None
        """The one that has come last."""

    async def _listen(self, signals: AsyncIterator[int]) -> None:
        async for self.signal in signals:
            self.scope.cancel()
            self._end_soon()


@contextmanager
def ended_by_alarm() -> Iterator[Callable[[], None]]:
    """A block that, once the function it is given is called, has :data:`GRACE` seconds to end; then
    SIGALRM ends the process."""
    alarm = signal.getitimer(signal.ITIMER_REAL)

    def end_soon() -> None:
        # Where there is no memory left a library's thread may be gone for which its end waits.
        # The system's own alarm wants neither memory nor a thread.
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    try:
        yield end_soon
    finally:
        signal.setitimer(signal.ITIMER_REAL, *alarm)


@asynccontextmanager
async def stopped_by_signals() -> AsyncIterator[Stop]:
    """A block that SIGINT and SIGTERM end. Entered before the node starts, no signal is lost.

    If it has not ended :data:`GRACE` seconds after one, SIGALRM ends the process.
    """
    with (
        ended_by_alarm() as end_soon,
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
    ):
        async with trio.open_nursery() as nursery:
            stop = Stop(nursery, end_soon)
            nursery.start_soon(stop._listen, signals)
            yield stop
            nursery.cancel_scope.cancel()
