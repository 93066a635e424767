"""Streams and events for asyncio, and what runs handlers of streams on its loops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import trio

from lattica.facades.closable import Closable, OnlyAsyncWith, OnlyWith
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.capture import captured
from lattica.facades.threads.handoff import StreamCore, StreamHandle
from lattica.facades.threads.iterators import AsyncSubscription, EventsCore
from lattica.nat.base.buffers import AnyBuffer, AnyWritableBuffer, flat_bytes, writable_view
from lattica.nat.base.errors import LocalProtocolError, StreamResetError
from lattica.nat.base.foreign_code import described
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.swarm.serving.handler_kind import require_awaitable

if TYPE_CHECKING:
    from lattica.nat.mux.stream import Stream
    from lattica.nat.swarm.events import SwarmEvent
    from lattica.node import Node

logger = logging.getLogger(__name__)

AsyncHandler = Callable[["AsyncStream"], Awaitable[object]]


class AsyncStream(StreamHandle, OnlyAsyncWith):
    """A bidirectional stream of bytes to a peer, for asyncio.

    As :class:`~lattica.nat.mux.stream.Stream`, and raises the same errors. Tasks may use it at the
    same time: every send is whole, and every receive gets a part of its own. Iterating gives
    chunks up to the end of the stream. `async with` closes it, or resets it when the block
    raises.
    """

    async def send_all(self, data: AnyBuffer, *, timeout: float | None = None) -> None:
        """Send all of `data`, what :meth:`Stream.send_all` takes; do not change it meanwhile.

        Small pieces are taken at once, up to half a MiB, and sent in the background, in order;
        if that fails, the next call raises. What is larger, or does not fit, is sent in one
        crossing, and waits for a peer that does not read. After `TimeoutError` or
        cancellation an unknown part of the data has been sent: reset the stream.
        """
        data = flat_bytes(data)
        if not self._offer(data):
            await self._bridge.acall(self._core.queue.send, data, timeout=timeout)

    async def send_message(self, data: AnyBuffer, *, timeout: float | None = None) -> None:
        """Send `data` with its length, a varint, in front; otherwise as `send_all`."""
        await self.send_all(encode_length_prefixed(flat_bytes(data)), timeout=timeout)

    async def send_eof(self, *, timeout: float | None = None) -> None:
        """End this side's direction; the other one stays open."""
        await self._bridge.acall(self._core.queue.send_eof, timeout=timeout)

    async def receive_some(
        self, max_bytes: int | None = None, *, timeout: float | None = None
    ) -> bytes:
        """What has arrived (waits for the first byte), up to `max_bytes`; b"" at the end.

        Nothing is lost by a timeout or by cancellation.
        """
        data = self._take(max_bytes)
        if data is None:
            data = await self._bridge.acall(
                self._core.receive_some,
                max_bytes,
                timeout=timeout,
                give_back=self._buffer.put_back,
            )
        return data

    async def receive_exactly(self, size: int, *, timeout: float | None = None) -> bytes:
        """Exactly `size` bytes. If it raises, what has arrived can still be received.

        Raises:
            IncompleteReadError: the stream ends before.
        """
        data = self._take_exactly(size)
        if data is None:
            data = await self._bridge.acall(
                self._core.receive_exactly,
                size,
                timeout=timeout,
                give_back=self._buffer.put_back,
            )
        return data

    async def receive_message(self, limit: int, *, timeout: float | None = None) -> bytes:
        """A message as `send_message` sends it, of up to `limit` bytes, without its length.

        Memory is taken only for one that is not longer. If it raises, what has arrived can still
        be received, the length too; so nothing is lost by a timeout or by cancellation.

        Raises:
            RemoteProtocolError: for a longer message or what is no length.
            IncompleteReadError: the stream ends before the message does.
        """
        data = self._take_message(limit)
        if data is None:
            data = await self._bridge.acall(
                self._core.receive_message,
                limit,
                timeout=timeout,
                give_back=self._buffer.put_message_back,
            )
        return data

    async def receive_into(
        self,
        buffer: AnyWritableBuffer,
        *,
        fill: bool = False,
        timeout: float | None = None,
    ) -> int:
        """Receive into the caller's memory, what :meth:`Stream.receive_into` takes; return how many
        bytes, 0 at the end.

        Returns what has arrived; with `fill` waits until the buffer is full (in one crossing,
        however large it is), and then returns less only at the end of the stream. If it raises,
        the buffer's content is undefined, but what has arrived can still be received.
        """
        target, settle = writable_view(buffer)
        count = await self._bridge.acall(
            self._core.receive_into,
            target,
            fill,
            timeout=timeout,
            give_back=self._give_back_from(target),
        )
        if settle is not None:
            settle()
        return count

    async def wait_gone(self, *, timeout: float | None = None) -> None:
        """Wait until nobody receives any more what this side sends; see `Stream.wait_gone`."""
        await self._bridge.acall(self._core.stream.wait_gone, timeout=timeout)

    async def aclose(self, *, timeout: float | None = None) -> None:
        """Close both directions in good order; any number of times, even after the node."""
        if not self._begin_close():
            return
        try:
            await self._bridge.acall(self._core.aclose, timeout=timeout)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.receive_some():
            yield chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            await self.aclose()
        else:
            self.reset()


class AsyncEvents(AsyncSubscription["SwarmEvent"], Closable, OnlyWith):
    """A node's events, one after the other: `async for event in events`.

    It ends when it is closed, by anybody, or the node is. The subscription begins when it is
    made, not when it is first awaited. Events that are not taken are kept as `Node.events` says.
    """

    over = "this subscription to events is closed"

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        core: EventsCore[SwarmEvent] = EventsCore()
        super().__init__(bridge, core, bridge.submit_plain(core.open, node.events))

    def __repr__(self) -> str:
        return f"<AsyncEvents of {self._bridge.name}>"


class HandlerTasks:
    """Runs stream handlers as asyncio tasks on the loops they were registered from."""

    def __init__(self, bridge: Bridge[Any]) -> None:
        self._bridge = bridge
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(
        self, handler: AsyncHandler, loop: asyncio.AbstractEventLoop, stream: Stream
    ) -> None:
        """In the trio thread: have the handler run on its loop, and wait for it.

        If cancelled (the node stops), the task is cancelled, and not waited for.
        """
        if loop.is_closed():
            raise StreamResetError("the asyncio loop of this protocol's handler is closed")
        core = StreamCore(self._bridge, stream)
        work = asyncio.run_coroutine_threadsafe(
            captured(self._run(handler, AsyncStream(core))), loop
        )
        finished = trio.Event()
        work.add_done_callback(lambda _: self._bridge.soon(finished.set))
        with core.handled():
            try:
                await finished.wait()
            except trio.Cancelled:
                work.cancel()
                raise
            try:
                work.result().unwrap()
            except Exception:
                raise
            except BaseException as exc:
                raise RuntimeError(f"the handler raised {described(exc)}") from exc
            await core.queue.flush()

    async def _run(self, handler: AsyncHandler, stream: AsyncStream) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await require_awaitable(handler(stream))
        finally:
            self._tasks.discard(task)

    async def wait(self, grace: float) -> None:
        """Wait up to `grace` seconds for the tasks on this loop, but not for the caller."""
        loop = asyncio.get_running_loop()
        tasks = [
            task
            for task in list(self._tasks)
            if task.get_loop() is loop and task is not asyncio.current_task()
        ]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=grace)
            if pending:
                logger.warning(
                    "%d stream handlers have not returned after cancellation", len(pending)
                )
