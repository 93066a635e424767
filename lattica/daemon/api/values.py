"""Values in messages: MessagePack of plain data."""

from __future__ import annotations

from typing import Any

import msgpack

from lattica.nat.base.errors import LocalProtocolError


def pack(value: object) -> bytes:
    """Encode None, bools, numbers, text, bytes, lists and maps.

    Raises:
        LocalProtocolError: it is, or has in it, something else.
    """
    try:
        packed: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(
            f"the local API takes plain data only, not {type(value).__name__}: {error}"
        ) from None
    return packed


def unpack(data: bytes) -> Any:
    """Decode what :func:`pack` makes.

    Raises:
        LocalProtocolError: it is something else.
    """
    try:
        return msgpack.unpackb(data, strict_map_key=False, ext_hook=_no_extension)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise LocalProtocolError(f"a value that is no MessagePack: {reason}") from None


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension {code}, which is no plain data")
