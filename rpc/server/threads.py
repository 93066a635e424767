"""Handlers in threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import outcome
import trio

T = TypeVar("T")


async def in_thread(function: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Run a function in a thread. Cancelled, it is left alone there, and what it returns is lost.

    Raises what it does. That comes by a list which is empty then: what trio itself brings from a
    thread stays in a variable of a frame that an exception leads to, and both would wait for the
    collector.
    """
    results: list[outcome.Outcome[T]] = []
    is_wanted = True

    def run() -> None:
        results.append(outcome.capture(function))
        if not is_wanted:
            results.clear()

    try:
        await trio.to_thread.run_sync(run, limiter=limiter, abandon_on_cancel=True)
    except trio.Cancelled:
        is_wanted = False
        results.clear()
        raise
    return results.pop().unwrap()
