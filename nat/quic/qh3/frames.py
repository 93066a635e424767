"""Which parts of streams the frames of a packet bring (RFC 9000, section 19)."""

from __future__ import annotations

from typing import NamedTuple

from qh3._hazmat import Buffer, BufferReadError

CRYPTO = -1
"""In the place of a stream's ID: what TLS has to say."""

_ACK, _ACK_ECN = 0x02, 0x03
_CRYPTO, _NEW_TOKEN = 0x06, 0x07
_FIRST_STREAM, _LAST_STREAM = 0x08, 0x0F
_HAS_OFFSET, _HAS_LENGTH = 0x04, 0x02
_NEW_CONNECTION_ID = 0x18
_DATAGRAM_WITH_LENGTH = 0x31
_RESET_TOKEN = 16
_INTEGERS = {
    0x01: 0, 0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x12: 1, 0x13: 1, 0x14: 1, 0x15: 2, 0x16: 1,
    0x17: 1, 0x19: 1, 0x1E: 0,
}  # fmt: skip
"""Frames that are so many integers."""
_BYTES = {0x1A: 8, 0x1B: 8}
"""Frames that are so many bytes: PATH_CHALLENGE and PATH_RESPONSE."""


class Part(NamedTuple):
    """Of a stream, or of what TLS says."""

    stream: int
    """ID, or :data:`CRYPTO`."""
    offset: int
    size: int


def parts_of(frames: bytes) -> list[Part]:
    """Those in a packet's decrypted frames, in order, as far as these are what they should be."""
    buffer = Buffer(data=frames)
    parts: list[Part] = []
    try:
        while not buffer.eof():
            _skip_padding(buffer, frames)
            if buffer.eof() or not _read(buffer, parts):
                break
    except BufferReadError:
        pass  # qh3 has refused it
    return parts


def _skip_padding(buffer: Buffer, frames: bytes) -> None:
    start = buffer.tell()
    if frames[start] == 0:
        rest = frames[start:]
        buffer.seek(start + len(rest) - len(rest.lstrip(b"\0")))


def _read(buffer: Buffer, parts: list[Part]) -> bool:
    """Take a frame; False: where it ends, nobody knows, or it is the last."""
    integer = buffer.pull_uint_var
    kind = integer()
    if _FIRST_STREAM <= kind <= _LAST_STREAM:
        stream = integer()
        offset = integer() if kind & _HAS_OFFSET else 0
        if not kind & _HAS_LENGTH:
            parts.append(Part(stream, offset, buffer.capacity - buffer.tell()))
            return False
        parts.append(_skip_part(buffer, stream, offset))
    elif kind == _CRYPTO:
        parts.append(_skip_part(buffer, CRYPTO, integer()))
    elif kind in _INTEGERS:
        for _ in range(_INTEGERS[kind]):
            integer()
    elif kind in _BYTES:
        buffer.pull_bytes(_BYTES[kind])
    elif kind in (_ACK, _ACK_ECN):
        integer(), integer()
        ranges = integer()
        for _ in range(1 + 2 * ranges + 3 * (kind == _ACK_ECN)):
            integer()
    elif kind == _NEW_CONNECTION_ID:
        integer(), integer()
        buffer.pull_bytes(buffer.pull_uint8() + _RESET_TOKEN)
    elif kind in (_NEW_TOKEN, _DATAGRAM_WITH_LENGTH):
        buffer.pull_bytes(integer())
    else:  # a DATAGRAM that fills the packet, a CONNECTION_CLOSE, or nothing that qh3 takes
        return False
    return True


def _skip_part(buffer: Buffer, stream: int, offset: int) -> Part:
    size = buffer.pull_uint_var()
    buffer.pull_bytes(size)
    return Part(stream, offset, size)
