"""What calls return: a future, and an iterator of chunks."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from typing import Any, Self

from lattica.compat.calls.arguments import received
from lattica.compat.errors import CompatError, OperationTimeout
from lattica.facades.rpc.blocking import BlockingItems
from lattica.facades.threads.call import Call
from lattica.nat.base.checks import check_timeout
from lattica.nat.base.errors import LatticaError

RESULT_TIMEOUT = 180.0
"""Seconds that :meth:`RpcFuture.result` waits unless it is told otherwise, as in the original."""


class RpcFuture:
    """The result of a call that has been sent. Nobody has to ask for it."""

    def __init__(self, call: Call[Any], message_class: type | None = None) -> None:
        self._call = call
        self._message_class = message_class
        """Of which the result is, as bytes: it is read in the thread of who asks for it."""
        self._message: Any = None

    def result(self, timeout: float | None = RESULT_TIMEOUT) -> Any:
        """Wait for it. Any number of times; each gives the same.

        Raises:
            OperationTimeout: after `timeout` seconds; the call goes on.
            CompatError: it failed.
        """
        seconds = check_timeout(timeout)
        try:
            return self._read(self._call.future.result(None if timeout is None else seconds))
        except concurrent.futures.TimeoutError as error:
            if self._call.future.done():
                raise translated(error) from error
            raise OperationTimeout from None
        except Exception as error:
            raise translated(error) from error

    def done(self) -> bool:
        """Whether the result is there."""
        return self._call.future.done()

    def cancel(self) -> None:
        """Give the call up."""
        self._call.abandon()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        try:
            return self._read(await asyncio.shield(asyncio.wrap_future(self._call.future)))
        except Exception as error:
            raise translated(error) from error

    def _read(self, value: Any) -> Any:
        if self._message_class is None:
            return received(value, None)
        if self._message is None:
            self._message = received(value, self._message_class)
        return self._message


class StreamIterator:
    """The chunks of a streaming call, as they were yielded, in order.

    For any number of threads, each of which gets chunks of its own. Dropping it cancels it.
    """

    def __init__(self, items: BlockingItems) -> None:
        self._items = items

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            return bytes(next(self._items))
        except StopIteration:
            raise
        except Exception as error:
            raise translated(error) from error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await asyncio.to_thread(next, self, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def cancel(self) -> None:
        """Give the call up: whoever waits for a chunk stops. Idempotent."""
        self._items.close()


def translated(error: BaseException) -> BaseException:
    """An error of ours as the original's callers expect it; others as they are."""
    if isinstance(error, CompatError) or not isinstance(error, (LatticaError, TimeoutError)):
        return error
    if isinstance(error, TimeoutError):
        return OperationTimeout()
    return CompatError(str(error))
