"""What the channels of both facades do alike: a publisher or a subscriber in a task of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from lattica.content.weights.options import WeightVersion
from lattica.content.weights.subscriber import WeightSubscriber
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import LocalProtocolError

if TYPE_CHECKING:
    from lattica.node import Node

T = TypeVar("T")
CLOSED = "this channel of weights is closed"


class Held(Generic[T]):
    """Holds an async context manager open; made in any thread, and then used in trio's.

    `make` makes it. It is entered and left in one task, which ends with the node at the latest.
    """

    def __init__(self, node: Node, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._node = node
        self._make = make
        self._entered = trio.Event()
        self._leaving = trio.Event()
        self._left = trio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    async def open(self) -> None:
        """Enter it. Raises what that raises."""
        self._node.topics.start_soon(self._run)
        try:
            await self._entered.wait()
        except trio.Cancelled:
            self._leaving.set()
            raise
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            with single_error():
                async with self._make() as self._value:
                    self._entered.set()
                    await self._leaving.wait()
        except Exception as error:
            self._error = error
        finally:
            self._value = None
            self._entered.set()
            self._left.set()

    @property
    def value(self) -> T:
        """What was entered.

        Raises:
            LocalProtocolError: it is closed. Or the error that has ended it.
        """
        if self._error is not None:
            raise self._error
        if self._value is None:
            raise LocalProtocolError(CLOSED)
        return self._value

    async def aclose(self) -> None:
        """Leave it; any number of times."""
        self._leaving.set()
        await self._left.wait()


class VersionsCore:
    """The versions of a subscriber, as an iterator of the facades takes them."""

    def __init__(self, held: Held[WeightSubscriber]) -> None:
        self._held = held
        self._returned: deque[WeightVersion] = deque(maxlen=1)

    async def receive(self) -> WeightVersion | None:
        """The newest version that was not given out yet; None when there will be no more."""
        if self._returned:
            return self._returned.popleft()
        return await anext(self._held.value, None)

    async def wait(self, after: int) -> WeightVersion:
        return await self._held.value.wait(after)

    def newest(self) -> WeightVersion | None:
        return self._held.value.newest

    def put_back(self, version: WeightVersion | None) -> None:
        """Take back what came to nobody."""
        if version is not None:
            self._returned.append(version)
