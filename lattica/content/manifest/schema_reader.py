"""Reading what a peer has encoded as canonical msgpack along a schema, value after value. Pure."""

from __future__ import annotations

from typing import TypeVar

import msgpack

T = TypeVar("T")


class SchemaReader:
    """Reads msgpack along a schema. Every mismatch is a :class:`ValueError`."""

    def __init__(self, data: bytes) -> None:
        self._unpacker = msgpack.Unpacker(
            # One byte more than fed: the buffer must not be exactly full.
            max_buffer_size=len(data) + 1,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
            strict_map_key=True,
        )
        self._unpacker.feed(data)

    def array(self, what: str, maximum: int, minimum: int = 0) -> int:
        """Length of the array that comes next."""
        length: int = self._unpacker.read_array_header()
        if not minimum <= length <= maximum:
            raise ValueError(f"{what}: {length} elements, where {minimum} to {maximum} belong")
        return length

    def value(self, kind: type[T], what: str) -> T:
        """The scalar that comes next, of exactly this type."""
        value = self._unpacker.unpack()
        if type(value) is not kind:
            raise ValueError(f"{what} is not of type {kind.__name__}")
        return value

    def number(self, what: str, maximum: int) -> int:
        """The number from 0 to `maximum` that comes next."""
        value = self.value(int, what)
        if not 0 <= value <= maximum:
            raise ValueError(f"{what} is not from 0 to {maximum}")
        return value
