"""The msgpack extension types of the encoding.

A *marker* is an extension without data that stands first in an array and says what the array is:
so composite values cost no second pass over their bytes. All other extensions hold their value.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from msgpack import ExtType


class Code(IntEnum):
    """Extension types. Markers are below :data:`FIRST_VALUE`."""

    TUPLE = 1
    """[marker, *items]"""
    SET = 2
    """[marker, *items]"""
    FROZENSET = 3
    """[marker, *items]"""
    STRUCT = 4
    """[marker, name, {field: value}]: a dataclass or a named tuple."""
    ENUM = 5
    """[marker, name, member]"""
    ARRAY = 6
    """[marker, dtype, shape, is column-major, data]: numpy's."""
    SCALAR = 7
    """[marker, dtype, data]: one of numpy's."""
    TENSOR = 8
    """[marker, dtype, shape, data]: torch's."""
    PROTOBUF = 9
    """[marker, full name, data]"""

    INTEGER = 16
    """Beyond 64 bits: two's complement, little-endian."""
    DATETIME = 17
    """ISO 8601, as the next two."""
    DATE = 18
    TIME = 19
    TIMEDELTA = 20
    """Microseconds as INTEGER has them."""
    COMPLEX = 21
    """Two float64, little-endian."""
    BYTEARRAY = 22
    MEMORYVIEW = 23
    """Bytes that arrive as a writable memoryview."""
    BYTES_BUFFER = 24
    """The number of an out-of-line buffer, a varint: immutable bytes."""
    BYTEARRAY_BUFFER = 25
    """The same, of a bytearray."""
    BUFFER = 26
    """The same: memory of an array, or a memoryview."""


FIRST_VALUE: Final = 16
IMMUTABLE: Final = frozenset({Code.BYTES_BUFFER})
"""Buffers that must arrive as `bytes`."""

MARKERS: Final = {code: ExtType(code, b"") for code in Code if code < FIRST_VALUE}


class Marker:
    """What a marker is while an array is being decoded."""

    __slots__ = ("code",)

    def __init__(self, code: Code) -> None:
        self.code = code


DECODED_MARKERS: Final = {int(code): Marker(code) for code in MARKERS}
