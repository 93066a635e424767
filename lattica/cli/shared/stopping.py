"""Commands that go on until SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any, Final

import trio

GRACE: Final = 60.0
"""Seconds after the last signal in which the command ends by itself."""
_Handler = Callable[[int, FrameType | None], Any]


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


@contextmanager
def receive_signals(
    *others: int, drain: Callable[[], float] = lambda: 0.0
) -> Iterator[AsyncIterator[int]]:
    """A block in which SIGINT, SIGTERM and `others` are received and end nothing by themselves.

    If it has not ended `drain()` and :data:`GRACE` seconds after SIGINT or SIGTERM, SIGALRM ends
    the process.
    """
    alarm = signal.getitimer(signal.ITIMER_REAL)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *others) as signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            receive = signal.getsignal(number)
            assert callable(receive)

            def handle(number: int, frame: FrameType | None, receive: _Handler = receive) -> None:
                # Not by who reads the signals: where there is no memory left that task may be
                # gone, or a library's thread for which the end waits. The system's own alarm wants
                # neither memory nor a thread.
                signal.setitimer(signal.ITIMER_REAL, drain() + GRACE)
                receive(number, frame)

            signal.signal(number, handle)
        try:
            yield signals
        finally:
            signal.setitimer(signal.ITIMER_REAL, *alarm)


@asynccontextmanager
async def stopped_by_signals() -> AsyncIterator[Stop]:
    """A block that SIGINT and SIGTERM end. Entered before the node starts, no signal is lost.

    If it has not ended :data:`GRACE` seconds after one, SIGALRM ends the process.
    """
    with receive_signals() as signals:
        async with trio.open_nursery() as nursery:
            stop = Stop(nursery)
            nursery.start_soon(stop._listen, signals)
            yield stop
            nursery.cancel_scope.cancel()
