"""Messages of the original's RPC: of unary calls, one on a stream each way, and the frames of
streams. Pure.

Source: lattica 1.0.21, `lattica/src/rpc/protocol.rs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lattica.compat.wire.bincode import Reader, blob, text, uint
from lattica.nat.base.errors import RemoteProtocolError

UNARY: Final = "/rpc/req-resp/1.0.0"
STREAM: Final = "/rpc/stream/1.0.0"

MAX_UNARY: Final = 96 * 1024 * 1024
"""Bytes of a message of a unary call."""
MAX_FRAME: Final = 64 * 1024 * 1024
"""Bytes of a frame. Of results in parts, the original sends 16 MiB at a time; an item of a stream
is one frame, whatever its size."""
MAX_BODY: Final = 512 * 1024 * 1024
"""Bytes of the arguments or the result of a call over a stream."""
PART: Final = 16 * 1024 * 1024
"""Bytes of a body that go into one frame."""
MAX_ID: Final = 128
MAX_METHOD: Final = 1024
MAX_ERROR: Final = 64 * 1024

Data = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Request:
    """A unary call, or the beginning of one over a stream, whose arguments follow."""

    id: str
    method: str
    """`Class.method`."""
    data: Data = b""


@dataclass(frozen=True, slots=True)
class Response:
    """The result of a unary call."""

    id: str
    data: Data


@dataclass(frozen=True, slots=True)
class Failure:
    """A call has failed."""

    id: str
    error: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a call's arguments or result, or an item of its results."""

    id: str
    data: Data
    is_end: bool = False
    """The last one of a body; items of a stream do not have it."""


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more comes for a call."""

    id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller gives a call up."""

    id: str


Message = Request | Response | Failure
Frame = Request | Part | Failure | Close | Cancel


def encode_message(message: Message) -> bytes:
    """A message of a unary call; it ends with the stream."""
    if isinstance(message, Request):
        return b"\0" + text(message.id) + text(message.method) + blob(bytes(message.data)) + b"\0"
    if isinstance(message, Response):
        return b"\1" + text(message.id) + blob(bytes(message.data)) + b"\0"
    return b"\2" + text(message.id) + text(_short(message.error))


def decode_message(data: bytes | bytearray | memoryview) -> Message:
    """Raises RemoteProtocolError."""
    reader = Reader(data)
    kind = reader.uint()
    name = reader.text(MAX_ID)
    message: Message
    if kind == 0:
        message = Request(name, reader.text(MAX_METHOD), reader.blob())
        _check_plain(reader)
    elif kind == 1:
        message = Response(name, reader.blob())
        _check_plain(reader)
    elif kind == 2:
        message = Failure(name, reader.text(MAX_ERROR))
    else:
        raise RemoteProtocolError(f"RPC of the original: no message is of kind {kind}")
    reader.end()
    return message


def _check_plain(reader: Reader) -> None:
    """The data is not compressed, which only programs in Rust can ask for."""
    if reader.flag() and reader.uint() != 0:
        raise RemoteProtocolError("RPC of the original: the data is compressed")


def frame_parts(frame: Frame) -> tuple[bytes, Data, bytes]:
    """A frame with its length, as what comes before its data, the data, which is not copied, and
    what comes after it.
    """
    data: Data = b""
    after = b""
    if isinstance(frame, Request):
        before = b"\0" + text(frame.id) + text(frame.method) + uint(len(frame.data))
        data = frame.data
    elif isinstance(frame, Part):
        before = b"\1" + text(frame.id) + uint(len(frame.data))
        data, after = frame.data, b"\1" if frame.is_end else b"\0"
    elif isinstance(frame, Failure):
        before = b"\2" + text(frame.id) + text(_short(frame.error))
    else:
        before = (b"\3" if isinstance(frame, Close) else b"\4") + text(frame.id)
    size = len(before) + len(data) + len(after)
    return size.to_bytes(4, "big") + before, data, after


def decode_frame(data: bytes | bytearray | memoryview) -> Frame:
    """A frame without its length. Raises RemoteProtocolError."""
    reader = Reader(data)
    kind = reader.uint()
    name = reader.text(MAX_ID)
    frame: Frame
    if kind == 0:
        frame = Request(name, reader.text(MAX_METHOD), reader.blob())
    elif kind == 1:
        frame = Part(name, reader.blob(), reader.flag())
    elif kind == 2:
        frame = Failure(name, reader.text(MAX_ERROR))
    elif kind == 3:
        frame = Close(name)
    elif kind == 4:
        frame = Cancel(name)
    else:
        raise RemoteProtocolError(f"RPC of the original: no frame is of kind {kind}")
    reader.end()
    return frame


def _short(error: str) -> str:
    return error if len(error) <= MAX_ERROR // 4 else error[: MAX_ERROR // 4]
