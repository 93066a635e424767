"""A stream of the data plane: messages of :mod:`lattica.rpc.protocol.messages` over trio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import trio

from lattica.nat.base.errors import IncompleteReadError, LatticaError
from lattica.nat.base.limits.places import Source
from lattica.nat.mux.stream import Stream
from lattica.rpc.config import CONTROL_BODY, RpcConfig
from lattica.rpc.data_plane.budget import ReceiveBudget
from lattica.rpc.data_plane.heavy import MANY_ITEMS, HeavyWork
from lattica.rpc.data_plane.shared.link import SharedLink
from lattica.rpc.data_plane.shared.messages import (
    INLINE_REFERENCE,
    LEAST,
    REFERENCE_BYTES,
    Reference,
    decode_reference,
)
from lattica.rpc.data_plane.shared.sharing import SharedMemory
from lattica.rpc.data_plane.shared.slots import SLOT, Holder
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.compression import IN_THREAD, MANY_BUFFERS, WORTH, Compressed, compress
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.encoding.items import MAX_ITEMS, most_items
from lattica.rpc.encoding.memory import allocate
from lattica.rpc.errors import ResourceExhaustedError, StatusCode
from lattica.rpc.protocol.messages import Kind, Prefix, PrefixReader, encode_message
from lattica.rpc.telemetry.statistics import Traffic

_JOINED = 16 * 1024
"""Bytes up to which the parts of a message are copied together rather than sent one by one."""
_SKELETON_COST = 24
"""Bytes that a byte of a large skeleton counts for: what is made of it is larger than it is."""
_ITEM_COST = 128
"""Bytes that a list, dict or special value counts for besides."""
_STEP = SLOT
"""Bytes of a body for which memory is reserved at a time, as they arrive."""
_LOOK = 0.25
"""Seconds after which a sender that waits for shared memory sees whether its stream is gone."""
BODY_STALL = 60.0
"""Seconds for a part of a body of at most :data:`_STEP` bytes, after which it is given up."""
_EXACT = 1.0
"""Seconds by which that may be less."""


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

    @property
    def ends_call(self) -> bool:
        """It is a server's last word in a call."""
        return self.kind in (Kind.RESULT, Kind.ERROR, Kind.END)


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
        shared: SharedMemory,
        heavy: HeavyWork,
    ) -> None:
        self.stream = stream
        self.compression: str | None = None
        """How what is sent is compressed, if that makes it smaller."""
        self._decoder = decoder
        self._budget = budget
        self._config = config
        self.held = 0
        """Bytes that it has of the budget."""
        self.waits_since = 0.0
        self._patience: trio.CancelScope | None = None
        """That of the body which is being received."""
        self._yielded = ""
        """Why its memory has gone to others."""
        self._traffic = traffic
        self._shared = shared
        self._heavy = heavy
        self._link: SharedLink | None = None
        self._holder: Holder | None = None
        """What was put into the memory of that link, and has not been read there."""

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
        link = None
        if not is_compressed and any(len(buffer) >= LEAST for buffer in body.buffers):
            link = self._shared.link_with(self.stream)
        head = encode_message(
            kind, body, is_last=is_last, is_compressed=is_compressed, is_shared=link is not None
        )
        if link is not None:
            await self._send_shared(link, head, body.buffers)
            return
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

    async def _send_shared(
        self, link: SharedLink, head: bytes, buffers: Sequence[bytes | bytearray | memoryview]
    ) -> None:
        """Send a message whose large buffers are copied into shared memory, as there is room."""
        holder = self._holder
        if holder is None or link is not self._link:
            self._recall()
            self._link, self._holder = link, (holder := Holder())
        parts: list[Any] = [head]
        small = 0
        for buffer in buffers:
            if len(buffer) < LEAST:
                parts.append(buffer)
                small += len(buffer)
                if small > _JOINED:
                    await self._send_parts(parts)
                    small = 0
                continue
            view = memoryview(buffer)
            for start in range(0, len(view), SLOT):
                piece = view[start : start + SLOT]
                while (reference := link.put(holder, piece)) is None and holder.slots:
                    # What has been sent will be read, and released, in its order.
                    if parts:
                        await self._send_parts(parts)
                    else:
                        await self._wait_released(holder)
                parts.append(reference or INLINE_REFERENCE)
                if reference is None:
                    await self._send_parts(parts)
                    self._traffic.sent += len(piece)
                    await self.stream.send_all(piece)
        if parts:
            await self._send_parts(parts)

    async def _send_parts(self, parts: list[Any]) -> None:
        data = b"".join(parts)
        parts.clear()
        await self.send_raw(data)

    async def _wait_released(self, holder: Holder) -> None:
        with trio.move_on_after(_LOOK):
            await holder.wait()
        if self.stream.is_gone:  # nothing will be released
            await self.stream.wait_sendable()

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
            ResourceExhaustedError: the message exceeds a limit or the budget, or came so slowly
                that its memory has gone to others; the stream is of no use.
        """
        try:
            return await self._receive(out, admit)
        except LatticaError:
            if self._yielded:
                raise ResourceExhaustedError(self._yielded) from None
            raise

    async def _receive(
        self, out: Sequence[memoryview], admit: Callable[[bytes], None] | None
    ) -> Message | None:
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
        if prefix.kind is not Kind.CALL or not (is_large or prefix.is_compressed):
            admit = None
        if is_large or prefix.buffers:
            with self._in_time():
                skeleton = await self._receive_bytes(prefix.skeleton)
                packed = self._packed(prefix, skeleton, admit)
                buffers = await self._receive_buffers(prefix, out)
        else:  # soon done, and often
            skeleton = await self.stream.receive_exactly(prefix.skeleton)
            packed, buffers = self._packed(prefix, skeleton, admit), []
        if packed is None:
            size, make = len(skeleton), partial(self._decode, skeleton, buffers)
        else:
            size, make = packed.skeleton, partial(self._unpacked, packed, buffers, admit)
        if size <= MANY_ITEMS:
            value, refusal = await make()
        else:  # until its turn it is no more than has come
            async with self._heavy.message(self.source.network):
                value, refusal = await make()
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
        self.held += size

    def _packed(
        self, prefix: Prefix, skeleton: bytes, admit: Callable[[bytes], None] | None
    ) -> Compressed | None:
        """What is compressed, if it is, and not too large; else it is admitted. Before buffers."""
        if not prefix.is_compressed:
            if admit is not None:
                admit(skeleton)
            return None
        packed = Compressed(skeleton, tuple(each >> 1 for each in prefix.buffers))
        self._check_skeleton(packed.skeleton)
        self._budget.check(self.stream.peer_id, packed.size)
        return packed

    async def _unpacked(
        self,
        packed: Compressed,
        received: Sequence[bytes | memoryview],
        admit: Callable[[bytes], None] | None,
    ) -> tuple[Any, RefusedValueError | None]:
        self._reserve(packed.size)
        if packed.size <= IN_THREAD and len(received) <= MANY_BUFFERS:
            skeleton, buffers = packed.unpack(received)
        else:
            skeleton, buffers = await trio.to_thread.run_sync(packed.unpack, received)
        if admit is not None:
            admit(skeleton)
        return await self._decode(skeleton, buffers)

    async def _decode(
        self, skeleton: bytes, buffers: Sequence[bytes | memoryview]
    ) -> tuple[Any, RefusedValueError | None]:
        """Decode on the spot what is soon done, else in a thread."""
        if len(skeleton) <= MANY_ITEMS:
            return self._decoder.decode_partly(skeleton, buffers)
        items = most_items(skeleton)
        if len(skeleton) > CONTROL_BODY:
            cost = (_SKELETON_COST - 1) * len(skeleton) + _ITEM_COST * min(items, MAX_ITEMS)
            self._reserve(cost)
        if items <= MANY_ITEMS and len(skeleton) <= IN_THREAD:
            return self._decoder.decode_partly(skeleton, buffers)
        decoder = self._decoder.for_thread()
        return await trio.to_thread.run_sync(decoder.decode_partly, skeleton, buffers)

    async def _receive_prefix(self) -> tuple[Prefix, bool] | None:
        stream, prefixes = self.stream, PrefixReader()
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

    async def _receive_buffers(
        self, prefix: Prefix, out: Sequence[memoryview]
    ) -> list[bytes | memoryview]:
        if prefix.is_compressed:
            return [await self._receive_bytes(each >> 1) for each in prefix.buffers]
        buffers: list[bytes | memoryview] = []
        for each, place in zip(prefix.buffers, self._places(prefix, out), strict=True):
            is_shared = prefix.is_shared and each >> 1 >= LEAST
            if each & 1:
                buffers.append(await self._receive_bytes(each >> 1, is_shared))
            else:
                buffers.append(await self._receive_into(each >> 1, place, is_shared))
        return buffers

    async def _receive_into(
        self, size: int, place: memoryview | None, is_shared: bool
    ) -> memoryview:
        memory = allocate(size) if place is None else place
        filled = 0
        for end in range(min(_STEP, size), size + _STEP, _STEP):
            end = min(end, size)
            self._begin_part(end - filled)
            reference = await self._receive_reference() if is_shared else None
            part = memory[filled:end]
            if reference is not None:
                self._shared.find(self.stream.peer_id, reference).get_into(reference, part)
            elif await self.stream.receive_into(part, fill=True) < end - filled:
                raise IncompleteReadError("the stream ended inside a message of RPC")
            filled = end
        return memory

    async def _receive_reference(self) -> Reference | None:
        """Where the next piece of a buffer is; None: it follows. Raises RemoteProtocolError."""
        return decode_reference(await self.stream.receive_exactly(REFERENCE_BYTES))

    async def _receive_bytes(self, size: int, is_shared: bool = False) -> bytes:
        if size > _STEP:  # to join what came in many messages takes two copies
            # Nobody else has the zeros that it is made of, so its value is what is received there.
            held = BytesIO(bytes(size))
            with held.getbuffer() as memory:
                await self._receive_into(size, memory, is_shared)
            return held.getvalue()
        self._begin_part(size)
        reference = await self._receive_reference() if is_shared else None
        if reference is not None:
            return self._shared.find(self.stream.peer_id, reference).get(reference, size)
        return await self.stream.receive_exactly(size)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """For a body, whose parts are begun by :meth:`_begin_part`."""
        self.waits_since = trio.current_time()
        self._budget.waiting.add(self)
        try:
            with trio.CancelScope(deadline=self.waits_since + BODY_STALL) as scope:
                self._patience = scope
                yield
        finally:
            self._patience = None
            self._budget.waiting.discard(self)
        if scope.cancelled_caught:
            raise IncompleteReadError(f"too little of a message of RPC came in {BODY_STALL:.0f} s")

    def _begin_part(self, size: int) -> None:
        """`size` bytes of a body are to come, which have their own time."""
        self._reserve(size)
        self.waits_since = trio.current_time()
        scope, until = self._patience, self.waits_since + BODY_STALL
        if scope is not None and scope.deadline < until - _EXACT:
            scope.deadline = until

    def release(self) -> None:
        """Give back the memory of the last message to the budget. Idempotent."""
        if self.held:
            self._budget.release(self.stream.peer_id, self.held)
            self.held = 0

    @property
    def source(self) -> Source:
        """From whom it comes."""
        return self.stream.connection.source

    def give_up(self) -> None:
        """Others need its memory: end the stream."""
        self._yielded = (
            f"memory ran short (rpc.receive_memory), and went from a body that came too slowly: "
            f"it had {self.held} bytes"
        )
        self.release()
        self.stream.reset("its memory has gone to others", code=StatusCode.RESOURCE_EXHAUSTED)

    def end(self) -> None:
        """The stream has been closed or reset: give back all that it has. Idempotent."""
        self.release()
        self._recall()

    def _recall(self) -> None:
        if self._link is not None and self._holder is not None and self._holder.slots:
            self._link.recall(self._holder)
