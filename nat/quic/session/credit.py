"""What Lattica says on stream 0 of a QUIC connection after Noise: credit, and a client's token.

After the three messages of :mod:`lattica.nat.quic.session.noise`, stream 0 carries control frames
in both directions, for as long as the connection lives::

    CREDIT      = 0x01 || stream id (uvarint) || bytes (uvarint)
    RESET_TOKEN = 0x03 || token (16 bytes)

of which the first lets the receiver send that many more bytes on the stream, in addition to the
:data:`~lattica.nat.mux.session.INITIAL_WINDOW` that every new stream has. QUIC's own flow control
stays above it: qh3 renews that whether the application reads or not. The other is sent by the
client, once at most: the token of its stateless resets (:mod:`lattica.nat.quic.stateless_reset`),
for which only servers have a transport parameter.
"""

from __future__ import annotations

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.wire import MAX_UVARINT_BYTES, NeedMoreData, decode_uvarint, encode_uvarint

CREDIT, RESET_TOKEN = 0x01, 0x03
_TOKEN_SIZE = 16
_LONGEST_FRAME = 1 + 2 * MAX_UVARINT_BYTES


def encode_credit(stream_id: int, delta: int) -> bytes:
    return b"\x01" + encode_uvarint(stream_id) + encode_uvarint(delta)


def encode_reset_token(token: bytes) -> bytes:
    return b"\x03" + token


class ControlReader:
    """Incremental decoder of control frames; holds less than one frame between calls."""

    __slots__ = ("_rest", "reset_token")

    def __init__(self) -> None:
        self._rest = b""
        self.reset_token: bytes | None = None
        """The peer's, once it has told one."""

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        """Take the next bytes of stream 0; return (stream id, bytes) of each CREDIT.

        Raises:
            RemoteProtocolError: there is anything else, or a second token.
        """
        data = self._rest + data if self._rest else data
        credits = []
        position, end = 0, len(data)
        while position < end:
            if data[position] == RESET_TOKEN:
                if self.reset_token is not None:
                    raise RemoteProtocolError("QUIC: a second reset token")
                if end - position <= _TOKEN_SIZE:
                    break
                self.reset_token = data[position + 1 : position + 1 + _TOKEN_SIZE]
                position += 1 + _TOKEN_SIZE
                continue
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
