"""The results of a streaming call, as its caller gets them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from lattica.nat.base.errors import LatticaError, RemoteProtocolError, StreamResetError
from lattica.nat.base.foreign_code import settle
from lattica.rpc.client.data import DataLink, error_in, lost, result_of
from lattica.rpc.data_plane.data_stream import DataStream, Message
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.errors import (
    CallCancelledError,
    DeadlineExceededError,
    InternalError,
    RpcError,
    StatusCode,
)
from lattica.rpc.protocol.messages import Kind
from lattica.rpc.telemetry.statistics import MethodCounters

if TYPE_CHECKING:
    from lattica.rpc.client.client import Client
    from lattica.rpc.telemetry.tracing import CallSpan

_NIL: Final = Encoded(b"\xc0")


class ResponseStream:
    """The items that a call yields: an async iterator, for one task at a time.

    The call is made with the first item that is asked for. Its requests are sent as fast as the
    server reads them. Whoever leaves before the end calls :meth:`aclose`, or uses `async with`:
    then the server's handler is cancelled. A caller that reads slowly slows down its server.
    """

    def __init__(
        self,
        client: Client,
        choose: Callable[[], Awaitable[tuple[DataLink, Encoded]]],
        requests: Any,
        deadline: float,
        counters: MethodCounters,
        compression: str | None,
        span: CallSpan | None = None,
    ) -> None:
        self._client = client
        self._choose = choose
        self._compression = compression
        self._link: DataLink | None = None
        self._counters = counters
        self._span = span
        self._start = 0.0
        self._requests = requests
        self._deadline = deadline
        self._data: DataStream | None = None
        self._ended = False
        self._closed = False
        """By the caller."""
        self._sending: trio.CancelScope | None = None
        self._sent = requests is None
        self._request_error: BaseException | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._next()
        if message is None:
            raise StopAsyncIteration
        if message.kind is Kind.END:
            self._finish(message, StatusCode.OK)
            raise StopAsyncIteration
        if message.kind is not Kind.ITEM:
            error = error_in(message, "an item")
            self._finish(message, error.code)
            try:
                raise error
            finally:
                del error  # it leads to this frame
        if message.refusal is not None:
            self._drop()
            raise InternalError(f"an item: {message.refusal}")
        return message.value

    async def result(self) -> Any:
        """The one result of a call whose requests are streamed."""
        message = await self._next()
        try:
            result = result_of(message)
        except RpcError as error:
            self._finish(message, error.code)
            raise
        self._finish(message, StatusCode.OK)
        return result

    async def _next(self) -> Message | None:
        if self._ended:
            await trio.lowlevel.checkpoint()
            return None
        try:
            with trio.CancelScope(deadline=self._deadline):
                if self._data is None:
                    await self._begin()
                data = self._data
                if data is None:
                    return None
                message = await data.receive()
                if message is None:
                    raise RemoteProtocolError("RPC: the stream ended before the call did")
                return message
        except LatticaError as error:
            closed, self._closed = self._closed, True
            self._drop(error.code if isinstance(error, RpcError) else StatusCode.UNAVAILABLE)
            if closed:
                raise CallCancelledError("the iterator was closed") from None
            if self._request_error is not None:
                own, self._request_error = self._request_error, None
                try:
                    raise own from None
                finally:
                    del own  # it leads to this frame
            if isinstance(error, RpcError):
                raise
            raise lost(error) from error
        except BaseException:
            self._drop()
            raise
        self._drop(StatusCode.DEADLINE_EXCEEDED)
        raise DeadlineExceededError("the call did not end in time")

    async def _begin(self) -> None:
        self._counters.active += 1
        self._start = time.perf_counter()
        link, body = await self._choose()
        data = await link.take()
        self._link = link
        if self._ended:  # closed meanwhile
            link.drop(data)
            raise CallCancelledError("the iterator was closed", may_have_run=False)
        self._data = data
        data.compression = self._compression
        with suppress(StreamResetError):  # it may have answered already
            await data.send(Kind.CALL, body)
        if self._requests is not None:
            self._sending = trio.CancelScope()
            self._client.tasks.start_soon(self._send_requests, data, self._sending)

    async def _send_requests(self, data: DataStream, scope: trio.CancelScope) -> None:
        encoder = self._client.encoder
        with scope:
            try:
                async for item in as_async(self._requests):
                    await data.send(Kind.ITEM, encoder.encode(item, "an item of the requests"))
                await data.send(Kind.END, _NIL)
                self._sent = True
            except LatticaError as error:
                if isinstance(error, RpcError):
                    self._request_failed(error)
                # Otherwise the server has no use for more; how it ended is in what it sends.
            except BaseException as error:  # of the caller's iterator: it is for the caller
                settle(error, self._request_failed)

    def _request_failed(self, error: BaseException) -> None:
        """The caller's iterator has failed: so does the call, with its error."""
        self._request_error = error
        if self._data is not None:
            self._data.stream.reset("the iterator of requests failed", code=StatusCode.CANCELLED)

    def _finish(self, message: Message | None, code: StatusCode) -> None:
        """The server has said its last word, or something else than it may."""
        self._count(code)
        self._ended = True
        data, self._data = self._data, None
        if data is None or self._link is None:
            return
        if self._sent and message is not None and message.ends_call and not message.is_last:
            self._link.give_back(data)
        else:
            if self._sending is not None:
                self._sending.cancel()
            self._link.drop(data)

    def _drop(self, code: StatusCode = StatusCode.CANCELLED) -> None:
        self._count(code)
        self._ended = True
        if self._sending is not None:
            self._sending.cancel()
        data, self._data = self._data, None
        if data is not None and self._link is not None:
            self._link.drop(data, code=code)

    def _count(self, code: int) -> None:
        if self._start and not self._ended:
            self._counters.ended(code, time.perf_counter() - self._start)
            if self._span is not None:
                self._span.end(code)

    def close(self) -> None:
        """Give the call up. Idempotent; whoever waits for an item gets CallCancelledError."""
        self._closed = True
        self._drop()

    async def aclose(self) -> None:
        """:meth:`close`, as a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> ResponseStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._data is not None and not self._ended:
            self._client.forgotten(self.close)


async def as_async(items: Any) -> AsyncIterator[Any]:
    """Any iterable's items. Those of one that is not async are taken in the node's thread."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    elif isinstance(items, Iterable):
        for item in items:
            yield item
    else:
        raise TypeError(f"a stream of requests is an iterable, not {type(items).__name__}")
