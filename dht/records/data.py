"""Users' values as bytes: plain msgpack, and nothing that runs when it is read. Pure."""

from __future__ import annotations

import msgpack

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError

MAX_DATA = 32 * 1024
"""Bytes of one value, as msgpack."""


def encode_data(value: object) -> bytes:
    """None, bools, numbers, text, bytes, lists and dicts of these.

    Raises:
        LocalProtocolError: it is something else, or over :data:`MAX_DATA`.
    """
    try:
        data: bytes = msgpack.packb(value, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(
            f"values are plain data (numbers, text, bytes, lists, dicts): {error}"
        ) from None
    if len(data) > MAX_DATA:
        raise LocalProtocolError(f"a value has at most {MAX_DATA} bytes, not {len(data)}")
    try:
        decode_data(data)  # what could not be read again is not written, such as lists as keys
    except RemoteProtocolError:
        raise LocalProtocolError("keys of dicts are numbers, text or bytes") from None
    return data


def decode_data(data: bytes) -> object:
    """Raises RemoteProtocolError: it is no plain msgpack."""
    try:
        return msgpack.unpackb(
            data, raw=False, strict_map_key=False, ext_hook=_no_extension, timestamp=0
        )
    except Exception:  # msgpack's own, and what unhashable keys raise
        raise RemoteProtocolError("a value that is no plain msgpack") from None


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError(f"an extension of type {code}")
