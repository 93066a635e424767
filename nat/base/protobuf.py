"""Protocol buffers from peers: bounded, and refused as the peer's fault when they are none."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from lattica.nat.base.errors import RemoteProtocolError

M = TypeVar("M", bound=Message)


def parse_message(message: M, data: bytes, what: str, *, limit: int | None = None) -> M:
    """Fill `message` from `data`, and return it; `what` names it in errors.

    Raises:
        RemoteProtocolError: for more than `limit` bytes (None: whoever took them off the wire has
            bounded them), and for what is not valid protobuf.
    """
    if limit is not None and len(data) > limit:
        raise RemoteProtocolError(f"{what} of {len(data)} bytes, {limit} are allowed")
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RemoteProtocolError(f"{what} is not valid protobuf") from None
    return message


def decode_text(data: bytes, what: str) -> str:
    """The text in a `bytes` field; our messages have no `string`.

    The runtimes of protobuf differ in when they find out that a `string` is none: those in C when
    the message is read, the one in Python when the field is, and by an error of its own.

    Raises:
        RemoteProtocolError: it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError(f"{what} is not UTF-8 text") from None
