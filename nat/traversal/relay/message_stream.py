"""Circuit messages on a stream, which carries the circuit itself after them."""

from __future__ import annotations

from lattica.nat.base.errors import IncompleteReadError
from lattica.nat.mux.stream import Stream
from lattica.nat.traversal.relay.messages import (
    HopMessage,
    StopMessage,
    decode_hop,
    decode_stop,
    split_message,
)


async def read_hop(stream: Stream) -> HopMessage:
    """Read one hop message; what follows it stays on the stream.

    Waits without limit: the caller bounds the time. If cancelled, the stream is of no more
    use. Raises :class:`RemoteProtocolError` (:class:`IncompleteReadError` where the stream
    ends too early) and what :meth:`Stream.receive_some` raises.
    """
    return decode_hop(await _read_message(stream))


async def read_stop(stream: Stream) -> StopMessage:
    """As :func:`read_hop`, for the stop protocol."""
    return decode_stop(await _read_message(stream))


async def _read_message(stream: Stream) -> bytes:
    received = bytearray()
    while True:
        data = await stream.receive_some()
        if not data:
            raise IncompleteReadError("the stream ended inside a circuit message")
        received += data
        if (split := split_message(received)) is not None:
            message, rest = split
            if rest:
                stream.push_back(rest)
            return message
