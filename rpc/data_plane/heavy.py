"""Work on values of very many parts, which keeps everybody else from the processor meanwhile.

Making a million numbers of the bytes they came in takes tens of milliseconds in which nothing else
runs, in whatever thread. So there is a line for each network, as peers are free
(:mod:`lattica.nat.base.limits.places`): of all messages from there and answers to there that are
large in this sense, one at a time is worked on. Answers go before messages, so that there are few
values that have arrived and wait.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import trio

T = TypeVar("T")

MANY_ITEMS: Final = 8192
"""Parts of a value from which work on it is heavy."""
_LONG: Final = 0.005
"""Seconds of work after which others have the processor for as long."""


class _Line:
    """Those of one network."""

    __slots__ = ("messages", "users", "work")

    def __init__(self) -> None:
        self.users = 0
        self.messages = trio.Lock()
        """At most one message stands in line for the other, and all answers."""
        self.work = trio.Lock()


class HeavyWork:
    """The lines of a node."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}

    @asynccontextmanager
    async def message(self, network: Hashable) -> AsyncIterator[None]:
        """A turn to make a value of a message. Cancellation: gives the place in line up."""
        async with self._line(network) as line, line.messages, line.work:
            yield

    async def answer(self, network: Hashable, encode: Callable[[], T]) -> T:
        """Encode an answer when it is its turn. Raises what `encode` does."""
        async with self._line(network) as line, line.work:
            began = time.thread_time()
            try:
                return encode()
            finally:
                took = time.thread_time() - began
                if took > _LONG:
                    await trio.sleep(took)

    @asynccontextmanager
    async def _line(self, network: Hashable) -> AsyncIterator[_Line]:
        line = self._lines.setdefault(network, _Line())
        line.users += 1
        try:
            yield line
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[network]


def is_heavy(value: Any) -> bool:
    """Whether a value may have more than :data:`MANY_ITEMS` parts; looks at no more of them."""
    left = MANY_ITEMS
    waiting: list[Any] = [value]
    while waiting:
        part = waiting.pop()
        kind = type(part)
        if kind is dict:
            items: Any = part.values()
        elif kind in _CONTAINERS:
            items = part
        else:
            continue
        left -= len(items)
        if left < 0:
            return True
        waiting.extend(items)
    return False


_CONTAINERS: Final = frozenset((list, tuple, set, frozenset))
