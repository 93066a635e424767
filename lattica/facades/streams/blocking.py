"""Streams and events for threads."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lattica.facades.closable import OnlyWith
from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.handoff import StreamHandle
from lattica.facades.threads.iterators import BlockingSubscription, EventsCore
from lattica.nat.base.buffers import AnyBuffer, AnyWritableBuffer, flat_bytes, writable_view
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.wire import encode_length_prefixed

if TYPE_CHECKING:
    from lattica.nat.swarm.events import SwarmEvent
    from lattica.node import Node


class BlockingStream(StreamHandle, OnlyWith):
    """A bidirectional stream of bytes to a peer, for threads.

    As :class:`~lattica.nat.mux.stream.Stream`, and raises the same errors. Threads may use it at
    the same time: every send is whole, and every receive gets a part of its own. Iterating
    gives chunks up to the end of the stream. `with` closes it, or resets it when the block
    raises.
    """

    def send_all(self, data: AnyBuffer, *, timeout: float | None = None) -> None:
        """Send all of `data`, what :meth:`Stream.send_all` takes; do not change it meanwhile.

        Small pieces are taken at once, up to half a MiB, and sent in the background, in order;
        if that fails, the next call raises. What is larger, or does not fit, is sent in one
        crossing, and waits for a peer that does not read. After `TimeoutError` or
        `KeyboardInterrupt` an unknown part of the data has been sent: reset the stream.
        """
        data = flat_bytes(data)
        if not self._offer(data):
            self._bridge.call(self._core.queue.send, data, timeout=timeout)

    def send_message(self, data: AnyBuffer, *, timeout: float | None = None) -> None:
        """Send `data` with its length, a varint, in front; otherwise as `send_all`."""
        self.send_all(encode_length_prefixed(flat_bytes(data)), timeout=timeout)

    def send_eof(self, *, timeout: float | None = None) -> None:
        """End this side's direction; the other one stays open."""
        self._bridge.call(self._core.queue.send_eof, timeout=timeout)

    def receive_some(self, max_bytes: int | None = None, *, timeout: float | None = None) -> bytes:
        """What has arrived (waits for the first byte), up to `max_bytes`; b"" at the end."""
        data = self._take(max_bytes)
        if data is None:
            data = self._bridge.call(
                self._core.receive_some,
                max_bytes,
                timeout=timeout,
                give_back=self._buffer.put_back,
            )
        return data

    def receive_exactly(self, size: int, *, timeout: float | None = None) -> bytes:
        """Exactly `size` bytes. If it raises, what has arrived can still be received.

        Raises:
            IncompleteReadError: the stream ends before.
        """
        data = self._take_exactly(size)
        if data is None:
            data = self._bridge.call(
                self._core.receive_exactly,
                size,
                timeout=timeout,
                give_back=self._buffer.put_back,
            )
        return data

    def receive_message(self, limit: int, *, timeout: float | None = None) -> bytes:
        """A message as `send_message` sends it, of up to `limit` bytes, without its length.

        Memory is taken only for one that is not longer. If it raises, what has arrived can still
        be received, the length too; so nothing is lost by a timeout or by `KeyboardInterrupt`.

        Raises:
            RemoteProtocolError: for a longer message or what is no length.
            IncompleteReadError: the stream ends before the message does.
        """
        data = self._take_message(limit)
        if data is None:
            data = self._bridge.call(
                self._core.receive_message,
                limit,
                timeout=timeout,
                give_back=self._buffer.put_message_back,
            )
        return data

    def receive_into(
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
        count = self._bridge.call(
            self._core.receive_into,
            target,
            fill,
            timeout=timeout,
            give_back=self._give_back_from(target),
        )
        if settle is not None:
            settle()
        return count

    def wait_gone(self, *, timeout: float | None = None) -> None:
        """Wait until nobody receives any more what this side sends; see `Stream.wait_gone`."""
        self._bridge.call(self._core.stream.wait_gone, timeout=timeout)

    def close(self, *, timeout: float | None = None) -> None:
        """Close both directions in good order; any number of times, even after the node."""
        if not self._begin_close():
            return
        try:
            self._bridge.call(self._core.aclose, timeout=timeout)
        except LocalProtocolError:
            if not self._bridge.closing:
                raise

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.receive_some():
            yield chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.close()
        else:
            self.reset()


class BlockingEvents(BlockingSubscription["SwarmEvent"]):
    """A node's events, one after the other, as a blocking iterator.

    It ends when it is closed, by any thread, or the node is. Events that are not taken are
    kept as `Node.events` says.
    """

    over = "this subscription to events is closed"

    def __init__(self, bridge: Bridge[Any], node: Node) -> None:
        core: EventsCore[SwarmEvent] = EventsCore()
        super().__init__(bridge, core)
        bridge.call_plain(core.open, node.events)

    def __repr__(self) -> str:
        return f"<BlockingEvents of {self._bridge.name}>"
