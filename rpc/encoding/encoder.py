"""Values to bytes: what msgpack does itself it does in C; the rest is rewritten before.

Containers of plain values are recognised by the set of their items' types, at the speed of C, and
left alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

from lattica.nat.base.wire import encode_uvarint
from lattica.rpc.encoding.arrays import (
    array_parts,
    loaded,
    scalar_parts,
    slice_of_safetensors,
    tensor_parts,
)
from lattica.rpc.encoding.codes import MARKERS, Code
from lattica.rpc.encoding.items import check_items
from lattica.rpc.encoding.registry import TypeRegistry, is_named_tuple, is_protobuf

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_DEPTH: Final = 100
"""Levels of containers."""
MAX_BUFFERS: Final = 4096
"""Out-of-line buffers of a message."""
_INLINE: Final = 60 * 1024
"""Bytes of buffers that a skeleton takes in, in all: such messages travel in one piece."""
_ALWAYS_INLINE: Final = 1024
"""Bytes up to which a buffer costs more by itself than in the skeleton."""
_LARGE_PACKER: Final = 8 * 1024 * 1024
_PLAIN: Final = frozenset({int, float, str, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message: `skeleton` is msgpack, `buffers` lie where the value has them.

    A `bytes` object among the buffers is immutable and must arrive as one; all others are memory.
    They must not change until they are sent.
    """

    skeleton: bytes
    buffers: tuple[Buffer, ...] = ()

    @property
    def size(self) -> int:
        """Bytes, without framing."""
        return len(self.skeleton) + sum(map(len, self.buffers))


class Encoder:
    """Encodes values of all kinds that travel. Not for several threads at once."""

    def __init__(self, types: TypeRegistry) -> None:
        self._types = types
        self._packer = self._new_packer()
        self._buffers: list[Buffer] = []
        self._inlined = 0
        self._depth = 0
        self._rewriters: dict[type, Callable[[Any], Any]] = {
            list: self._list,
            dict: self._dict,
            tuple: lambda value: self._marked(Code.TUPLE, value),
            set: lambda value: self._marked(Code.SET, value),
            frozenset: lambda value: self._marked(Code.FROZENSET, value),
            bytes: self._bytes,
            bytearray: self._bytearray,
            memoryview: self._memoryview,
            int: _big_integer,
            complex: lambda value: _ext(Code.COMPLEX, struct.pack("<dd", value.real, value.imag)),
            datetime.datetime: lambda value: _ext(Code.DATETIME, _iso(value)),
            datetime.date: lambda value: _ext(Code.DATE, _iso(value)),
            datetime.time: lambda value: _ext(Code.TIME, _iso(value)),
            datetime.timedelta: _timedelta,
        }

    def _new_packer(self) -> Any:
        return msgpack.Packer(default=self._unpackable, strict_types=True)

    def encode(self, value: object, name: str = "value") -> Encoded:
        """Encode a value; `name` is what an error calls it.

        Raises:
            TypeError: a part of it is of a type that cannot travel; the message has its path.
            ValueError: it is too deep or contains itself, has too many buffers or items
                (:data:`~lattica.rpc.encoding.items.MAX_ITEMS`), or a text is not valid Unicode.
        """
        try:
            return self._encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            kind, text = self._located(value, name, error)
            raise kind(text) from None

    def encode_small(self, values: list[Any]) -> bytes | None:
        """The skeleton of a list of plain values and short bytes, as most arguments are; None for
        any other, or if it cannot be encoded: then :meth:`encode` says why.
        """
        for value in values:
            if type(value) not in _PLAIN and (
                type(value) is not bytes or len(value) > _ALWAYS_INLINE
            ):
                return None
        try:
            packed: bytes = self._packer.pack(values)
        except (ValueError, OverflowError):
            return None
        return packed

    def _encode(self, value: object) -> Encoded:
        self._buffers = []
        self._inlined = 0
        self._depth = 0
        skeleton: bytes = self._packer.pack(self.rewrite(value))
        check_items(skeleton)
        if len(skeleton) > _LARGE_PACKER:
            self._packer = self._new_packer()  # it keeps its memory
        buffers, self._buffers = self._buffers, []
        return Encoded(skeleton, tuple(buffers))

    def rewrite(self, value: Any) -> Any:
        """The value in terms of what msgpack knows."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        rewriter = self._rewriters.get(kind)
        if rewriter is None:
            rewriter = self._rewriters[kind] = self._find_rewriter(kind)
        if self._depth >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels, or contains itself")
        self._depth += 1
        rewritten = rewriter(value)
        self._depth -= 1
        return rewritten

    def _unpackable(self, value: Any) -> Any:
        """For msgpack: what it cannot pack, which are keys of dicts and long integers."""
        if type(value) is int:
            return _big_integer(value)
        return self.rewrite(value)

    # --- containers ---

    def _list(self, value: list[Any]) -> list[Any]:
        if _PLAIN.issuperset(map(type, value)):
            return value
        return [*map(self.rewrite, value)]

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        if _PLAIN.issuperset(map(type, value.values())):
            return value
        return {key: self.rewrite(item) for key, item in value.items()}

    def _marked(self, code: Code, items: Iterable[Any]) -> list[Any]:
        return [MARKERS[code], *map(self.rewrite, items)]

    # --- buffers ---

    def _bytes(self, value: bytes) -> Any:
        return self._placed(value, value, Code.BYTES_BUFFER)

    def _bytearray(self, value: bytearray) -> Any:
        return self._placed(value, Code.BYTEARRAY, Code.BYTEARRAY_BUFFER)

    def _memoryview(self, value: memoryview) -> Any:
        if not value.c_contiguous:
            raise TypeError("a memoryview that is not contiguous cannot be sent")
        return self._placed(value.cast("B") if value.nbytes else b"", Code.MEMORYVIEW, Code.BUFFER)

    def _memory(self, value: memoryview) -> Any:
        """Memory of an array: inline it is plain bytes."""
        return self._placed(value, bytes, Code.BUFFER)

    def _placed(self, data: Buffer, inline: Any, outside: Code) -> Any:
        size = len(data)
        if size <= _ALWAYS_INLINE or self._inlined + size <= _INLINE:
            self._inlined += size
            if inline is bytes:
                return bytes(data)
            return _ext(inline, bytes(data)) if isinstance(inline, Code) else inline
        if len(self._buffers) >= MAX_BUFFERS:
            raise ValueError(f"more than {MAX_BUFFERS} buffers in a message")
        self._buffers.append(data)
        return _ext(outside, encode_uvarint(len(self._buffers) - 1))

    # --- types that are not built in ---

    def _find_rewriter(self, kind: type) -> Callable[[Any], Any]:
        """How values of a type that is met for the first time travel. Raises TypeError."""
        if issubclass(kind, enum.Enum):
            return self._enum
        if is_named_tuple(kind):
            return self._named_tuple
        if is_protobuf(kind):
            return self._protobuf
        if dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind) if field.init]
            return lambda value: self._struct(kind, {name: getattr(value, name) for name in names})
        numpy, torch = loaded("numpy"), loaded("torch")
        if numpy is not None:
            if kind is numpy.ndarray or kind is numpy.memmap:
                return self._array
            if issubclass(kind, numpy.generic):
                return self._scalar
        if torch is not None and (kind is torch.Tensor or kind is torch.nn.Parameter):
            return self._tensor
        if kind.__name__ == "PySafeSlice":
            return lambda value: self.rewrite(slice_of_safetensors(value))
        streams = issubclass(kind, Iterator | AsyncIterator)
        hint = "; a stream of requests takes a stub of the service's class" if streams else ""
        raise TypeError(
            f"values of type {kind.__module__}.{kind.__qualname__} cannot be sent{hint}"
        )

    def _struct(self, kind: type, fields: dict[str, Any]) -> list[Any]:
        return [MARKERS[Code.STRUCT], self._types.name_of(kind), self._dict(fields)]

    def _named_tuple(self, value: Any) -> list[Any]:
        return self._struct(type(value), value._asdict())

    def _enum(self, value: enum.Enum) -> list[Any]:
        if value.name not in type(value).__members__:
            raise TypeError(f"{value!r} is a combination of flags, which has no name")
        return [MARKERS[Code.ENUM], self._types.name_of(type(value)), value.name]

    def _protobuf(self, value: Any) -> list[Any]:
        name = self._types.name_of(type(value))
        return [MARKERS[Code.PROTOBUF], name, self._bytes(value.SerializeToString())]

    def _array(self, value: Any) -> list[Any]:
        dtype, shape, column_major, data = array_parts(value)
        return [MARKERS[Code.ARRAY], dtype, shape, column_major, self._memory(data)]

    def _scalar(self, value: Any) -> list[Any]:
        return [MARKERS[Code.SCALAR], *scalar_parts(value)]

    def _tensor(self, value: Any) -> list[Any]:
        dtype, shape, data = tensor_parts(value)
        return [MARKERS[Code.TENSOR], dtype, shape, self._memory(data)]

    # --- errors ---

    def _located(self, value: Any, path: str, error: Exception) -> tuple[type[Exception], str]:
        """The error, with where in a value that cannot be encoded its reason is, by trying the
        parts.
        """
        for _ in range(MAX_DEPTH):
            for step, part in _parts(value):
                try:
                    self._encode(part)
                except (TypeError, ValueError, OverflowError, RecursionError) as reason:
                    path, value, error = path + step, part, reason
                    break
            else:
                break
        kind = TypeError if isinstance(error, TypeError) else ValueError
        text = f"{path}: {error}"
        if isinstance(error, RecursionError):
            text = f"{path}: nested deeper than {MAX_DEPTH} levels, or contains itself"
        del error  # it leads to this frame
        return kind, text


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """The parts of a container, each with how it is reached."""
    if isinstance(value, dict):
        yield from ((f"[key {key!r:.60}]", key) for key in value if type(key) not in _PLAIN)
        yield from ((f"[{key!r:.60}]", item) for key, item in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{name}", getattr(value, name)) for name in value._fields)
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"{{{item!r:.60}}}", item) for item in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.init:
                yield f".{field.name}", getattr(value, field.name)


def _ext(code: Code, data: bytes) -> Any:
    return msgpack.ExtType(code, data)


def _big_integer(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return value
    return _ext(Code.INTEGER, _signed(value))


def _signed(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _iso(value: datetime.datetime | datetime.date | datetime.time) -> bytes:
    return value.isoformat().encode()


def _timedelta(value: datetime.timedelta) -> Any:
    return _ext(Code.TIMEDELTA, _signed(value // datetime.timedelta(microseconds=1)))
