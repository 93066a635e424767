"""Framing shared by every protocol here: unsigned varints and length-prefixed messages.

Source: multiformats unsigned-varint (https://github.com/multiformats/unsigned-varint),
as used by multistream-select, multihash, multiaddr and libp2p's delimited protobufs.
Its encoding is LEB128, and only the shortest form of a number is allowed. That document
stops at 9 bytes (63 bits); protobuf needs 10 for a full 64-bit number, so 10 is the limit
here and the value must be below 2**64.

Pure functions and a pure decoder: no I/O, no clock. What a peer may send wrong raises
:class:`~lattica.errors.RemoteProtocolError`; what the caller does wrong raises
:class:`~lattica.errors.LocalProtocolError`.
"""

from __future__ import annotations

from typing import TypeAlias

from lattica.nat.base.errors import (
    IncompleteReadError,
    LatticaError,
    LocalProtocolError,
    RemoteProtocolError,
)

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_UVARINT_BYTES = 10
"""Longest varint: ten groups of seven bits hold any number below 2**64."""

_LIMIT = 1 << 64
_ONE_BYTE = tuple(bytes((n,)) for n in range(0x80))


class NeedMoreData(LatticaError):
    """The buffer ends inside a varint; nothing is wrong yet. Read more and try again."""


def encode_uvarint(value: int) -> bytes:
    """Encode `value` (0 ≤ value < 2**64) in its shortest form, 1 to 10 bytes.

    Raises:
        LocalProtocolError: the number is negative or does not fit in 64 bits.
    """
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if 0 < value < 0x4000:  # nearly all others
        return bytes((value & 0x7F | 0x80, value >> 7))
    if not 0 <= value < _LIMIT:
        raise LocalProtocolError(f"a varint holds 0 to 2**64-1, not {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_uvarint(buffer: Buffer, offset: int = 0) -> tuple[int, int]:
    """Decode the varint that starts at `offset`; return (value, offset after it).

    Raises:
        NeedMoreData: the buffer ends before the varint does.
        RemoteProtocolError: longer than 10 bytes, not below 2**64, or not the shortest form.
    """
    available = len(buffer) - offset
    if available <= 0:
        raise NeedMoreData("the buffer ends before a varint")
    byte = buffer[offset]
    if byte < 0x80:  # nearly every length there is
        return byte, offset + 1
    value = byte & 0x7F
    shift = 7
    for index in range(1, min(available, MAX_UVARINT_BYTES)):
        byte = buffer[offset + index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0:
                raise RemoteProtocolError("varint is not in its shortest form")
            if value >= _LIMIT:
                raise RemoteProtocolError("varint does not fit in 64 bits")
            return value, offset + index + 1
        shift += 7
    if available >= MAX_UVARINT_BYTES:
        raise RemoteProtocolError(f"varint is longer than {MAX_UVARINT_BYTES} bytes")
    raise NeedMoreData("the buffer ends inside a varint")


def encode_length_prefixed(payload: Buffer) -> bytes:
    """One message of a length-prefixed stream: varint length, then the payload."""
    return encode_uvarint(len(payload)) + payload


def find_message(buffer: Buffer, limit: int, offset: int = 0) -> tuple[int, int] | None:
    """Where the bytes of the length-prefixed message at `offset` start and end, its length left
    out; None if the buffer ends before that length does.

    The end lies beyond the buffer when the message is not all there. So it is known how much is
    to come, and that it may come, before any memory is taken for it.

    Raises:
        RemoteProtocolError: a bad varint, or a length above `limit` (bytes).
    """
    try:
        length, start = decode_uvarint(buffer, offset)
    except NeedMoreData:
        return None
    if length > limit:
        raise RemoteProtocolError(f"message of {length} bytes, where {limit} are allowed")
    return start, start + length


class LengthPrefixed:
    """Incremental decoder of messages that are each preceded by their length as a varint.

    A length above `limit` (bytes) is refused as soon as it is known, before any byte of the
    message is kept: at most `limit` + 10 bytes are held between calls. After an error the
    decoder refuses all further input with the same error.
    """

    __slots__ = ("_buffer", "_error", "_needed", "limit")

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise LocalProtocolError(f"a message limit cannot be negative: {limit}")
        self.limit = limit
        self._buffer = bytearray()
        # Bytes that must be in the buffer before looking at it again is worth while.
        # Without it, a large message that comes in small pieces would be parsed anew
        # for each of them.
        self._needed = 1
        self._error: RemoteProtocolError | None = None

    @property
    def pending(self) -> int:
        """Bytes held of a message that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: Buffer) -> list[bytes]:
        """Take bytes in any split; return the messages they complete, in order.

        Raises:
            RemoteProtocolError: a bad varint, or a length above the limit. Messages
                completed by the same call are dropped: the stream is broken anyway.
        """
        if self._error is not None:
            raise self._error
        buffer = self._buffer
        if not buffer:
            messages, consumed = self._split(data)
            buffer += data[consumed:]
            return messages
        buffer += data
        if len(buffer) < self._needed:
            return []
        messages, consumed = self._split(buffer)
        del buffer[:consumed]
        return messages

    def finish(self) -> None:
        """Say that the stream has ended.

        Raises:
            IncompleteReadError: it ended inside a message.
        """
        if self._buffer:
            raise IncompleteReadError("the stream ended inside a length-prefixed message")

    def _split(self, data: Buffer) -> tuple[list[bytes], int]:
        """Cut whole messages off `data`; return them and how many bytes they took."""
        messages: list[bytes] = []
        offset = 0
        end = len(data)
        while offset < end:
            try:
                span = find_message(data, self.limit, offset)
            except RemoteProtocolError as error:
                self._error = error
                self._buffer.clear()
                raise
            if span is None or span[1] > end:
                self._needed = 1 + end - offset if span is None else span[1] - offset
                return messages, offset
            offset = span[1]
            messages.append(bytes(data[span[0] : offset]))
        self._needed = 1
        return messages, offset
