"""A stream of the data plane: messages of :mod:`lattica.rpc.protocol.messages` over trio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from lattica.nat.base.errors import IncompleteReadError, RemoteProtocolError
from lattica.nat.mux.stream import Stream
from lattica.rpc.budget import ReceiveBudget
from lattica.rpc.config import CONTROL_BODY, RpcConfig
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.compression import IN_THREAD, MANY_BUFFERS, WORTH, Compressed, compress
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.encoding.memory import allocate
from lattica.rpc.protocol.messages import Kind, Prefix, decode_prefix, encode_message

_JOINED = 16 * 1024
"""Bytes up to which the parts of a message are copied together rather than sent one by one."""
_SKELETON_COST = 16
"""Bytes that a byte of a large skeleton counts for: what is made of it is larger than it is."""
_MAX_PREFIX = 1024 * 1024


@dataclass(slots=True)
class Message:
    """A message that has arrived, whole."""

    kind: Kind
    value: Any
    refusal: RefusedValueError | None
    is_last: bool
    """The peer takes no further call on the stream."""


class DataStream:
    """Sends and receives messages; one task may do the one while another does the other.

    Memory for a large message is asked of the budget before it is taken, and given back when the
    next one is received, or by :meth:`release`.
    """

    def __init__(
        self, stream: Stream, decoder: Decoder, budget: ReceiveBudget, config: RpcConfig
    ) -> None:
        self.stream = stream
        self.compression: str | None = None
        """How what is sent is compressed, if that makes it smaller."""
        self._decoder = decoder
        self._budget = budget
        self._config = config
        self._reserved = 0
        self.bytes_received = 0
        self.bytes_sent = 0

    # --- sending ---

    async def send(self, kind: Kind, body: Encoded, *, is_last: bool = False) -> None:
        """Send a message; waits while the peer does not read. Cancelled, the stream is of no
        use.
        """
        is_compressed = False
        if self.compression is not None and body.size >= WORTH:
            smaller = await self._compressed(body, self.compression)
            if smaller is not None:
                body, is_compressed = smaller, True
        head = encode_message(kind, body, is_last=is_last, is_compressed=is_compressed)
        stream = self.stream
        self.bytes_sent += len(head)
        if not body.buffers:
            await stream.send_all(head)
            return
        small = 0
        parts: list[Any] = [head]
        for buffer in body.buffers:
            self.bytes_sent += len(buffer)
            if small + len(buffer) <= _JOINED:
                small += len(buffer)
                parts.append(buffer)
                continue
            stream.send_nowait(b"".join(parts))
            parts, small = [], 0
            await stream.send_all(buffer)
        if parts:
            await stream.send_all(b"".join(parts))

    async def _compressed(self, body: Encoded, algorithm: str) -> Encoded | None:
        if body.size <= IN_THREAD and len(body.buffers) <= MANY_BUFFERS:
            return compress(body, algorithm)
        return await trio.to_thread.run_sync(compress, body, algorithm)

    async def send_raw(self, message: bytes) -> None:
        """Send a message that is encoded."""
        self.bytes_sent += len(message)
        await self.stream.send_all(message)

    # --- receiving ---

    async def receive(self, out: Sequence[memoryview] = ()) -> Message | None:
        """The next message; None at the end of the stream. Buffers go into `out`, if that fits.

        Raises:
            RemoteProtocolError: the peer breaks the protocol.
            ResourceExhaustedError: the message exceeds the budget; the stream is of no use.
        """
        self.release()
        prefix, is_last = await self._receive_prefix() or (None, False)
        if prefix is None:
            return None
        size = prefix.size
        self.bytes_received += size
        if size > CONTROL_BODY:
            size += (_SKELETON_COST - 1) * prefix.skeleton
            self._budget.reserve(self.stream.peer_id, size)
            self._reserved = size
        skeleton = await self.stream.receive_exactly(prefix.skeleton)
        if prefix.is_compressed:
            return await self._receive_compressed(prefix, skeleton, is_last)
        places = self._places(prefix, out)
        buffers = [
            await self._receive_buffer(each >> 1, bool(each & 1), place)
            for each, place in zip(prefix.buffers, places, strict=True)
        ]
        value, refusal = self._decoder.decode_partly(skeleton, buffers)
        return Message(prefix.kind, value, refusal, is_last)

    async def _receive_compressed(self, prefix: Prefix, skeleton: bytes, is_last: bool) -> Message:
        sizes = tuple(each >> 1 for each in prefix.buffers)
        packed = Compressed(skeleton, sizes)
        cost = packed.size + (_SKELETON_COST - 1) * packed.skeleton
        self._budget.reserve(self.stream.peer_id, cost)
        self._reserved += cost
        received = [await self.stream.receive_exactly(size) for size in sizes]
        if packed.size <= IN_THREAD and len(sizes) <= MANY_BUFFERS:
            plain, buffers = packed.unpack(received)
        else:
            plain, buffers = await trio.to_thread.run_sync(packed.unpack, received)
        value, refusal = self._decoder.decode_partly(plain, buffers)
        return Message(prefix.kind, value, refusal, is_last)

    async def _receive_prefix(self) -> tuple[Prefix, bool] | None:
        stream = self.stream
        data = b""
        while True:
            view = await stream.receive_view()
            if not view:
                if data:
                    raise IncompleteReadError("the stream ended inside a message of RPC")
                return None
            # Nearly always all of it is in the first piece.
            gathered: bytes | memoryview = data + bytes(view) if data else view
            found = decode_prefix(gathered, self._config.max_skeleton)
            if found is not None:
                prefix, is_last, end = found
                stream.push_back(gathered[end:])
                return prefix, is_last
            if len(gathered) > _MAX_PREFIX:
                raise RemoteProtocolError("RPC: the prefix of a message does not end")
            data = bytes(gathered)

    def _places(self, prefix: Prefix, out: Sequence[memoryview]) -> Sequence[memoryview | None]:
        """Where each buffer goes: the caller's memory if the sizes are right, or None."""
        writable = [each >> 1 for each in prefix.buffers if not each & 1]
        if prefix.kind is not Kind.RESULT or writable != [len(each) for each in out]:
            return [None] * len(prefix.buffers)
        given = iter(out)
        return [None if each & 1 else next(given) for each in prefix.buffers]

    async def _receive_buffer(
        self, size: int, immutable: bool, place: memoryview | None
    ) -> bytes | memoryview:
        if immutable:
            return await self.stream.receive_exactly(size)
        memory = allocate(size) if place is None else place
        filled = 0
        while filled < size:
            received = await self.stream.receive_into(memory[filled:])
            if not received:
                raise IncompleteReadError("the stream ended inside a message of RPC")
            filled += received
        return memory

    def release(self) -> None:
        """Give back the memory of the last message to the budget. Idempotent."""
        if self._reserved:
            self._budget.release(self.stream.peer_id, self._reserved)
            self._reserved = 0
