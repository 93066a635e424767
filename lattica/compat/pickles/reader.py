"""Reads plain data from pickles of strangers. Pure.

Each value is kept with its shape: how deep it is, and how many values it is when it is written out
with everything that it refers to. A pickle may refer to what it has made before, so that a few
bytes can stand for more than any memory; and a container that is changed after it has been put into
another could contain itself. Both are refused, so whoever walks through a value comes to an end,
in a time that the size of the pickle bounds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from lattica.compat.pickles import opcodes as op
from lattica.nat.base.errors import RemoteProtocolError

MAX_DEPTH: Final = 100
"""Containers within each other."""
MAX_STEPS: Final = 8_000_000
"""Opcodes of a pickle: a value takes two of them at most."""
MAX_VALUES: Final = 4_000_000
"""Values that stand for something at a time, and that a pickle is when it is written out."""
MAX_CONTAINERS: Final = 1_000_000
MAX_INT: Final = 1024
"""Bytes of an integer."""
MAX_ALIKE: Final = 32
"""Keys of one container that have the same hash. Those of numbers and tuples can be chosen, and
each costs a comparison with all that were before it."""

_HASH_BITS: Final = 61
"""Smaller integers have hashes of their own."""

_uint16 = struct.Struct("<H").unpack_from
_int32 = struct.Struct("<i").unpack_from
_uint32 = struct.Struct("<I").unpack_from
_uint64 = struct.Struct("<Q").unpack_from
_double = struct.Struct(">d").unpack_from


class _Shape:
    """Of a container."""

    __slots__ = ("depth", "hashes", "is_placed", "weight")

    def __init__(self, depth: int = 1, weight: int = 1) -> None:
        self.depth = depth
        self.weight = weight
        """Values, itself included."""
        self.is_placed = False
        """It is part of another one, and does not change any more."""
        self.hashes: dict[int, int] | None = None
        """How often each hash that can be chosen is one of a key's."""


_Shapes: TypeAlias = list[_Shape | None]


def read_pickle(data: bytes | bytearray | memoryview) -> Any:
    """The value of a pickle of protocol 4 or 5.

    None, bool, int, float, str, bytes, bytearray, list, tuple, set, frozenset and dict come as they
    were; what was one object twice is one object.

    Raises:
        RemoteProtocolError: it is no pickle, has anything but plain data, is too deep, contains
            itself, or stands for too many values.
    """
    return _Reader(memoryview(data)).read()


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._shapes: _Shapes = []
        """Of the stack; None: a single value."""
        self._marks: list[int] = []
        self._memo: list[Any] = []
        self._memo_shapes: _Shapes = []
        self._containers = 0
        self._hashed = 0

    def read(self) -> Any:
        data, stack, shapes = self._data, self._stack, self._shapes
        if len(data) < 3 or data[0] != op.PROTO or data[1] not in (4, 5):
            raise _refused("a pickle begins with protocol 4 or 5")
        self._at = 2
        size = len(data)
        steps = 0
        single, whole = _SINGLE, _WHOLE
        while True:
            if self._at >= size:
                raise _refused("it ends too soon")
            code = data[self._at]
            self._at += 1
            steps += 1
            read = single[code]
            if read is not None:
                stack.append(read(self))
                shapes.append(None)
            elif code == op.STOP:
                break
            else:
                act = whole[code]
                if act is None:
                    raise self._unknown(code)
                act(self)
            if steps > MAX_STEPS or len(stack) > MAX_VALUES:
                raise _refused("too many values")
        if len(stack) != 1 or self._marks:
            raise _refused("it is not one value")
        if self._at != size:
            raise _refused("something follows the value")
        return stack[0]

    def _unknown(self, code: int) -> RemoteProtocolError:
        name = op.OBJECTS.get(code)
        if name is None:
            return _refused(f"there is no plain data by opcode {code:#04x}")
        named = ""
        if name == "STACK_GLOBAL" and all(isinstance(each, str) for each in self._stack[-2:]):
            named = " of " + ".".join(self._stack[-2:])[:200]
        return _refused(f"an object{named} ({name}): plain data only")

    # --- bytes ---

    def _take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._data):
            raise _refused("it ends too soon")
        part = self._data[self._at : end]
        self._at = end
        return part

    def _number(self, unpack: Callable[[memoryview, int], tuple[Any]], size: int) -> Any:
        at = self._at
        if at + size > len(self._data):
            raise _refused("it ends too soon")
        self._at = at + size
        return unpack(self._data, at)[0]

    def byte(self) -> int:
        at = self._at
        if at >= len(self._data):
            raise _refused("it ends too soon")
        self._at = at + 1
        return self._data[at]

    def uint16(self) -> int:
        return int(self._number(_uint16, 2))

    def int32(self) -> int:
        return int(self._number(_int32, 4))

    def uint32(self) -> int:
        return int(self._number(_uint32, 4))

    def uint64(self) -> int:
        return int(self._number(_uint64, 8))

    def double(self) -> float:
        return float(self._number(_double, 8))

    def integer(self, size: int) -> int:
        if size > MAX_INT:
            raise _refused(f"an integer of {size} bytes; {MAX_INT} can be")
        return int.from_bytes(self._take(size), "little", signed=True)

    def text(self, size: int) -> str:
        try:
            return str(self._take(size), "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise _refused("a text is no UTF-8") from None

    def blob(self, size: int) -> bytes:
        return bytes(self._take(size))

    def array(self, size: int) -> bytearray:
        return bytearray(self._take(size))

    # --- stack ---

    def frame(self) -> None:
        if self.uint64() > len(self._data) - self._at:
            raise _refused("a frame ends too soon")

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def pop(self) -> None:
        self._require(1)
        self._stack.pop()
        self._shapes.pop()

    def pop_mark(self) -> None:
        self._cut()

    def memoize(self) -> None:
        self._require(1)
        self._memo.append(self._stack[-1])
        self._memo_shapes.append(self._shapes[-1])

    def get(self, index: int) -> None:
        if index >= len(self._memo):
            raise _refused("it refers to what is not there")
        self._stack.append(self._memo[index])
        self._shapes.append(self._memo_shapes[index])

    def _require(self, count: int) -> None:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - floor < count:
            raise _refused("it uses what is not there")

    def _cut(self) -> tuple[list[Any], _Shapes]:
        """What stands above the last mark, which goes with it."""
        if not self._marks:
            raise _refused("it uses what is not there")
        return self._cut_at(self._marks.pop())

    def _cut_last(self, count: int) -> tuple[list[Any], _Shapes]:
        self._require(count)
        return self._cut_at(len(self._stack) - count)

    def _cut_at(self, at: int) -> tuple[list[Any], _Shapes]:
        values, shapes = self._stack[at:], self._shapes[at:]
        del self._stack[at:], self._shapes[at:]
        return values, shapes

    # --- containers ---

    def push(self, container: Any, shape: _Shape) -> None:
        self._containers += 1
        if self._containers > MAX_CONTAINERS:
            raise _refused("too many containers")
        self._stack.append(container)
        self._shapes.append(shape)

    def make_tuple(self, count: int | None = None) -> None:
        values, shapes = self._cut() if count is None else self._cut_last(count)
        shape = _Shape()
        self._grow(shape, shapes)
        self.push(tuple(values), shape)

    def make_frozenset(self) -> None:
        values, shapes = self._cut()
        shape = _Shape()
        self._count_keys(shape, values, shapes)
        self._grow(shape, shapes)
        self.push(frozenset(values), shape)

    def extend(self, values: list[Any], shapes: _Shapes) -> None:
        target, shape = self._target(list)
        self._grow(shape, shapes)
        target.extend(values)

    def set_items(self, values: list[Any], shapes: _Shapes) -> None:
        if len(values) % 2:
            raise _refused("a key without a value")
        target, shape = self._target(dict)
        self._count_keys(shape, values[::2], shapes[::2])
        self._grow(shape, shapes)
        target.update(zip(values[::2], values[1::2], strict=True))

    def add_items(self) -> None:
        values, shapes = self._cut()
        target, shape = self._target(set)
        self._count_keys(shape, values, shapes)
        self._grow(shape, shapes)
        target.update(values)

    def _target(self, kind: type) -> tuple[Any, _Shape]:
        """The container that is on top of the stack, to be changed."""
        self._require(1)
        target, shape = self._stack[-1], self._shapes[-1]
        if type(target) is not kind or shape is None:
            raise _refused(f"it adds to what is no {kind.__name__}")
        if shape.is_placed:
            raise _refused("a container is changed once it is in another, or contains itself")
        return target, shape

    def _grow(self, shape: _Shape, parts: _Shapes) -> None:
        """`parts` become part of the container."""
        weight = shape.weight + len(parts)
        depth = shape.depth
        for part in parts:
            if part is not None:
                if part is shape:
                    raise _refused("a container contains itself")
                part.is_placed = True
                weight += part.weight - 1
                if part.depth >= depth:
                    depth = part.depth + 1
        if depth > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} containers in each other")
        if weight > MAX_VALUES:
            raise _refused("too many values")
        shape.weight, shape.depth = weight, depth

    def _count_keys(self, shape: _Shape, keys: list[Any], shapes: _Shapes) -> None:
        """Keys can be hashed, in bounded time, and their hashes differ."""
        for key, of_key in zip(keys, shapes, strict=True):
            kind = type(key)
            if kind is str or kind is bytes or (kind is int and key.bit_length() < _HASH_BITS):
                continue
            if of_key is not None:
                self._hashed += of_key.weight
                if self._hashed > MAX_VALUES:
                    raise _refused("too many values in keys")
            try:
                value = hash(key)
            except TypeError:
                raise _refused(f"a key that is a {kind.__name__}") from None
            if shape.hashes is None:
                shape.hashes = {}
            count = shape.hashes[value] = shape.hashes.get(value, 0) + 1
            if count > MAX_ALIKE:
                raise _refused("too many keys of the same hash")


def _refused(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"pickle: {why}")


_Value: TypeAlias = Callable[[_Reader], Any]
_Act: TypeAlias = Callable[[_Reader], None]


def _table(entries: dict[int, Any]) -> list[Any]:
    return [entries.get(code) for code in range(256)]


_SINGLE: Final[list[_Value | None]] = _table(
    {
        op.NONE: lambda reader: None,
        op.TRUE: lambda reader: True,
        op.FALSE: lambda reader: False,
        op.BININT: _Reader.int32,
        op.BININT1: _Reader.byte,
        op.BININT2: _Reader.uint16,
        op.LONG1: lambda reader: reader.integer(reader.byte()),
        op.LONG4: lambda reader: reader.integer(reader.uint32()),
        op.BINFLOAT: _Reader.double,
        op.SHORT_BINUNICODE: lambda reader: reader.text(reader.byte()),
        op.BINUNICODE: lambda reader: reader.text(reader.uint32()),
        op.BINUNICODE8: lambda reader: reader.text(reader.uint64()),
        op.SHORT_BINBYTES: lambda reader: reader.blob(reader.byte()),
        op.BINBYTES: lambda reader: reader.blob(reader.uint32()),
        op.BINBYTES8: lambda reader: reader.blob(reader.uint64()),
        op.BYTEARRAY8: lambda reader: reader.array(reader.uint64()),
    }
)
"""Opcodes that push one value."""

_WHOLE: Final[list[_Act | None]] = _table(
    {
        op.FRAME: _Reader.frame,
        op.MARK: _Reader.mark,
        op.POP: _Reader.pop,
        op.POP_MARK: _Reader.pop_mark,
        op.MEMOIZE: _Reader.memoize,
        op.BINGET: lambda reader: reader.get(reader.byte()),
        op.LONG_BINGET: lambda reader: reader.get(reader.uint32()),
        op.EMPTY_TUPLE: lambda reader: reader.push((), _Shape()),
        op.TUPLE: _Reader.make_tuple,
        op.TUPLE1: lambda reader: reader.make_tuple(1),
        op.TUPLE2: lambda reader: reader.make_tuple(2),
        op.TUPLE3: lambda reader: reader.make_tuple(3),
        op.EMPTY_LIST: lambda reader: reader.push([], _Shape()),
        op.EMPTY_DICT: lambda reader: reader.push({}, _Shape()),
        op.EMPTY_SET: lambda reader: reader.push(set(), _Shape()),
        op.FROZENSET: _Reader.make_frozenset,
        op.APPEND: lambda reader: reader.extend(*reader._cut_last(1)),
        op.APPENDS: lambda reader: reader.extend(*reader._cut()),
        op.SETITEM: lambda reader: reader.set_items(*reader._cut_last(2)),
        op.SETITEMS: lambda reader: reader.set_items(*reader._cut()),
        op.ADDITEMS: _Reader.add_items,
    }
)
"""Opcodes that work on the stack."""
