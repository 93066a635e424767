"""What both sides of the original's RPC do with a stream: whole messages and frames, in memory that
is taken as they come.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import trio

from lattica.compat.wire.messages import MAX_FRAME, PART, Frame, Part, decode_frame, frame_parts
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.mux.stream import Stream
from lattica.rpc.data_plane.budget import ReceiveBudget

PATIENCE: Final = 30.0
"""Seconds in which some of what a peer has announced comes, or some of what it gets is taken."""

_PIECE: Final = 1024 * 1024
_COPY_BELOW: Final = 64 * 1024


class Held:
    """Memory of a budget that is held for a peer until the end of the block."""

    def __init__(self, budget: ReceiveBudget, peer: PeerId) -> None:
        self._budget = budget
        self._peer = peer
        self._size = 0

    def take(self, size: int) -> None:
        """Raises ResourceExhaustedError."""
        self._budget.reserve(self._peer, size)
        self._size += size

    def release(self) -> None:
        """Hold nothing any more."""
        self._budget.release(self._peer, self._size)
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


async def receive_to_end(stream: Stream, limit: int, held: Held) -> bytes:
    """All that comes, up to `limit` bytes; of which the first may take any time.

    Raises:
        RemoteProtocolError: there is more.
        ResourceExhaustedError: there is no memory for it.
        TooSlowError: nothing comes for :data:`PATIENCE` seconds.
    """
    parts: list[bytes] = []
    size = 0
    part = await stream.receive_some(_PIECE)
    while part:
        size += len(part)
        if size > limit:
            raise RemoteProtocolError(f"RPC of the original: a message of more than {limit} bytes")
        held.take(len(part))
        parts.append(part)
        with trio.fail_after(PATIENCE):
            part = await stream.receive_some(_PIECE)
    return b"".join(parts)


async def receive_frame(stream: Stream, held: Held) -> Frame | None:
    """The next frame, which may take any time to begin; None at the end of the stream.

    Raises as :func:`receive_to_end`, and RemoteProtocolError for what is no frame.
    """
    begin = await stream.receive_some(4)
    if not begin:
        return None
    with trio.fail_after(PATIENCE):
        begin += await stream.receive_exactly(4 - len(begin))
    size = int.from_bytes(begin, "big")
    if size > MAX_FRAME:
        raise RemoteProtocolError(f"RPC of the original: a frame of {size} bytes")
    parts: list[bytes] = []
    while size > 0:
        with trio.fail_after(PATIENCE):
            part = await stream.receive_exactly(min(size, _PIECE))
        held.take(len(part))
        parts.append(part)
        size -= len(part)
    return decode_frame(parts[0] if len(parts) == 1 else b"".join(parts))


async def send_frame(stream: Stream, frame: Frame) -> None:
    """Send a whole frame; cancelled in the middle, the stream is reset, for nothing can follow."""
    before, data, after = frame_parts(frame)
    if len(data) < _COPY_BELOW:
        await stream.send_all(b"".join((before, data, after)))
        return
    try:
        await stream.send_all(before)
        await stream.send_all(data)
        if after:
            await stream.send_all(after)
    except trio.Cancelled:
        stream.reset("a frame was cut off")
        raise


async def send_body(stream: Stream, call: str, body: bytes) -> None:
    """Send arguments or a result in parts; of an empty one, an empty part."""
    view = memoryview(body)
    for start in range(0, max(len(body), 1), PART):
        is_end = start + PART >= len(body)
        await send_frame(stream, Part(call, view[start : start + PART], is_end))
