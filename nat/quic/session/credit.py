"""What Lattica says on stream 0 of a QUIC connection after Noise: credit.

After the three messages of :mod:`lattica.nat.quic.session.noise`, stream 0 carries control frames
in both directions, for as long as the connection lives::

    CREDIT = 0x01 || stream id (uvarint) || bytes (uvarint)

which lets the receiver send that many more bytes on the stream, in addition to the
:data:`~lattica.nat.mux.session.INITIAL_WINDOW` that every new stream has. QUIC's own flow control
stays above it: qh3 renews that whether the application reads or not.
"""

from __future__ import annotations

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.wire import MAX_UVARINT_BYTES, NeedMoreData, decode_uvarint, encode_uvarint

CREDIT = 0x01
_LONGEST_FRAME = 1 + 2 * MAX_UVARINT_BYTES


def encode_credit(stream_id: int, delta: int) -> bytes:
    return b"\x01" + encode_uvarint(stream_id) + encode_uvarint(delta)


class ControlReader:
    """Incremental decoder of control frames; holds less than one frame between calls."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        """Take the next bytes of stream 0; return (stream id, bytes) of each CREDIT.

        Raises:
            RemoteProtocolError: there is anything that is not a CREDIT.
        """
        data = self._rest + data if self._rest else data
        credits = []
        position, end = 0, len(data)
        while position < end:
            if data[position] != CREDIT:
                raise RemoteProtocolError(f"QUIC: unknown control frame {data[position]}")
            try:
                stream_id, offset = decode_uvarint(data, position + 1)
                delta, offset = decode_uvarint(data, offset)
            except NeedMoreData:
                break
            credits.append((stream_id, delta))
            position = offset
        self._rest = data[position:]
        return credits
