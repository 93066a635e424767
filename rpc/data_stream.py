"""A stream of the data plane: messages of :mod:`lattica.rpc.protocol.messages` over trio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trio

from lattica.nat.base.errors import IncompleteReadError
from lattica.nat.mux.stream import Stream
from lattica.rpc.budget import ReceiveBudget
from lattica.rpc.config import CONTROL_BODY, RpcConfig
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.compression import IN_THREAD, MANY_BUFFERS, WORTH, Compressed, compress
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.encoding.items import MAX_ITEMS, most_items
from lattica.rpc.encoding.memory import allocate
from lattica.rpc.errors import ResourceExhaustedError
from lattica.rpc.protocol.messages import Kind, Prefix, PrefixReader, encode_message
from lattica.rpc.statistics import Traffic

_JOINED = 16 * 1024
"""Bytes up to which the parts of a message are copied together rather than sent one by one."""
_SKELETON_COST = 24
"""Bytes that a byte of a large skeleton counts for: what is made of it is larger than it is."""
_ITEM_COST = 128
"""Bytes that a list, dict or special value counts for besides."""
_STEP = 1024 * 1024
"""Bytes of a body for which memory is reserved at a time, as they arrive."""
BODY_STALL = 60.0
"""Seconds for a part of a body of at most :data:`_STEP` bytes, after which it is given up."""
_MANY_ITEMS = 8192
"""Of these in a skeleton, from which it is decoded in a thread."""


@dataclass(slots=True)
class Message:
    """A message that has arrived, whole."""

    kind: Kind
    value: Any
    refusal: RefusedValueError | None
    is_last: bool
    """The peer takes no further call on the stream."""
    is_admitted: bool = False
    """Its head has been looked at before anything was made of the rest."""


class DataStream:
    """Sends and receives messages; one task may do the one while another does the other.

    Memory for a message is asked of the budget as it arrives, and given back when the next one is
    received, or by :meth:`release`: who only says that much will come keeps nobody else out.
    """

    def __init__(
        self,
        stream: Stream,
        decoder: Decoder,
        budget: ReceiveBudget,
        config: RpcConfig,
        traffic: Traffic,
    ) -> None:
        self.stream = stream
        self.compression: str | None = None
        """How what is sent is compressed, if that makes it smaller."""
        self._decoder = decoder
        self._budget = budget
        self._config = config
        self._reserved = 0
        self._prefixes = PrefixReader()
        self._traffic = traffic

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
        self._traffic.sent += len(head)
        if not body.buffers:
            await stream.send_all(head)
            return
        small = 0
        parts: list[Any] = [head]
        for buffer in body.buffers:
            self._traffic.sent += len(buffer)
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
        self._traffic.sent += len(message)
        await self.stream.send_all(message)

    # --- receiving ---

    async def receive(
        self,
        out: Sequence[memoryview] = (),
        admit: Callable[[bytes], None] | None = None,
    ) -> Message | None:
        """The next message; None at the end of the stream. Buffers go into `out`, if that fits.

        Args:
            out: memory for the buffers of a result.
            admit: gets the skeleton of a CALL that is large, before its buffers are received and
                anything is made of it; what it raises, this does.

        Raises:
            RemoteProtocolError: the peer breaks the protocol.
            ResourceExhaustedError: the message exceeds a limit or the budget; the stream is of no
                use.
        """
        self.release()
        prefix, is_last = await self._receive_prefix() or (None, False)
        if prefix is None:
            return None
        size = prefix.size
        self._traffic.received += size
        self._check_skeleton(prefix.skeleton)
        is_large = size > CONTROL_BODY
        if is_large:
            self._budget.check(self.stream.peer_id, size)
            skeleton = await self._receive_bytes(prefix.skeleton)
        else:  # soon done, and often
            skeleton = await self.stream.receive_exactly(prefix.skeleton)
        if prefix.kind is not Kind.CALL or not (is_large or prefix.is_compressed):
            admit = None
        if prefix.is_compressed:
            skeleton, buffers = await self._receive_compressed(prefix, skeleton)
            if admit is not None:
                admit(skeleton)
        else:
            if admit is not None:
                admit(skeleton)
            places = self._places(prefix, out)
            buffers = [
                await self._receive_buffer(each >> 1, bool(each & 1), place)
                for each, place in zip(prefix.buffers, places, strict=True)
            ]
        value, refusal = await self._decode(skeleton, buffers)
        return Message(prefix.kind, value, refusal, is_last, admit is not None)

    def _check_skeleton(self, size: int) -> None:
        limit = self._config.max_skeleton
        if size > limit:
            raise ResourceExhaustedError(
                f"a message has {size} bytes of lists, dicts, numbers and texts, where the "
                f"receiver's rpc.max_skeleton is {limit}; arrays and bytes do not count",
                may_have_run=False,
            )

    def _reserve(self, size: int) -> None:
        self._budget.reserve(self.stream.peer_id, size)
        self._reserved += size

    async def _receive_compressed(
        self, prefix: Prefix, skeleton: bytes
    ) -> tuple[bytes, list[bytes | memoryview]]:
        sizes = tuple(each >> 1 for each in prefix.buffers)
        packed = Compressed(skeleton, sizes)
        self._check_skeleton(packed.skeleton)
        self._budget.check(self.stream.peer_id, packed.size)
        received = [await self._receive_bytes(size) for size in sizes]
        self._reserve(packed.size)
        if packed.size <= IN_THREAD and len(sizes) <= MANY_BUFFERS:
            return packed.unpack(received)
        return await trio.to_thread.run_sync(packed.unpack, received)

    async def _decode(
        self, skeleton: bytes, buffers: Sequence[bytes | memoryview]
    ) -> tuple[Any, RefusedValueError | None]:
        """Decode on the spot what is soon done, else in a thread."""
        if len(skeleton) <= _MANY_ITEMS:
            return self._decoder.decode_partly(skeleton, buffers)
        items = most_items(skeleton)
        if len(skeleton) > CONTROL_BODY:
            cost = (_SKELETON_COST - 1) * len(skeleton) + _ITEM_COST * min(items, MAX_ITEMS)
            self._reserve(cost)
        if items <= _MANY_ITEMS and len(skeleton) <= IN_THREAD:
            return self._decoder.decode_partly(skeleton, buffers)
        decoder = self._decoder.for_thread()
        return await trio.to_thread.run_sync(decoder.decode_partly, skeleton, buffers)

    async def _receive_prefix(self) -> tuple[Prefix, bool] | None:
        stream, prefixes = self.stream, self._prefixes
        while True:
            view = await stream.receive_view()
            if not view:
                if prefixes.is_inside:
                    raise IncompleteReadError("the stream ended inside a message of RPC")
                return None
            found = prefixes.feed(view)
            if found is not None:
                prefix, is_last, following = found
                stream.push_back(view[len(view) - following :])
                return prefix, is_last

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
            return await self._receive_bytes(size)
        memory = allocate(size) if place is None else place
        filled = 0
        for end in range(min(_STEP, size), size + _STEP, _STEP):
            end = min(end, size)
            self._reserve(end - filled)
            with self._in_time():
                if await self.stream.receive_into(memory[filled:end], fill=True) < end - filled:
                    raise IncompleteReadError("the stream ended inside a message of RPC")
            filled = end
        return memory

    async def _receive_bytes(self, size: int) -> bytes:
        parts = []
        for start in range(0, size, _STEP):
            step = min(_STEP, size - start)
            self._reserve(step)
            with self._in_time():
                parts.append(await self.stream.receive_exactly(step))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        with trio.move_on_after(BODY_STALL) as scope:
            yield
        if scope.cancelled_caught:
            raise IncompleteReadError(f"too little of a message of RPC came in {BODY_STALL:.0f} s")

    def release(self) -> None:
        """Give back the memory of the last message to the budget. Idempotent."""
        if self._reserved:
            self._budget.release(self.stream.peer_id, self._reserved)
            self._reserved = 0
