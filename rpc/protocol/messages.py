"""The messages of the data plane: a prefix, a skeleton, and buffers as they lie in memory.

A stream of the data plane carries one call at a time, and when that is over, perhaps the next.
A message is `byte kind · varint length of the skeleton · varint number of buffers · for each a
varint length × 2 + 1 if it is immutable · skeleton · buffers`; nothing is padded. A call's
messages:

- unary: CALL, then RESULT or ERROR;
- requests streamed: CALL, ITEM…, END from the caller; RESULT or ERROR;
- results streamed: ITEM…, END or ERROR from the server.

A caller gives a call up by resetting the stream. The kind's bit 0x40 says
that the sender takes no further call on the stream, 0x20 that the body is compressed
(:mod:`lattica.rpc.encoding.compression`). FETCH asks for the large result of a call of the
control plane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import msgpack

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.printable import encodable
from lattica.nat.base.wire import NeedMoreData, decode_uvarint, encode_uvarint
from lattica.rpc.encoding.encoder import MAX_BUFFERS, Encoded
from lattica.rpc.protocol.frames import (
    NIL,
    SESSION_BYTES,
    check_options,
    pack_number,
    present_facts,
    split_arguments,
)

DATA: Final = "/lattica/rpc-data/1.0.0"
"""The protocol of the data plane."""
MAX_BUFFER: Final = 2**48
_LAST: Final = 0x40
_COMPRESSED: Final = 0x20


class Kind(IntEnum):
    """What a message is, and what its skeleton holds."""

    CALL = 0
    """method, kind, timeout in ms or nil, metadata or nil, compression or nil, arguments"""
    ITEM = 1
    """One value of a stream."""
    END = 2
    """Of a stream; nil."""
    RESULT = 3
    """The result."""
    ERROR = 4
    """code, message, facts"""
    FETCH = 5
    """session, call"""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What stands in front of a message."""

    kind: Kind
    skeleton: int
    """Bytes."""
    buffers: tuple[int, ...]
    """Bytes of each, doubled, and 1 more if it is immutable."""
    is_compressed: bool = False

    @property
    def size(self) -> int:
        """Bytes of the skeleton and all buffers."""
        return self.skeleton + sum(buffer >> 1 for buffer in self.buffers)


def encode_prefix(
    kind: Kind,
    skeleton: int,
    buffers: Sequence[bytes | bytearray | memoryview],
    *,
    is_last: bool = False,
    is_compressed: bool = False,
) -> bytes:
    """The prefix of a message; with `is_last` the sender takes no further call on the stream."""
    first = kind | (_LAST if is_last else 0) | (_COMPRESSED if is_compressed else 0)
    if not buffers and skeleton < 0x80:
        return bytes((first, skeleton, 0))
    parts = [bytes((first,)), encode_uvarint(skeleton), encode_uvarint(len(buffers))]
    parts += (encode_uvarint(len(each) << 1 | (type(each) is bytes)) for each in buffers)
    return b"".join(parts)


def encode_message(
    kind: Kind, body: Encoded, *, is_last: bool = False, is_compressed: bool = False
) -> bytes:
    """Prefix and skeleton of a message, which its buffers follow."""
    prefix = encode_prefix(
        kind, len(body.skeleton), body.buffers, is_last=is_last, is_compressed=is_compressed
    )
    return prefix + body.skeleton


def decode_prefix(data: bytes | memoryview, max_skeleton: int) -> tuple[Prefix, bool, int] | None:
    """The prefix at the beginning of `data`, whether it is the sender's last, and where it ends;
    None if there is more to come.

    Raises RemoteProtocolError.
    """
    if not len(data):
        return None
    kind = data[0] & ~(_LAST | _COMPRESSED)
    if kind > Kind.FETCH:
        raise RemoteProtocolError(f"RPC: no message is of kind {kind}")
    try:
        skeleton, position = decode_uvarint(data, 1)
        if skeleton > max_skeleton:
            raise RemoteProtocolError(
                f"RPC: {skeleton} bytes besides the buffers of a message, where {max_skeleton} "
                "are allowed"
            )
        count, position = decode_uvarint(data, position)
        if count > MAX_BUFFERS:
            raise RemoteProtocolError(f"RPC: {count} buffers in a message")
        buffers = []
        for _ in range(count):
            size, position = decode_uvarint(data, position)
            if size >= MAX_BUFFER:
                raise RemoteProtocolError(f"RPC: a buffer of {size >> 1} bytes")
            buffers.append(size)
    except NeedMoreData:
        return None
    is_compressed = bool(data[0] & _COMPRESSED)
    prefix = Prefix(Kind(kind), skeleton, tuple(buffers), is_compressed)
    return prefix, bool(data[0] & _LAST), position


@dataclass(frozen=True, slots=True)
class CallHead:
    """What a CALL asks for."""

    method: str
    kind: int
    timeout_ms: int | None
    metadata: dict[str, Any] | None
    compression: str | None
    args: list[Any]
    keywords: dict[str, Any]


def decode_call(value: Any) -> CallHead:
    """The value of a CALL's skeleton. Raises RemoteProtocolError."""
    if type(value) is not list or len(value) != 6:
        raise RemoteProtocolError("RPC: a call has six parts")
    method, kind, timeout_ms, metadata, compression, arguments = value
    if type(method) is not str or type(kind) is not int:
        raise RemoteProtocolError("RPC: a call names a method, and its kind")
    if not (compression is None or type(compression) is str):
        raise RemoteProtocolError("RPC: a compression has a name")
    check_options(timeout_ms, metadata)
    return CallHead(method, kind, timeout_ms, metadata, compression, *split_arguments(arguments))


_pack = msgpack.Packer().pack


def encode_call(
    method: bytes,
    kind: int,
    arguments: Encoded,
    *,
    timeout_ms: int | None = None,
    metadata: bytes = NIL,
    compression: bytes = NIL,
) -> Encoded:
    """The body of a CALL; `method`, `metadata` and `compression` are packed."""
    timeout = NIL if timeout_ms is None else pack_number(timeout_ms)
    head = (b"\x96", method, bytes((kind,)), timeout, metadata, compression)
    return Encoded(b"".join((*head, arguments.skeleton)), arguments.buffers)


def encode_fetch(session: bytes, call: int) -> bytes:
    """A FETCH, whole."""
    skeleton: bytes = _pack([session, call])
    return encode_prefix(Kind.FETCH, len(skeleton), ()) + skeleton


def decode_fetch(value: Any) -> tuple[bytes, int]:
    """The value of a FETCH's skeleton. Raises RemoteProtocolError."""
    if type(value) is list and len(value) == 2:
        session, call = value
        if type(session) is bytes and len(session) == SESSION_BYTES and type(call) is int:
            return session, call
    raise RemoteProtocolError("RPC: what is to be fetched has a session and a call")


def encode_failure(
    code: int, message: str, facts: Mapping[str, Any], *, is_last: bool = False
) -> bytes:
    """An ERROR, whole; its texts and facts as in :func:`frames.encode_error`."""
    skeleton: bytes = _pack([code, encodable(message), present_facts(facts)])
    return encode_prefix(Kind.ERROR, len(skeleton), (), is_last=is_last) + skeleton
