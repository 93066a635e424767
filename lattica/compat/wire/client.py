"""Calls of services at nodes of the original, by its own protocols."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from lattica.compat.errors import CompatError
from lattica.compat.wire.messages import (
    MAX_BODY,
    MAX_UNARY,
    STREAM,
    UNARY,
    Close,
    Failure,
    Part,
    Request,
    Response,
    decode_message,
    encode_message,
)
from lattica.compat.wire.streams import (
    Held,
    receive_frame,
    receive_to_end,
    send_body,
    send_frame,
)
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host
from lattica.rpc.data_plane.budget import ReceiveBudget

_MAX_STREAMS: Final = 256
"""Calls over streams to one peer at a time; further ones wait."""
_MAX_IDLE: Final = 8
_AHEAD: Final = 16
"""Items of a stream that are kept for a reader who takes his time; then the peer waits."""


class OriginalClient:
    """Calls services of the original's nodes. For the trio thread only.

    A call is made once. Each one over a stream has the stream to itself, so that a slow reader
    holds up nothing else; streams are used again, as the original never lets go of any.

    All calls raise CompatError with the remote reason, and what :meth:`Host.open_stream` raises.
    """

    def __init__(self, host: Host, tasks: Tasks, budget: ReceiveBudget) -> None:
        self._host = host
        self._tasks = tasks
        self._budget = budget
        self._peers: dict[PeerId, _Streams] = {}

    async def unary(self, peer: PeerId, method: str, data: bytes) -> bytes:
        """Call a method that is marked by `rpc_method`. Cancelled, the peer goes on."""
        with Held(self._budget, peer) as held, _reasons():
            stream = await self._host.open_stream(peer, UNARY)
            async with stream:
                await stream.send_all(encode_message(Request(_new_id(), method, data)))
                await stream.send_eof()
                answer = decode_message(await receive_to_end(stream, MAX_UNARY, held))
            if isinstance(answer, Failure):
                raise CompatError(answer.error)
            if not isinstance(answer, Response):
                raise CompatError("the peer has answered a call with a call")
            return bytes(answer.data)

    async def streamed(self, peer: PeerId, method: str, data: bytes) -> bytes:
        """Call a method that is marked by `rpc_stream`. Cancelled, the peer goes on."""
        parts: list[bytes] = []
        size = 0
        with Held(self._budget, peer) as held, _reasons():
            async with self._call(peer, method, data) as (call, stream):
                while True:
                    frame = await _next_frame(stream, call, held)
                    if isinstance(frame, Close):
                        return b"".join(parts)
                    size += len(frame.data)
                    if size > MAX_BODY:
                        raise CompatError(f"the result has more than {MAX_BODY} bytes")
                    parts.append(bytes(frame.data))

    def items(self, peer: PeerId, method: str, data: bytes) -> ItemStream:
        """Call a method that is marked by `rpc_stream_iter`."""
        return ItemStream(self, peer, method, data, self._tasks)

    @asynccontextmanager
    async def _call(
        self, peer: PeerId, method: str, data: bytes
    ) -> AsyncIterator[tuple[str, Stream]]:
        """A call on a stream of its own, which it returns in good order or ends."""
        streams = self._peers.setdefault(peer, _Streams())
        streams.users += 1
        stream: Stream | None = None
        call = _new_id()
        try:
            async with streams.places:
                stream = await streams.take(self._host, peer)
                await send_frame(stream, Request(call, method))
                await send_body(stream, call, data)
                yield call, stream
            if len(streams.idle) < _MAX_IDLE:
                streams.idle.append(stream)
            else:
                stream.close()
        except BaseException:
            if stream is not None:
                # Without a Cancel before it: of 25 that the original is sent while it has more to
                # send than is taken, one finds it holding Python's lock, which it never gives up.
                stream.close(stop_peer=True)
            raise
        finally:
            streams.users -= 1
            if not streams.users and not streams.idle:
                self._peers.pop(peer, None)

    def forget(self, peer: PeerId) -> None:
        """It is not connected any more."""
        streams = self._peers.get(peer)
        if streams is not None:
            streams.idle.clear()
            if not streams.users:
                del self._peers[peer]

    async def _items(
        self,
        peer: PeerId,
        method: str,
        data: bytes,
        channel: trio.MemorySendChannel[bytes],
    ) -> None:
        with _reasons():
            async with self._call(peer, method, data) as (call, stream):
                while True:
                    with Held(self._budget, peer) as held:
                        frame = await _next_frame(stream, call, held)
                        if isinstance(frame, Close):
                            return
                        await channel.send(bytes(frame.data))


class _Streams:
    """The streams to one peer."""

    def __init__(self) -> None:
        self.users = 0
        self.idle: list[Stream] = []
        self.places = trio.CapacityLimiter(_MAX_STREAMS)
        self._opening = trio.Lock()

    async def take(self, host: Host, peer: PeerId) -> Stream:
        while self.idle:
            stream = self.idle.pop()
            if not stream.is_gone and not stream.is_superseded:
                return stream
            stream.close()
        # The original drops streams that come while it has not looked at the one before.
        async with self._opening:
            return await host.open_stream(peer, STREAM)


class ItemStream:
    """The items of a call: an async iterator. The call is sent at once."""

    def __init__(
        self, client: OriginalClient, peer: PeerId, method: str, data: bytes, tasks: Tasks
    ) -> None:
        self._client = client
        self._call = peer, method, data
        self._scope = trio.CancelScope()
        self._error: Exception | None = None
        self._send, self._receive = trio.open_memory_channel[bytes](_AHEAD)
        tasks.start_soon(self._run)

    async def _run(self) -> None:
        with self._send, self._scope:
            try:
                await self._client._items(*self._call, self._send)
            except (LatticaError, TimeoutError) as error:
                self._error = error

    def __aiter__(self) -> ItemStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Give the call up: the peer is told, and whoever waits gets the end. Idempotent."""
        self._scope.cancel()


@contextmanager
def _reasons() -> Iterator[None]:
    """What a call can end with, as errors that say so."""
    try:
        yield
    except trio.TooSlowError as error:
        raise CompatError("the peer has not sent the rest of its answer") from error


async def _next_frame(stream: Stream, call: str, held: Held) -> Part | Close:
    """The next frame of the call that the stream is for; a failure is raised."""
    while True:
        frame = await receive_frame(stream, held)
        if frame is None:
            raise CompatError("the peer has ended the call, which may have run")
        if frame.id != call:
            continue
        if isinstance(frame, Failure):
            raise CompatError(frame.error)
        if isinstance(frame, (Part, Close)):
            return frame


def _new_id() -> str:
    return str(uuid.uuid4())
