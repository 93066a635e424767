"""Commands that go on until SIGINT, SIGTERM or SIGHUP."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
    *others: int,
    ending: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
    drain: Callable[[], float] = lambda: 0.0,
) -> Iterator[AsyncIterator[int]]:
    """A block in which the `ending` signals and `others` are received, and end nothing themselves.

    If it has not ended `drain()` and :data:`GRACE` seconds after an ending one, SIGALRM ends the
    process.
    """
    alarm = signal.getitimer(signal.ITIMER_REAL)
    with trio.open_signal_receiver(*ending, *others) as signals:
        for number in ending:
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
    """A block that SIGINT and SIGTERM end, and SIGHUP, which says that the terminal is gone, unless
    it is ignored, as by nohup. Entered before the node starts, no signal is lost.

    If it has not ended :data:`GRACE` seconds after one, SIGALRM ends the process.
    """
    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    with receive_signals(ending=ending) as signals:
        async with trio.open_nursery() as nursery:
            stop = Stop(nursery)
            nursery.start_soon(stop._listen, signals)
            yield stop
            nursery.cancel_scope.cancel()
