"""The frames of the control plane: each is a varint with its length, and a msgpack array.

The first item of the array says what the frame is. A request's arguments, and a result, are the
last item, as :mod:`lattica.rpc.encoding` makes it; so a frame is decoded at once, and encoded by
putting bytes in a row. Arguments are an array, or, where some are given by name, a map of those in
which the array has the name "".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import msgpack

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.printable import encodable
from lattica.nat.base.wire import encode_length_prefixed, encode_uvarint
from lattica.nat.config import KIB
from lattica.rpc.config import CONTROL_BODY
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.encoding.items import TooManyItemsError, check_items, most_items

CONTROL: Final = "/lattica/rpc/1.0.0"
"""The protocol of the control plane: one stream from each caller to each peer that it calls."""
VERSION: Final = 1
MAX_FRAME: Final = CONTROL_BODY + 16 * KIB
"""Bytes: a body, the name of the method and the metadata."""
MAX_METADATA: Final = 8 * KIB
"""Bytes of the metadata of a call."""
MAX_FRAME_ITEMS: Final = 4096
"""Lists, dicts and values of special types in a frame, each of which costs its reader a microsecond
while others wait. (Metadata may be some of them.)"""
SESSION_BYTES: Final = 16
_MAX_BODY_ITEMS: Final = MAX_FRAME_ITEMS - 256
_MAX_METADATA_ITEMS: Final = 128
NIL: Final = b"\xc0"
"""None, packed."""
_LONGEST: Final = 1e12
"""Seconds; the longest floats are none any more when they are multiplied."""
MAX_ID: Final = 2**53
"""Of a call."""


class Kind(IntEnum):
    """What a frame is, and what follows in its array."""

    HELLO = 0
    """version, session, how many answers have arrived, and the how-manieth stream of the session
    it is: the first frame from the client. In the server's the last item is the highest call that
    has arrived: -1 if there is none yet, nil if the server did not know the session."""
    REQUEST = 1
    """call, method, [timeout in ms or nil, metadata or nil,] arguments"""
    CANCEL = 2
    """call"""
    ACK = 3
    """how many answers have arrived"""
    RESULT = 4
    """call, result"""
    ERROR = 5
    """call, code, message, further facts: a map"""
    ELSEWHERE = 6
    """call: its result is large, and to be fetched over the data plane"""
    GOING_AWAY = 7
    """no new calls"""


_pack = msgpack.Packer().pack


def _header(items: int, kind: Kind) -> bytes:
    return bytes((0x90 | items, kind))


_REQUEST = _header(4, Kind.REQUEST)
_LONG_REQUEST = _header(6, Kind.REQUEST)
_RESULT = _header(3, Kind.RESULT)
GOING_AWAY: Final = encode_length_prefixed(_header(1, Kind.GOING_AWAY))


def pack_number(value: int) -> bytes:
    """A number as msgpack has it."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x1_0000_0000:
        return b"\xce" + value.to_bytes(4, "big")
    return b"\xcf" + value.to_bytes(8, "big")


def encode_request(
    call: int,
    method: bytes,
    arguments: bytes,
    *,
    timeout_ms: int | None = None,
    metadata: bytes = NIL,
) -> bytes:
    """A request; `method`, `metadata` and `arguments` are packed."""
    number = pack_number(call)
    if timeout_ms is None and metadata is NIL:
        head = _REQUEST + number + method
    else:
        timeout = NIL if timeout_ms is None else pack_number(timeout_ms)
        head = b"".join((_LONG_REQUEST, number, method, timeout, metadata))
    return b"".join((encode_uvarint(len(head) + len(arguments)), head, arguments))


def encode_result(call: int, result: bytes) -> bytes:
    """A result, which is packed."""
    head = _RESULT + pack_number(call)
    return b"".join((encode_uvarint(len(head) + len(result)), head, result))


def encode_error(call: int, code: int, message: str, facts: Mapping[str, Any]) -> bytes:
    """A failure; `facts` are plain values, and those that are nothing are left out.

    A text that cannot be encoded, as one that quotes the name of a file, has codes in its place.
    """
    return encode_length_prefixed(
        _pack([Kind.ERROR, call, code, encodable(message), present_facts(facts)])
    )


def present_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a failure without those that are nothing, with texts that can be encoded."""
    return {
        key: encodable(value) if isinstance(value, str) else value
        for key, value in facts.items()
        if value not in (None, "", False)
    }


def encode_hello(session: bytes, answers: int, stream: int) -> bytes:
    """The client's first frame, on the `stream`-th stream of the session."""
    return encode_length_prefixed(_pack([Kind.HELLO, VERSION, session, answers, stream]))


def encode_welcome(session: bytes, answers: int, highest: int | None) -> bytes:
    """The server's first frame."""
    return encode_length_prefixed(_pack([Kind.HELLO, VERSION, session, answers, highest]))


def encode_numbered(kind: Kind, number: int) -> bytes:
    """A CANCEL, an ACK or an ELSEWHERE."""
    return encode_length_prefixed(_pack([kind, number]))


def fits_control(body: Encoded, metadata: bytes = NIL) -> bool:
    """Whether arguments or a result can go over the control plane; `metadata` is packed."""
    if body.buffers or len(body.skeleton) > CONTROL_BODY:
        return False
    if len(metadata) > _MAX_METADATA_ITEMS and most_items(metadata) > _MAX_METADATA_ITEMS:
        return False
    try:
        check_items(body.skeleton, _MAX_BODY_ITEMS)
    except TooManyItemsError:
        return False
    return True


def check_frame_items(frame: bytes) -> None:
    """Hold a frame to :data:`MAX_FRAME_ITEMS`, before it is decoded. Raises RemoteProtocolError."""
    try:
        check_items(frame, MAX_FRAME_ITEMS)
    except TooManyItemsError:
        text = f"RPC: a frame has more than {MAX_FRAME_ITEMS} lists, dicts and the like"
        raise RemoteProtocolError(text) from None
    except Exception:  # msgpack's own, and no frame
        raise RemoteProtocolError("RPC: a frame is no msgpack") from None


def check_frame(frame: Any, sizes: Mapping[int, tuple[int, ...]]) -> list[Any]:
    """Hold a frame to its outer form; `sizes` are the lengths that each kind may have.

    Raises RemoteProtocolError.
    """
    if type(frame) is not list or not frame or type(frame[0]) is not int:
        raise RemoteProtocolError("RPC: a frame is an array that begins with its kind")
    if frame[0] not in sizes:  # and may be too large a number to be said
        raise RemoteProtocolError("RPC: a frame of a kind that is not known here")
    if len(frame) not in sizes[frame[0]]:
        raise RemoteProtocolError(f"RPC: a frame of kind {frame[0]} with {len(frame)} items")
    if len(frame) > 1 and not (type(frame[1]) is int and 0 <= frame[1] < MAX_ID):
        raise RemoteProtocolError("RPC: a frame without a number")
    return frame


def session_of(frame: list[Any]) -> tuple[bytes, int]:
    """Session and count of answers of a checked HELLO. Raises RemoteProtocolError."""
    version, session, answers = frame[1:4]
    if type(version) is not int or version != VERSION:
        is_one = type(version) is int and 0 <= version < MAX_ID
        said = f"version {version}" if is_one else "a version that is none"
        raise RemoteProtocolError(f"RPC: {said} is not spoken here, only {VERSION}")
    if type(session) is not bytes or len(session) != SESSION_BYTES:
        raise RemoteProtocolError("RPC: a session is named by 16 bytes")
    if type(answers) is not int or not 0 <= answers < MAX_ID:
        raise RemoteProtocolError("RPC: a hello without a count of answers")
    return session, answers


def split_arguments(arguments: Any) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by position and by name. Raises RemoteProtocolError."""
    if type(arguments) is list:
        return arguments, {}
    if type(arguments) is dict and all(type(name) is str for name in arguments):
        args = arguments.pop("", None)
        if type(args) is list:
            return args, arguments
    raise RemoteProtocolError("RPC: arguments are an array, or a map with one")


def milliseconds(seconds: float) -> int:
    """How long a call may take, as that travels."""
    return math.ceil(max(0.0, min(seconds, _LONGEST)) * 1000)


def check_options(timeout_ms: Any, metadata: Any) -> None:
    """Hold what a request may have besides to its form. Raises RemoteProtocolError."""
    if timeout_ms is not None and not (type(timeout_ms) is int and 0 <= timeout_ms < 2**53):
        raise RemoteProtocolError("RPC: a timeout is a number of milliseconds")
    if metadata is not None and not (
        type(metadata) is dict and all(type(key) is str for key in metadata)
    ):
        raise RemoteProtocolError("RPC: metadata is a map of names")
