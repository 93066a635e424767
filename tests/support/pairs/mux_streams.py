"""What tests do with the streams of a session, of either multiplexer."""

from __future__ import annotations

from lattica.nat.mux.stream_state import MuxStream


def take_all(stream: MuxStream) -> bytes:
    """Read whatever the stream has."""
    parts = []
    while part := stream.take():
        parts.append(bytes(part))
    return b"".join(parts)


def write(stream: MuxStream, data: bytes) -> None:
    stream.write(memoryview(data))
