"""Services that tests of RPC call."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import trio

from lattica.rpc import CallContext, NotFoundError, method
from tests.support.rpc.types import Inner, Outer, Stranger


class Boom(Exception):
    """An error of a handler's own."""


class Workshop:
    """A method of every kind, and what its handlers have seen."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.ended: list[str] = []
        self.changed = trio.Event()
        self.gate = threading.Event()
        self.left = threading.Event()
        self.entered = 0

    def note(self, what: str) -> None:
        """From the trio thread: something has ended."""
        self.ended.append(what)
        self.changed.set()

    async def until_ended(self, what: str) -> None:
        while what not in self.ended:
            self.changed = trio.Event()
            await self.changed.wait()

    # --- unary ---

    async def shout(self, text: str, times: int = 1) -> str:
        return text.upper() * times

    async def echo(self, value: Any) -> Any:
        return value

    async def count(self, number: int) -> int:
        """Says how often it has run, in all."""
        self.ran.append(number)
        return len(self.ran)

    @method(idempotent=True)
    async def look(self, number: int) -> int:
        self.ran.append(number)
        return len(self.ran)

    async def wait(self, seconds: float) -> str:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.note("wait")
            raise
        return "waited"

    def block(self, number: int) -> int:
        """In a thread, until the gate opens."""
        self.entered += 1
        assert self.gate.wait(60)
        return number

    def watch(self, ctx: CallContext) -> int:
        """In a thread, until nobody waits for the result."""
        self.entered += 1
        while not ctx.cancelled:
            time.sleep(0.001)
        self.left.set()
        return 1

    def watch_streaming(self, ctx: CallContext) -> Iterator[int]:
        yield self.watch(ctx)

    def add(self, a: int, *, b: int) -> int:
        return a + b

    @method(inline=True)
    def quick(self, a: int) -> int:
        return -a

    async def struct(self, outer: Outer) -> Inner:
        return outer.inner

    async def double(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array * 2)

    async def zeros(self, size: int) -> bytes:
        return bytes(size)

    async def who(self, ctx: CallContext, greeting: str = "hello") -> dict[str, Any]:
        return {
            "peer": str(ctx.peer),
            "method": ctx.method,
            "path": ctx.path,
            "remaining": ctx.remaining,
            "metadata": dict(ctx.metadata),
            "cancelled": ctx.cancelled,
            "greeting": greeting,
        }

    # --- failures ---

    async def boom(self) -> None:
        raise Boom("it broke")

    async def missing(self, name: str) -> None:
        raise NotFoundError(f"there is no {name}")

    async def wrong(self) -> int:
        return "not a number"  # type: ignore[return-value]

    async def unsendable(self) -> Any:
        return [object()]

    async def stranger(self) -> Any:
        return Stranger(1)

    # --- streams ---

    async def numbers(self, count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                self.ran.append(number)
                yield number
        finally:
            self.note("numbers")

    def words(self, count: int) -> Iterator[str]:
        try:
            for number in range(count):
                self.ran.append(number)
                yield f"word {number}"
        finally:
            trio.from_thread.run_sync(self.note, "words")

    async def arrays(self, count: int, size: int) -> AsyncIterator[np.ndarray]:
        for number in range(count):
            self.ran.append(number)
            yield np.full(size, number, np.uint8)

    async def breaks(self, after: int) -> AsyncIterator[int]:
        for number in range(after):
            yield number
        raise Boom("in the middle")

    async def total(self, items: AsyncIterator[int], start: int = 0) -> int:
        async for item in items:
            self.ran.append(item)
            start += item
        return start

    def total_blocking(self, items: Iterator[int]) -> int:
        return sum(items)

    async def first(self, items: AsyncIterator[int]) -> int:
        async for item in items:
            return item
        return -1

    async def doubles(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item * 2

    def doubles_blocking(self, items: Iterator[int]) -> Iterator[int]:
        for item in items:
            time.sleep(0)
            yield item * 2
