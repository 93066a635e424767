"""An in-memory stream and node for tests of the content drivers: no sockets, no swarm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import patch

import trio

from lattica.content.download import finding
from lattica.content.swarm.messages import HOLDINGS
from lattica.errors import (
    ConnectionClosedError,
    LocalProtocolError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.multiaddr import Multiaddr

Handler = Callable[[Any], Awaitable[None]]
SERVER = Identity.generate().peer_id
CLIENT = Identity.generate().peer_id


class _Pipe:
    """One direction, at most `limit` bytes in it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self.changed = trio.Condition()
        self.passed = 0

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class MemoryStream:
    """Behaves as :class:`lattica.nat.mux.stream.Stream` does, as far as content uses it."""

    is_relayed = False
    is_superseded = False

    def __init__(self, outgoing: _Pipe, incoming: _Pipe, peer_id: PeerId) -> None:
        self.outgoing, self.incoming, self.peer_id = outgoing, incoming, peer_id

    async def send_all(self, data: bytes) -> None:
        pipe = self.outgoing
        view = memoryview(data)
        while True:
            async with pipe.changed:
                while pipe.error is None and view and len(pipe.data) >= pipe.limit:
                    await pipe.changed.wait()
                if pipe.error is not None:
                    raise pipe.error
                room = pipe.limit - len(pipe.data)
                pipe.data += view[:room]
                pipe.passed += min(room, len(view))
                view = view[room:]
                pipe.changed.notify_all()
                if not view:
                    return

    async def send_eof(self) -> None:
        self.outgoing.ended = True
        await self.outgoing.notify()

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        pipe = self.incoming
        async with pipe.changed:
            while not pipe.data and not pipe.ended and pipe.error is None:
                await pipe.changed.wait()
            if pipe.error is not None:
                raise pipe.error
            data = bytes(pipe.data[:max_bytes])
            del pipe.data[:max_bytes]
            pipe.changed.notify_all()
            return data

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def fail(self, error: Exception) -> None:
        for pipe in (self.outgoing, self.incoming):
            pipe.error = error
            await pipe.notify()

    async def aclose(self) -> None:
        await self.send_eof()

    def leave_path(self, reason: str) -> None:
        """There is only one path here."""

    async def __aenter__(self) -> MemoryStream:
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with trio.CancelScope(shield=True):
            if error is None:
                await self.aclose()
            else:
                await self.fail(StreamResetError("reset"))


class MemoryNode:
    """Server and client in one: `open_stream` runs the handler in `nursery`."""

    peer_id = SERVER
    addrs = (Multiaddr(f"/ip4/127.0.0.1/tcp/4001/p2p/{SERVER}"),)

    def __init__(self, nursery: trio.Nursery, limit: int = 256 * 1024) -> None:
        self.nursery = nursery
        self.limit = limit
        self.handlers: dict[str, Handler] = {}
        self.owners: dict[str, object] = {}
        self.streams: list[MemoryStream] = []
        self.handler_errors: list[Exception] = []
        self.connect_error: Exception | None = None
        self.on_stream: Callable[[MemoryStream], Awaitable[None]] | None = None

    announcing = ()

    async def wait_announced(self, timeout: float) -> None:
        await trio.lowlevel.checkpoint()

    def peers(self) -> tuple[Any, ...]:
        return ()

    def handle(self, protocol: str, handler: Handler, *, owner: object = None) -> None:
        if self.owners.get(protocol, owner) is not owner:
            raise LocalProtocolError(f"somebody else serves {protocol}")
        self.handlers[protocol] = handler
        self.owners[protocol] = owner

    def unhandle(self, protocol: str, *, owner: object = None) -> None:
        del self.handlers[protocol]
        del self.owners[protocol]

    async def connect(self, target: Any) -> PeerId:
        await trio.lowlevel.checkpoint()
        if self.connect_error is not None:
            raise self.connect_error
        assert [str(address) for address in target] == [str(a) for a in self.addrs]
        return SERVER

    async def open_stream(self, peer: PeerId, protocol: str) -> Any:
        handler = self.handlers.get(protocol)
        # What its one peer has, nobody hears: it has all.
        if handler is None or protocol == HOLDINGS:
            raise UnsupportedProtocolError(peer, [protocol])
        to_server, to_client = _Pipe(self.limit), _Pipe(self.limit)
        self.nursery.start_soon(self._handle, handler, MemoryStream(to_client, to_server, CLIENT))
        stream = MemoryStream(to_server, to_client, SERVER)
        self.streams.append(stream)
        if self.on_stream is not None:
            self.nursery.start_soon(self.on_stream, stream)
        return stream

    async def _handle(self, handler: Handler, stream: MemoryStream) -> None:
        with suppress(Exception):
            async with stream:
                try:
                    await handler(stream)
                except Exception as error:
                    self.handler_errors.append(error)
                    raise

    async def drop_connections(self) -> None:
        for stream in self.streams:
            await stream.fail(ConnectionClosedError("the connection is gone: cut by the test"))


@asynccontextmanager
async def memory_node(limit: int = 256 * 1024):
    # As a client it does not know what it serves: that comes over its streams.
    with patch.object(finding, "served_here", lambda node, cid: None):
        async with trio.open_nursery() as nursery:
            yield MemoryNode(nursery, limit)
            nursery.cancel_scope.cancel()
