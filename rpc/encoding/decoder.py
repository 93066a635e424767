"""Bytes to values. Nothing is built before it is known that all of its parts have arrived."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.foreign_code import parted, text_of
from lattica.nat.base.wire import NeedMoreData, decode_uvarint
from lattica.rpc.encoding.annotations import Checker, checker_of
from lattica.rpc.encoding.arrays import RefusedValueError, make_array, make_scalar, make_tensor
from lattica.rpc.encoding.codes import DECODED_MARKERS, Code, Marker
from lattica.rpc.encoding.items import check_items
from lattica.rpc.encoding.memory import aligned_copy
from lattica.rpc.encoding.registry import TypeRegistry, hints_of, is_protobuf, is_struct

_CHECK_ABOVE: Final = 512
"""Bytes from which a message is gone through before anything is made of it. An array's header may
claim as many items as the message has bytes, and in each of 500 levels again."""
_MAX_INTEGER: Final = 64 * 1024
"""Bytes of an integer: to write one down in decimal takes time that grows with the square."""
MAX_COMPOSITE_KEYS: Final = 128
"""Keys of maps and items of sets in a message that are not in :data:`_SIMPLE_KEYS`. Their hashes
are whatever their sender wants (long integers are taken modulo 2^61 - 1, tuples and dates are made
of such), and n of one hash take n² comparisons. Of integers and floats of 64 bits only some tens
have one hash, and that of text and bytes is keyed."""
_SIMPLE_KEYS: Final = frozenset({str, bytes, int, bool, float, type(None)})


class _ManyComposite(Exception):
    """So many values that could be bad keys that keys must be looked at: begin again."""


class Decoder:
    """Decodes what :class:`~lattica.rpc.encoding.encoder.Encoder` makes. Not for several
    threads.
    """

    def __init__(self, types: TypeRegistry) -> None:
        self._types = types
        self._version = -1
        self._fields: dict[type, dict[str, Checker | None]] = {}
        self._required: dict[type, frozenset[str]] = {}
        self._buffers: Sequence[Any] = ()
        self._markers = 0
        self._composite = 0
        self._composite_keys: int | None = None
        self._refusal: RefusedValueError | None = None
        self._makers: dict[Code, Callable[[list[Any]], Any]] = {
            Code.TUPLE: tuple,
            Code.SET: self._set,
            Code.FROZENSET: lambda items: frozenset(self._set(items)),
            Code.STRUCT: self._struct,
            Code.ENUM: self._enum,
            Code.ARRAY: lambda parts: make_array(*_parts(parts, 4)),
            Code.SCALAR: lambda parts: make_scalar(*_parts(parts, 2)),
            Code.TENSOR: lambda parts: make_tensor(*_parts(parts, 3)),
            Code.PROTOBUF: self._protobuf,
        }
        self._values: dict[int, Callable[[bytes], Any]] = {
            Code.INTEGER: _integer,
            Code.DATETIME: lambda data: datetime.datetime.fromisoformat(data.decode()),
            Code.DATE: lambda data: datetime.date.fromisoformat(data.decode()),
            Code.TIME: lambda data: datetime.time.fromisoformat(data.decode()),
            Code.TIMEDELTA: lambda data: datetime.timedelta(microseconds=_integer(data)),
            Code.COMPLEX: lambda data: complex(*struct.unpack("<dd", data)),
            Code.BYTEARRAY: bytearray,
            Code.MEMORYVIEW: aligned_copy,
            Code.BYTES_BUFFER: lambda data: _of_type(self._buffer(data), bytes),
            Code.BYTEARRAY_BUFFER: lambda data: bytearray(self._buffer(data)),
            Code.BUFFER: lambda data: _of_type(self._buffer(data), memoryview),
        }

    def for_thread(self) -> Decoder:
        """Another one that knows the same types."""
        return Decoder(self._types)

    def decode(self, data: bytes | memoryview, buffers: Sequence[bytes | memoryview] = ()) -> Any:
        """Decode a message whose out-of-line buffers are `buffers`.

        Raises:
            RemoteProtocolError: it is no message.
            RefusedValueError: it is one, and something in it cannot be had here.
        """
        value, refusal = self.decode_partly(data, buffers)
        if refusal is not None:
            raise refusal
        return value

    def decode_partly(
        self, data: bytes | memoryview, buffers: Sequence[bytes | memoryview] = ()
    ) -> tuple[Any, RefusedValueError | None]:
        """:meth:`decode`, where the rest of a message counts although a part of it is refused.

        What is refused is None in the value. Raises RemoteProtocolError.
        """
        self._buffers = buffers
        self._markers = self._composite = 0
        self._composite_keys = self._refusal = None
        try:
            if len(data) > _CHECK_ABOVE:
                _go_through(data)
            try:
                value = msgpack.unpackb(
                    data,
                    ext_hook=self._on_ext,
                    list_hook=self._on_list,
                    strict_map_key=False,
                    timestamp=3,
                )
            except _ManyComposite:
                value = self._unpack_by_pairs(data)
        except RemoteProtocolError:
            raise
        except Exception as error:
            # msgpack's own; keys that cannot be hashed; dates that are none.
            kind = type(error).__name__
            raise RemoteProtocolError(f"no message of RPC: {kind}: {error}"[:300]) from None
        finally:
            self._buffers = ()
        if self._markers:
            raise RemoteProtocolError("no message of RPC: a marker that marks nothing")
        return value, self._refusal

    def _unpack_by_pairs(self, data: bytes | memoryview) -> Any:
        """With a call for each map before it is made, which costs time where there are many."""
        self._markers = self._composite = self._composite_keys = 0
        self._refusal = None
        return msgpack.unpackb(
            data,
            ext_hook=self._on_ext,
            list_hook=self._on_list,
            object_pairs_hook=self._on_pairs,
            strict_map_key=False,
            timestamp=3,
        )

    # --- hooks of msgpack ---

    def _on_ext(self, code: int, data: bytes) -> Any:
        make = self._values.get(code)
        if make is not None:
            self._count_composite()
            return make(data)
        marker = DECODED_MARKERS.get(code)
        if marker is None or data:
            raise RemoteProtocolError(f"no message of RPC: extension type {code}")
        self._markers += 1
        return marker

    def _on_list(self, items: list[Any]) -> Any:
        if not items or type(items[0]) is not Marker:
            return items
        self._markers -= 1
        self._count_composite()
        code = items[0].code
        del items[0]
        try:
            return self._makers[code](items)
        except RefusedValueError as error:
            self._refusal = self._refusal or error
            return None

    def _on_pairs(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any] | None:
        try:
            self._check_keys([key for key, _ in pairs])
        except RefusedValueError as error:
            self._refusal = self._refusal or error
            return None
        return dict(pairs)

    def _set(self, items: list[Any]) -> set[Any]:
        self._check_keys(items)
        return set(items)

    # --- keys ---

    def _count_composite(self) -> None:
        """Another value that may have any hash, be it a key or not."""
        self._composite += 1
        if self._composite > MAX_COMPOSITE_KEYS and self._composite_keys is None:
            raise _ManyComposite

    def _check_keys(self, keys: list[Any]) -> None:
        if self._composite_keys is None:
            return
        if _SIMPLE_KEYS.issuperset(map(type, keys)):
            integers = [key for key in keys if type(key) is int]
            if not integers or (min(integers) >= -(2**63) and max(integers) < 2**64):
                return
        self._composite_keys += sum(not _is_simple(key) for key in keys)
        if self._composite_keys > MAX_COMPOSITE_KEYS:
            raise RefusedValueError(
                f"more than {MAX_COMPOSITE_KEYS} keys of dicts and items of sets in a message that "
                "are neither text, bytes, numbers of 64 bits, booleans nor None"
            )

    def _buffer(self, data: bytes) -> Any:
        try:
            index, end = decode_uvarint(data)
        except NeedMoreData:
            index, end = -1, 0
        if not 0 <= index < len(self._buffers) or end != len(data):
            raise RemoteProtocolError("no message of RPC: a buffer that is not there")
        return self._buffers[index]

    # --- types by name ---

    def _known(self, parts: list[Any]) -> tuple[type, Any]:
        if len(parts) != 2 or not isinstance(parts[0], str):
            raise RemoteProtocolError("no message of RPC: a value of a named type is a name and it")
        kind = self._types.find(parts[0])
        if kind is None:
            raise RefusedValueError(
                f"the type {parts[0]!r:.100} is not known here: no annotation of a served method "
                "mentions it, and it is not registered"
            )
        return kind, parts[1]

    def _struct(self, parts: list[Any]) -> Any:
        kind, fields = self._known(parts)
        if not is_struct(kind) or not isinstance(fields, dict):
            raise RefusedValueError(f"{kind.__name__} does not consist of fields here")
        checkers = self._checkers(kind)
        if unknown := [name for name in fields if name not in checkers]:
            raise RefusedValueError(f"{kind.__name__} has no field {unknown[0]!r:.100} here")
        for name, value in fields.items():
            check = checkers[name]
            if check is not None:
                try:
                    fields[name] = check(value)
                except RefusedValueError as error:
                    raise RefusedValueError(f"{kind.__name__}.{name}: {error}") from None
        try:
            return kind(**fields)
        except BaseException as error:  # it checks its own fields, or one is missing
            if parted(error)[0] is not None:
                raise
            raise RefusedValueError(f"{kind.__name__}: {text_of(error)}"[:300]) from None

    def _checkers(self, kind: type) -> dict[str, Checker | None]:
        found = self._fields.get(kind)
        if found is None:
            hints = hints_of(kind)
            if dataclasses.is_dataclass(kind):
                names = [field.name for field in dataclasses.fields(kind) if field.init]
            else:
                names = list(getattr(kind, "_fields", ()))
            found = {name: checker_of(hints.get(name, Any)) for name in names}
            self._fields[kind] = found
        return found

    def _enum(self, parts: list[Any]) -> Any:
        kind, name = self._known(parts)
        if not issubclass(kind, enum.Enum) or not isinstance(name, str):
            raise RefusedValueError(f"{kind.__name__} is no enum here")
        if name not in kind.__members__:
            raise RefusedValueError(f"{kind.__name__} has no member {name!r:.100} here")
        return kind[name]

    def _protobuf(self, parts: list[Any]) -> Any:
        kind, data = self._known(parts)
        if not is_protobuf(kind) or not isinstance(data, bytes):
            raise RefusedValueError(f"{kind.__name__} is no protobuf message here")
        try:
            return kind.FromString(data)
        except Exception as error:
            raise RefusedValueError(f"{kind.__name__}: {error}"[:300]) from None


def _is_simple(key: object) -> bool:
    return type(key) in _SIMPLE_KEYS and (type(key) is not int or -(2**63) <= key < 2**64)


def _go_through(data: bytes | memoryview) -> None:
    """Raise unless every item that a header claims is there, and they are not too many."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(len(data), 1))
    unpacker.feed(data)
    unpacker.skip()
    check_items(bytes(data))


def _parts(parts: list[Any], count: int) -> list[Any]:
    if len(parts) != count or not isinstance(parts[-1], (bytes, memoryview)):
        raise RemoteProtocolError("no message of RPC: an array has a form and data")
    return parts


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RemoteProtocolError("no message of RPC: a buffer of the wrong kind")
    return value


def _integer(data: bytes) -> int:
    if len(data) > _MAX_INTEGER:
        raise RemoteProtocolError(f"no message of RPC: an integer of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)
