"""What the iterators of the facades do alike: they give items until there are no more, or the node
is closed."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator as TrioIterator
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import trio

from lattica.facades.closable import Closable, OnlyWith
from lattica.facades.threads.bridge import Bridge
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess

T = TypeVar("T")


class ItemsCore(Protocol[T]):
    """Where the items come from; every method is run in the trio thread."""

    async def receive(self) -> T | None:
        """The next item; None when there will be no more."""
        ...

    def put_back(self, item: T | None, /) -> None:
        """Take back an item that came to nobody."""
        ...

    def close(self) -> None:
        """No more items; whoever waits for one gets None."""
        ...


class EventsCore(Generic[T]):
    """A subscription to events; every method is run in the trio thread."""

    def __init__(self) -> None:
        self._manager: AbstractContextManager[TrioIterator[T]] | None = None
        self._events: TrioIterator[T] | None = None
        self._scope: trio.CancelScope | None = None
        self._returned: deque[T] = deque()
        self._lock = trio.Lock()

    def open(self, subscribe: Callable[[], AbstractContextManager[TrioIterator[T]]]) -> None:
        """Events from now on are kept for this subscription."""
        self._manager = subscribe()
        self._events = self._manager.__enter__()

    async def receive(self) -> T | None:
        """The next event; None when there will be no more."""
        async with self._lock:
            if self._returned:
                return self._returned.popleft()
            event = None
            if self._events is not None:
                with trio.CancelScope() as self._scope:
                    event = await anext(self._events, None)
            return event

    def put_back(self, event: T | None) -> None:
        """Take back an event that came to nobody."""
        if event is not None:
            self._returned.appendleft(event)

    def close(self) -> None:
        """No more events; whoever waits for one gets None."""
        manager, self._manager, self._events = self._manager, None, None
        self._returned.clear()
        if self._scope is not None:
            self._scope.cancel()
        if manager is not None:
            manager.__exit__(None, None, None)


class BlockingIterator(Closable, InProcess, Generic[T], OnlyWith):
    """An iterator whose next item may have to be waited for. `with` closes it."""

    over: ClassVar[str] = "this subscription is closed"

    def __init__(self, bridge: Bridge[Any]) -> None:
        self._bridge = bridge

    def _next(self, timeout: float | None) -> T | None:
        raise NotImplementedError

    def receive(self, *, timeout: float | None = None) -> T:
        """The next item.

        Raises:
            TimeoutError: after `timeout` seconds.
            LocalProtocolError: after the end.
        """
        item = self._next(timeout)
        if item is None:
            raise LocalProtocolError(self.over)
        return item

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            item = self._next(None)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise
            item = None
        if item is None:
            raise StopIteration
        return item


class BlockingSubscription(BlockingIterator[T]):
    """The items of a core, which is closed with it."""

    def __init__(self, bridge: Bridge[Any], core: ItemsCore[T]) -> None:
        super().__init__(bridge)
        self._core = core

    def close(self) -> None:
        """End the subscription; any number of times. Whoever waits for an item stops."""
        self._bridge.soon(self._core.close)

    def _next(self, timeout: float | None) -> T | None:
        return self._bridge.call(self._core.receive, timeout=timeout, give_back=self._core.put_back)


class AsyncIterator(InProcess, Generic[T]):
    """:class:`BlockingIterator`, for asyncio."""

    over: ClassVar[str] = "this subscription is closed"

    def __init__(self, bridge: Bridge[Any]) -> None:
        self._bridge = bridge

    async def _next(self, timeout: float | None) -> T | None:
        raise NotImplementedError

    async def receive(self, *, timeout: float | None = None) -> T:
        """The next item.

        Raises:
            TimeoutError: after `timeout` seconds.
            LocalProtocolError: after the end.
        """
        item = await self._next(timeout)
        if item is None:
            raise LocalProtocolError(self.over)
        return item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            item = await self._next(None)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise
            item = None
        if item is None:
            raise StopAsyncIteration
        return item


class AsyncSubscription(AsyncIterator[T]):
    """:class:`BlockingSubscription`, for asyncio.

    `opened` says whether the subscription could be made, where it is made without waiting.
    """

    def __init__(
        self, bridge: Bridge[Any], core: ItemsCore[T], opened: Future[None] | None = None
    ) -> None:
        super().__init__(bridge)
        self._core = core
        self._opened = opened

    def close(self) -> None:
        """End the subscription; any number of times. Whoever waits for an item stops."""
        self._bridge.soon(self._core.close)

    async def _next(self, timeout: float | None) -> T | None:
        item = await self._bridge.acall(
            self._core.receive, timeout=timeout, give_back=self._core.put_back
        )
        if item is None and self._opened is not None:
            self._opened.result()  # raises if the subscription could not be made
        return item
