"""Plain data in its one encoding: canonical msgpack, read under limits.

Plain data are nil, booleans, integers from -2^63 to 2^64 - 1, 64-bit floats, texts, bytes, lists,
and maps whose keys are texts. Canonical is the shortest form that msgpack has for each, floats
always as 64 bits with one NaN, and maps in the order of their keys' UTF-8 bytes. So equal data are
equal bytes, and what is hashed and signed can be checked by reading it and writing it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, TypeAlias, Union

import msgpack

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError

Plain: TypeAlias = Union[
    bool, int, float, str, bytes, "Sequence[Plain]", "Mapping[str, Plain]", None
]
"""What a value can be: a list, tuple or dict where there is one. A tuple comes back as a list."""

MAX_DEPTH: Final = 32
"""Lists and maps inside each other."""
MAX_ITEMS: Final = 4096
"""Of one list or map."""

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
_NAN: Final = math.nan
_pack = msgpack.Packer(use_bin_type=True, strict_types=True).pack


class _NotPlainError(Exception):
    """The value has no canonical form; the message says why."""


def encode(value: Plain) -> bytes:
    """The canonical bytes of a value.

    Raises:
        LocalProtocolError: it is not plain data, or nested or long beyond the limits.
    """
    try:
        return _encode(value)
    except _NotPlainError as error:
        raise LocalProtocolError(f"{error}") from None


def decode(data: bytes, limit: int) -> Plain:
    """The value whose canonical bytes these are; maps in order of their keys.

    Raises:
        RemoteProtocolError: they are more than `limit`, no msgpack, not plain data, beyond the
            limits, or in another form than the canonical one.
    """
    if len(data) > limit:
        raise RemoteProtocolError(f"{len(data)} bytes of data, where {limit} are allowed")
    try:
        value: Plain = msgpack.unpackb(
            data,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
            strict_map_key=True,
            object_pairs_hook=_in_order,
            ext_hook=_no_extension,
        )
        # Most NaNs are not the canonical one.
        is_canonical = (_encode if _has_nan(value, 0) else _pack)(value) == data
    except (ValueError, msgpack.UnpackException, _NotPlainError) as error:
        # Not its repr, which can have all the data in it.
        what = f"{error}" or type(error).__name__
        raise RemoteProtocolError(f"not canonical msgpack: {what:.200}") from None
    if not is_canonical:
        raise RemoteProtocolError("msgpack in another form than the canonical one")
    return value


def encode_known(value: Plain) -> bytes:
    """As :func:`encode`, for what is known to be plain and in order, without a tuple: that is what
    :func:`decode` has given, and lists of bytes and integers. It takes a fifth of the time. What
    does not fit 64 bits raises OverflowError.
    """
    packed: bytes = _pack(value)
    return packed


def _in_order(pairs: list[tuple[object, object]]) -> dict[object, object]:
    """A map that was read: what msgpack writes of it has the order that it had."""
    for (first, _), (second, _) in pairwise(pairs):
        if type(first) is not str or type(second) is not str or first >= second:
            raise ValueError("a map out of order")
    if len(pairs) == 1 and type(pairs[0][0]) is not str:
        raise ValueError("a key of a map that is no text")
    return dict(pairs)


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError("an extension")


def _has_nan(value: object, depth: int) -> bool:
    """Whether a NaN is in what was read. Raises _NotPlainError for what is nested too deeply."""
    kind = type(value)
    if kind is not list and kind is not dict:
        return value != value
    if depth >= MAX_DEPTH:
        raise _NotPlainError(f"more than {MAX_DEPTH} lists and maps inside each other")
    has_nan = False
    items: Iterable[object] = value if kind is list else value.values()  # type: ignore[assignment, attr-defined]
    for item in items:
        kind = type(item)
        if kind is list or kind is dict or kind is float:
            has_nan |= _has_nan(item, depth + 1)
    return has_nan


def _encode(value: object) -> bytes:
    packed: bytes = _pack(_ordered(value, 0))
    return packed


def _ordered(value: object, depth: int) -> object:
    """The value with its maps in order. Types are matched exactly: a subclass has other data."""
    kind = type(value)
    if kind is bytes or value is None or kind is bool:
        return value
    if kind is str:
        return value if value.isascii() else _checked_text(value)  # type: ignore[attr-defined]
    if kind is int:
        if not _MIN_INT <= value <= _MAX_INT:  # type: ignore[operator]
            raise _NotPlainError("an integer of more than 64 bits")
        return value
    if kind is float:
        return _NAN if value != value else value
    if kind is list or kind is tuple:
        _check_size(value, depth)
        return [_ordered(item, depth + 1) for item in value]  # type: ignore[attr-defined]
    if kind is dict:
        _check_size(value, depth)
        items = value.items()  # type: ignore[attr-defined]
        if any(type(key) is not str for key, _ in items):
            raise _NotPlainError("a key of a map that is no text")
        # Code points are in the order of their UTF-8 bytes.
        return {
            _checked_text(key): _ordered(item, depth + 1)
            for key, item in sorted(items, key=lambda each: each[0])
        }
    raise _NotPlainError(f"{kind.__name__} is not plain data")


def _checked_text(text: object) -> object:
    try:
        text.encode()  # type: ignore[attr-defined]
    except UnicodeEncodeError:
        raise _NotPlainError("half a character in a text") from None
    return text


def _check_size(value: object, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise _NotPlainError(f"more than {MAX_DEPTH} lists and maps inside each other")
    if len(value) > MAX_ITEMS:  # type: ignore[arg-type]
        raise _NotPlainError(f"a list or map of more than {MAX_ITEMS} items")
