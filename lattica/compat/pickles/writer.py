"""Writes plain data as a pickle of protocol 4, for nodes of the original. Pure."""

from __future__ import annotations

import struct
from typing import Any, Final

from lattica.compat.pickles import opcodes as op
from lattica.compat.pickles.reader import MAX_DEPTH

_uint32 = struct.Struct("<I").pack
_uint64 = struct.Struct("<Q").pack
_int32 = struct.Struct("<i").pack
_double = struct.Struct(">d").pack

_BEGIN: Final = bytes([op.PROTO, 4])


def write_pickle(value: Any) -> bytes:
    """A value as a pickle.

    Args:
        value: None, bool, int, float, str, bytes, bytearray, and lists, tuples, sets, frozensets
            and dicts of them. What is in it twice is written twice.

    Raises:
        TypeError: there is something else in it, it is too deep, or contains itself; the message
            says where.
    """
    out = bytearray(_BEGIN)
    try:
        _write(out, value, 0)
    except _NotPlainError as error:
        path = "".join(reversed(error.path))
        raise TypeError(f"the value{path[:200]} {error.why}") from None
    out.append(op.STOP)
    return bytes(out)


class _NotPlainError(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str] = []
        """To the value, from its end."""


def _write(out: bytearray, value: Any, depth: int) -> None:
    kind = type(value)
    if value is None:
        out.append(op.NONE)
    elif kind is bool:
        out.append(op.TRUE if value else op.FALSE)
    elif kind is str:
        encoded = value.encode("utf-8", "surrogatepass")
        _sized(out, encoded, op.SHORT_BINUNICODE, op.BINUNICODE, op.BINUNICODE8)
    elif kind is int:
        _write_int(out, value)
    elif kind is float:
        out.append(op.BINFLOAT)
        out += _double(value)
    elif kind is bytes:
        _sized(out, value, op.SHORT_BINBYTES, op.BINBYTES, op.BINBYTES8)
    elif kind is bytearray:
        out.append(op.BYTEARRAY8)
        out += _uint64(len(value))
        out += value
    elif kind not in _CONTAINERS:
        raise _NotPlainError(f"is of type {kind.__name__}, which plain data is not")
    elif depth >= MAX_DEPTH:
        raise _NotPlainError(f"is within more than {MAX_DEPTH} containers, or within itself")
    else:
        _write_container(out, value, depth + 1)


def _write_int(out: bytearray, value: int) -> None:
    if 0 <= value < 256:
        out += bytes([op.BININT1, value])
    elif -(1 << 31) <= value < 1 << 31:
        out.append(op.BININT)
        out += _int32(value)
    else:
        encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        if len(encoded) < 256:
            out += bytes([op.LONG1, len(encoded)])
        else:
            out.append(op.LONG4)
            out += _int32(len(encoded))
        out += encoded


def _sized(out: bytearray, data: bytes, short: int, middle: int, long: int) -> None:
    size = len(data)
    if size < 256:
        out += bytes([short, size])
    elif size < 1 << 32:
        out.append(middle)
        out += _uint32(size)
    else:
        out.append(long)
        out += _uint64(size)
    out += data


_CONTAINERS: Final[dict[type, tuple[int | None, int]]] = {
    list: (op.EMPTY_LIST, op.APPENDS),
    dict: (op.EMPTY_DICT, op.SETITEMS),
    set: (op.EMPTY_SET, op.ADDITEMS),
    tuple: (None, op.TUPLE),
    frozenset: (None, op.FROZENSET),
}
"""How each begins before its mark, and ends."""


def _write_container(out: bytearray, value: Any, depth: int) -> None:
    begin, end = _CONTAINERS[type(value)]
    if begin is not None:
        out.append(begin)
    out.append(op.MARK)
    place: Any = None
    try:
        if isinstance(value, dict):
            for place, item in value.items():
                _write(out, place, depth)
                _write(out, item, depth)
        else:
            for place, item in enumerate(value):  # noqa: B007 - named in errors
                _write(out, item, depth)
    except _NotPlainError as error:
        error.path.append(f"[{place!r:.80}]")
        raise
    out.append(end)
