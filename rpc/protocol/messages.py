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
(:mod:`lattica.rpc.encoding.compression`), 0x10 that references to shared memory stand for its large
buffers (:mod:`lattica.rpc.data_plane.shared.messages`). FETCH asks for the large result of a call
of the control plane.
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
from lattica.nat.config import KIB
from lattica.rpc.encoding.encoder import MAX_BUFFERS, Encoded
from lattica.rpc.protocol.frames import (
    MAX_METADATA,
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
MAX_SKELETON: Final = 2**32
"""Bytes that no receiver takes, whatever its settings are."""
_MAX_HEAD: Final = MAX_METADATA + 8 * KIB
_LAST: Final = 0x40
_COMPRESSED: Final = 0x20
_SHARED: Final = 0x10
_BITS: Final = _LAST | _COMPRESSED | _SHARED


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
    is_shared: bool = False

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
    is_shared: bool = False,
) -> bytes:
    """The prefix of a message; with `is_last` the sender takes no further call on the stream."""
    first = kind | (_LAST if is_last else 0) | (_COMPRESSED if is_compressed else 0)
    if is_shared:
        first |= _SHARED
    if not buffers and skeleton < 0x80:
        return bytes((first, skeleton, 0))
    parts = [bytes((first,)), encode_uvarint(skeleton), encode_uvarint(len(buffers))]
    parts += (encode_uvarint(len(each) << 1 | (type(each) is bytes)) for each in buffers)
    return b"".join(parts)


def encode_message(
    kind: Kind,
    body: Encoded,
    *,
    is_last: bool = False,
    is_compressed: bool = False,
    is_shared: bool = False,
) -> bytes:
    """Prefix and skeleton of a message, which its buffers follow."""
    prefix = encode_prefix(
        kind,
        len(body.skeleton),
        body.buffers,
        is_last=is_last,
        is_compressed=is_compressed,
        is_shared=is_shared,
    )
    return prefix + body.skeleton


class PrefixReader:
    """Reads the prefixes of the messages of a stream, each from as many pieces as it comes in; no
    byte is looked at twice, however they drip.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._numbers: list[int] = []
        """What has been read: the kind, the skeleton, the number of buffers, and theirs."""

    @property
    def is_inside(self) -> bool:
        """Whether a prefix has begun."""
        return bool(self._numbers or self._rest)

    def feed(self, data: bytes | memoryview) -> tuple[Prefix, bool, int] | None:
        """The prefix that ends in `data`, whether it is the sender's last, and how many bytes at
        the end of `data` follow it; None if there is more to come.

        Raises RemoteProtocolError.
        """
        if self._rest:
            data = self._rest + bytes(data)
        numbers, position = self._numbers, 0
        try:
            while (known := len(numbers)) < 3 or known < 3 + numbers[2]:
                if known:
                    number, position = decode_uvarint(data, position)
                    if known >= 3:
                        if number >= MAX_BUFFER:
                            raise RemoteProtocolError(f"RPC: a buffer of {number >> 1} bytes")
                    elif known == 1 and number >= MAX_SKELETON:
                        raise RemoteProtocolError(f"RPC: a skeleton of {number} bytes")
                    elif known == 2 and number > MAX_BUFFERS:
                        raise RemoteProtocolError(f"RPC: {number} buffers in a message")
                elif len(data):
                    number, position = data[0], 1
                    if number & ~_BITS > Kind.FETCH or number & _BITS & ~_LAST == _BITS & ~_LAST:
                        raise RemoteProtocolError(f"RPC: no message is of kind {number}")
                else:
                    return None
                numbers.append(number)
        except NeedMoreData:
            self._rest = bytes(data[position:])
            return None
        first, skeleton, _, *buffers = numbers
        self._rest, self._numbers = b"", []
        prefix = Prefix(
            Kind(first & ~_BITS),
            skeleton,
            tuple(buffers),
            is_compressed=bool(first & _COMPRESSED),
            is_shared=bool(first & _SHARED),
        )
        return prefix, bool(first & _LAST), len(data) - position


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


def head_of_call(skeleton: bytes) -> bytes:
    """The skeleton of a CALL without arguments in the place of a CALL's: a small one, whatever its
    arguments are. Raises RemoteProtocolError.
    """
    reader = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(len(skeleton), 1))
    reader.feed(skeleton)
    try:
        if reader.read_array_header() == 6:
            for _ in range(5):
                reader.skip()
            if reader.tell() <= _MAX_HEAD:
                return skeleton[: reader.tell()] + b"\x90"
    except Exception:  # msgpack's own
        pass
    raise RemoteProtocolError("RPC: a call has six parts, and its head is small")


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
