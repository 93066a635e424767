"""Streams of a call as its handler sees them: what comes in, and what it yields."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import trio

from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import RemoteProtocolError
from lattica.rpc.data_plane.data_stream import DataStream, Message
from lattica.rpc.encoding.annotations import Checker
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.errors import InvalidArgumentError
from lattica.rpc.protocol.messages import Kind
from lattica.rpc.server.threads import NetworkThreads

_END: Final = object()
"""In place of an item: there are no more."""


class RequestStream:
    """The items that a caller streams: an async iterator. For one task at a time."""

    def __init__(self, stream: DataStream, check: Checker | None) -> None:
        self._stream = stream
        self._check = check
        self.ended = False
        """Its end has been read."""
        self.is_broken = False
        """The caller has sent what cannot stand here, or its stream is lost."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self.ended:
            raise StopAsyncIteration
        try:
            message = await self._receive()
        except Exception:
            self.is_broken = True
            raise
        if message.kind is Kind.END:
            self.ended = True
            raise StopAsyncIteration
        try:
            if message.refusal is not None:
                raise message.refusal
            return message.value if self._check is None else self._check(message.value)
        except RefusedValueError as error:
            raise InvalidArgumentError(f"an item of the requests: {error}") from None

    async def _receive(self) -> Message:
        message = await self._stream.receive()
        if message is None:
            raise RemoteProtocolError("RPC: the stream ended before its requests did")
        if message.kind not in (Kind.ITEM, Kind.END):
            raise RemoteProtocolError(f"RPC: {message.kind.name} among the requests of a stream")
        return message


class BlockingRequests:
    """The same for a handler in a thread."""

    def __init__(self, requests: RequestStream) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return trio.from_thread.run(self._requests.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None


class ThreadedIterator:
    """An iterator of a handler that is not async, advanced in threads.

    When the call is given up while the iterator works, it is closed after that step: its `finally`
    runs in any case, and never beside a step.
    """

    def __init__(
        self,
        make: Callable[[], Iterator[Any]],
        threads: NetworkThreads,
        tasks: Tasks,
    ) -> None:
        self._tasks = tasks
        self._make = make
        self._iterator: Iterator[Any] | None = None
        self._threads = threads
        self._lock = threading.Lock()
        self._given_up = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        item = await self._threads.run(self._step)
        if item is _END:
            raise StopAsyncIteration
        return item

    def _step(self) -> Any:
        with self._lock:
            if self._given_up:
                return _END
            try:
                if self._iterator is None:
                    self._iterator = iter(self._make())
                item = next(self._iterator, _END)
            except StopAsyncIteration as error:  # which would pass for the end
                raise RuntimeError("the iterator raised StopAsyncIteration") from error
            if item is _END:
                self._given_up = True
            return item

    def _close(self) -> None:
        with self._lock:
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()

    async def aclose(self) -> None:
        """Have the iterator closed, after the step that is under way; does not wait for that."""
        if not self._given_up:
            self._given_up = True
            self._tasks.start_soon(self._close_in_thread)
        await trio.lowlevel.checkpoint()

    async def _close_in_thread(self) -> None:
        await self._threads.run(self._close)
