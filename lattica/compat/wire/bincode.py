"""bincode 2 with its standard configuration: numbers of variable length, little endian. Pure.

Source: https://github.com/bincode-org/bincode/blob/v2.0.1/docs/spec.md
"""

from __future__ import annotations

import struct
from typing import Final

from lattica.nat.base.errors import RemoteProtocolError

_WIDTHS: Final = {251: 2, 252: 4, 253: 8}
"""Bytes of a number that follow this one."""
_double = struct.Struct("<d")


def uint(value: int) -> bytes:
    """A number of up to 64 bits; also the length of a text or list, and which variant it is."""
    if value < 251:
        return bytes([value])
    for first, width in _WIDTHS.items():
        if value < 1 << (8 * width):
            return bytes([first]) + value.to_bytes(width, "little")
    raise ValueError(f"a number of more than 64 bits: {value}")


def blob(data: bytes) -> bytes:
    """Bytes with their length."""
    return uint(len(data)) + data


def text(value: str) -> bytes:
    """A text."""
    return blob(value.encode("utf-8", "replace"))


def double(value: float) -> bytes:
    """A number of 64 bits with a fraction."""
    return _double.pack(value)


class Reader:
    """Takes values from the front. Every method raises RemoteProtocolError for what is none."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)

    def _take(self, count: int) -> memoryview:
        if count > len(self._data):
            raise RemoteProtocolError("bincode: it ends too soon")
        part, self._data = self._data[:count], self._data[count:]
        return part

    def uint(self) -> int:
        """A number of up to 64 bits."""
        first = self._take(1)[0]
        if first < 251:
            return first
        width = _WIDTHS.get(first)
        if width is None:
            raise RemoteProtocolError(f"bincode: no number begins with {first}")
        return int.from_bytes(self._take(width), "little")

    def blob(self) -> memoryview:
        """Bytes, which are not copied."""
        return self._take(self.uint())

    def text(self, limit: int) -> str:
        """A text of at most `limit` bytes."""
        size = self.uint()
        if size > limit:
            raise RemoteProtocolError(f"bincode: a text of {size} bytes, where {limit} may be")
        try:
            return str(self._take(size), "utf-8")
        except UnicodeDecodeError:
            raise RemoteProtocolError("bincode: a text is no UTF-8") from None

    def flag(self) -> bool:
        """A bool; also whether something optional is there."""
        value = self._take(1)[0]
        if value > 1:
            raise RemoteProtocolError(f"bincode: {value} is neither true nor false")
        return bool(value)

    def double(self) -> float:
        """A number of 64 bits with a fraction."""
        return float(_double.unpack(self._take(8))[0])

    def end(self) -> None:
        """Nothing follows."""
        if self._data:
            raise RemoteProtocolError(f"bincode: {len(self._data)} bytes too many")
