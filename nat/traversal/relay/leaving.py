"""A relay's word to its clients that it is about to stop (`/lattica/relay/leaving/1.0.0`).

The relay opens a stream and sends one message: the seconds after which it ends at the latest, four
bytes, big-endian. The client closes the stream when it has read it. Pure.
"""

from __future__ import annotations

from lattica.nat.base.errors import RemoteProtocolError

LEAVING = "/lattica/relay/leaving/1.0.0"
SIZE = 4
_LONGEST = 2**32 - 1


def encode_leaving(seconds: float) -> bytes:
    return min(max(0, int(seconds)), _LONGEST).to_bytes(SIZE, "big")


def decode_leaving(data: bytes) -> int:
    """Seconds until the relay ends. Raises RemoteProtocolError."""
    if len(data) != SIZE:
        raise RemoteProtocolError(f"a relay leaves with a message of {len(data)} bytes")
    return int.from_bytes(data, "big")
