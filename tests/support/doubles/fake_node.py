"""A node without a network, for tests of the facades that put a node into a thread.

It has the methods of :class:`lattica.node.Node` that the facades call, and is connected to
itself: `open_stream` gives one end of a pair in memory, the handler gets the other. What a peer
is called decides how it behaves: see `FakeNode.connect`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace, TracebackType
from typing import Any

import trio

from lattica.errors import (
    DialAttempt,
    DialError,
    ListenError,
    LocalProtocolError,
    StreamClosedError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.base.limits.places import NOBODY

WINDOW = 64 * 1024
BUILT_IN = "/built-in"
"""A protocol that the node itself serves."""
SHUTDOWN = 1.0

log = logging.getLogger(__name__)


class _Pipe:
    """One direction: a bounded buffer."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.reset = False
        self.changed = trio.Condition()

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class FakeStream:
    source = NOBODY
    progress = (0.0, 0)
    is_awaited = False

    def __init__(self, node: FakeNode, protocol: str, inward: _Pipe, outward: _Pipe) -> None:
        self.node = node
        self.protocol = protocol
        self.peer_id = "self"
        self.id = 1
        self.closed = False
        self._in = inward
        self._out = outward
        self._busy: set[str] = set()

    @contextmanager
    def _alone(self, direction: str) -> Iterator[None]:
        if direction in self._busy:
            raise trio.BusyResourceError(direction)
        self._busy.add(direction)
        try:
            yield
        finally:
            self._busy.discard(direction)

    def _check(self) -> None:
        if self._in.reset or self._out.reset:
            raise StreamResetError("the stream was aborted")
        if self.closed:
            raise StreamClosedError("this side has closed the stream")

    @property
    def is_gone(self) -> bool:
        return self._out.reset

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._alone("send"):
            await trio.lowlevel.checkpoint()
            view = memoryview(data)
            while view:
                self._check()
                if self._out.ended:
                    raise StreamClosedError("this side has ended the stream")
                room = WINDOW - len(self._out.data)
                self._out.data += view[:room]
                view = view[room:]
                await self._out.notify()
                async with self._out.changed:
                    if view and len(self._out.data) >= WINDOW and not self._out.reset:
                        await self._out.changed.wait()

    async def send_eof(self) -> None:
        self._check()
        self._out.ended = True
        await self._out.notify()

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        with self._alone("receive"):
            await trio.lowlevel.checkpoint()
            async with self._in.changed:
                while not self._in.data and not self._in.ended:
                    self._check()
                    await self._in.changed.wait()
            self._check()
            count = min(len(buffer), len(self._in.data))
            memoryview(buffer)[:count] = self._in.data[:count]
            del self._in.data[:count]
        with trio.CancelScope(shield=True):  # what has been taken must not be lost
            await self._in.notify()
        return count

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            self._out.ended = True
            with trio.CancelScope(shield=True):
                await self._out.notify()
                await self._in.notify()

    async def wait_gone(self) -> None:
        async with self._out.changed:
            while not self.is_gone:
                await self._out.changed.wait()

    def reset(self, reason: str = "", code: int = 0) -> None:
        self.node.reset_codes.append(code)
        self._in.reset = self._out.reset = True
        self.node.resets += 1
        self.node.spawn(self._in.notify)
        self.node.spawn(self._out.notify)


class FakeEvents:
    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[object](math.inf)

    def __aiter__(self) -> FakeEvents:
        return self

    async def __anext__(self) -> object:
        return await self.receive.__anext__()


class FakeNode:
    """See the module. `trouble` is what goes wrong: "listen", "opening", "closing"."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble
        self.peer_id = "self"
        self.addrs = ("/memory/self",)
        self.config = SimpleNamespace(
            swarm=SimpleNamespace(timeouts=SimpleNamespace(shutdown=SHUTDOWN))
        )
        self.handlers: dict[str, Callable[[Any], Awaitable[object]]] = {}
        self.log: list[str] = []
        self.failures: list[BaseException] = []
        self.resets = 0
        self.reset_codes: list[int] = []
        self.subscribers: set[FakeEvents] = set()
        self.release = trio.Event()

    def spawn(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        self._nursery.start_soon(fn, *args)

    async def __aenter__(self) -> FakeNode:
        if self.trouble == "listen":
            raise ListenError("the port is in use")
        if self.trouble == "opening":
            await trio.sleep_forever()
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        for events in self.subscribers:
            events.send.close()
        self._nursery.cancel_scope.cancel()
        result = await self._manager.__aexit__(exc_type, exc, traceback)
        if self.trouble == "closing":
            raise OSError("the disk is full")
        return result

    async def connect(self, target: Any, *, timeout: float = math.inf) -> str:
        """By name: "hang" for ever, "fail", "slow", "crash" the node, or "late": come when
        `release` is set, even if cancelled. All others come at once."""
        self.log.append(f"connect {target}")
        with trio.move_on_after(timeout) as scope:
            await self._connect(target)
        if not scope.cancelled_caught:
            return str(target)
        raise TimeoutError(f"no connection to {target} within {timeout:g} s")

    async def _connect(self, target: Any) -> None:
        try:
            if target == "hang":
                await trio.sleep_forever()
            if target == "fail":
                raise DialError("fail", [DialAttempt("/memory/fail", "nobody there")])
            if target == "slow":
                raise trio.TooSlowError
            if target == "crash":
                self.spawn(self._crash)
                await trio.sleep_forever()
            await self._late(target)
            await trio.lowlevel.checkpoint()
            for events in self.subscribers:
                events.send.send_nowait(f"connected {target}")
        except trio.Cancelled:
            self.log.append(f"cancelled {target}")
            raise

    async def _late(self, target: object) -> None:
        if target == "late":
            with trio.CancelScope(shield=True):
                await self.release.wait()

    async def _crash(self) -> None:
        raise ZeroDivisionError("a bug in the node")

    async def wait_connected(self, peer: Any, timeout: float = math.inf) -> None:
        await self.connect(peer, timeout=timeout)

    async def wait_announced(self, timeout: float = 10.0) -> None:
        self.log.append(f"announced {timeout}")

    async def wait_reachable(self, timeout: float = math.inf) -> None:
        self.log.append(f"reachable {timeout}")
        await trio.sleep(timeout)
        raise TimeoutError(f"no relay within {timeout:g} s")

    def path(self, peer: object) -> str | None:
        return "direct-memory" if peer == "self" else None

    async def disconnect(self, peer: object) -> None:
        await trio.lowlevel.checkpoint()

    async def open_stream(
        self, peer: object, protocol: str | Sequence[str], *, timeout: float = math.inf
    ) -> FakeStream:
        await trio.lowlevel.checkpoint()
        if protocol not in self.handlers:
            raise UnsupportedProtocolError(peer, [str(protocol)])
        await self._late(peer)
        one, other = _Pipe(), _Pipe()
        self.spawn(self._handle, str(protocol), FakeStream(self, str(protocol), one, other))
        return FakeStream(self, str(protocol), other, one)

    async def _handle(self, protocol: str, stream: FakeStream) -> None:
        try:
            await self.handlers[protocol](stream)
        except Exception as exc:
            self.failures.append(exc)
            stream.reset()
        else:
            await stream.aclose()

    def handle(
        self,
        protocol: str,
        handler: Callable[[Any], Awaitable[object]],
        *,
        replace: bool = False,
        cancel_when_gone: bool = False,
        limit: int | None = None,
    ) -> None:
        if not protocol.startswith("/"):
            raise ValueError("a protocol begins with /")
        if protocol == BUILT_IN and not replace:
            raise LocalProtocolError(f"{protocol} is served by the node")
        self.handlers[protocol] = handler

    def unhandle(self, protocol: str) -> None:
        del self.handlers[protocol]

    @contextmanager
    def events(self) -> Iterator[FakeEvents]:
        events = FakeEvents()
        self.subscribers.add(events)
        try:
            yield events
        finally:
            self.subscribers.discard(events)
            events.send.close()

    def peers(self) -> tuple[str, ...]:
        return ("self",)

    def is_connected(self, peer: object) -> bool:
        return peer == "self"

    def add_address(self, peer: object, address: object) -> None:
        self.log.append(f"address {peer} {address}")
