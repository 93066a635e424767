"""Values between a program and the process of its node: copies of what is data.

msgpack, with extensions for what it does not have. Data are plain values, enums, paths, exceptions,
and objects of Lattica's own classes that hold nothing but data, which are written field by field.
Tensors lie in shared memory (:class:`SharedState`), and files and sockets are handed over as
descriptors. What is not data raises :class:`CannotCrossError`, and no code ever comes of what is
read: a class is looked up among Lattica's, and its instance is filled without being called.
"""

from __future__ import annotations

import builtins
import enum
import importlib
import mmap
import os
import socket
import tempfile
from array import array
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, Final

import msgpack

from lattica.content.disk import open_regular
from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.tensors.elements import RawTensor, StateDict, bytes_of, form_of
from lattica.content.tensors.mapped import MappedTensors
from lattica.content.tensors.targets import load
from lattica.content.weights.options import WeightVersion
from lattica.daemon.errors import CannotCrossError
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.in_process import InProcess

_BASES: Final = (str, bytes, int, float, tuple, list, dict)
"""What a class may extend, besides object."""
_ALIGNED: Final = 64
_LOCAL: Final = "lattica"


class _Code(enum.IntEnum):
    TUPLE = 1
    SET = 2
    FROZENSET = 3
    OBJECT = 4
    """[module, name, value of its base or nil, {attribute: value}]"""
    ENUM = 5
    """[module, name, value]"""
    ERROR = 6
    """[module, name, args, {attribute: value}, text]"""
    INTEGER = 7
    """Beyond 64 bits, as text."""
    PATH = 8
    STATE = 9
    """[number of the descriptor, bytes, {name: [dtype, shape, offset, bytes]}]"""
    WEIGHTS = 10
    """[number of the descriptor, {field: value}]"""
    HELD = 11
    """[number, module, name]: an object that stays where it is."""
    ARRAY = 13
    """Of the standard library: [type code, bytes]"""
    CALLBACK = 12
    """[number, whether an answer is waited for]"""
    SOCKET = 14
    """Number of the descriptor."""


class Callback:
    """A function of the program's that the node calls. Only a `waits` one is waited for."""

    __slots__ = ("number", "waits")

    def __init__(self, number: int, waits: bool) -> None:
        self.number = number
        self.waits = waits


class HandedSocket:
    """A socket that the other process is to have: there it arrives as one."""

    __slots__ = ("sock",)

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock


class SharedState:
    """A state dict in memory that both processes see.

    With `copies` it has the bytes of the state; otherwise room for them, which :meth:`load` brings
    to where they belong once the other process has filled it.

    Raises:
        LocalProtocolError: a value is no array or tensor that safetensors has.
    """

    def __init__(self, state: StateDict, *, copies: bool) -> None:
        self._state = state
        self.layout: dict[str, Tensor] = {}
        size = 0
        for name, value in state.items():
            dtype, shape = form_of(name, value)
            tensor = self.layout[name] = Tensor(name, dtype, shape, size)
            size += -(-tensor.length // _ALIGNED) * _ALIGNED
        self.size = max(size, 1)
        self.descriptor = _shared_memory(self.size)
        try:
            self._memory = memoryview(mmap.mmap(self.descriptor, self.size))
            if copies:
                for name, tensor in self.layout.items():
                    self._of(tensor)[:] = bytes_of(name, state[name]).cast("B")
        except BaseException:
            os.close(self.descriptor)
            raise

    def _of(self, tensor: Tensor) -> memoryview:
        return self._memory[tensor.offset : tensor.offset + tensor.length]

    def load(self, left_out: Sequence[str]) -> None:
        """Copy what was filled into the state, without these names."""
        for name, tensor in self.layout.items():
            if name not in left_out:
                load(self._state[name], tensor, self._of(tensor))

    def close(self) -> None:
        """Let go of the descriptor; the memory goes with its last user."""
        os.close(self.descriptor)


def _shared_memory(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("lattica-state", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class Values:
    """Encodes and decodes what one process says to the other.

    `hold` gives a number to an object that cannot be copied and may be called from afar, or None;
    `held` makes what stands in for one here, from its number and class. `callback` makes a function
    of what :class:`Callback` stands for.
    """

    def __init__(
        self,
        *,
        hold: Callable[[object], int | None] = lambda _: None,
        held: Callable[[int, type], object] | None = None,
        callback: Callable[[int, bool], object] | None = None,
    ) -> None:
        self._hold = hold
        self._held = held
        self._callback = callback

    # --- encoding ---

    def encode(self, value: object) -> tuple[bytes, list[int]]:
        """Bytes, and the descriptors that go with them, which are duplicates.

        Raises:
            CannotCrossError: there is something in it that is no data.
        """
        descriptors: list[int] = []

        def default(item: Any) -> msgpack.ExtType:
            code, content = self._extension(item, descriptors)
            return msgpack.ExtType(code, pack(content))

        def pack(content: object) -> bytes:
            packed: bytes = msgpack.packb(content, default=default, strict_types=True)
            return packed

        try:
            return pack(value), descriptors
        except BaseException as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(error, (TypeError, ValueError, RecursionError)):
                raise CannotCrossError(
                    f"a value cannot be given to the node's process: {error}"
                ) from error
            raise

    def _extension(self, item: Any, descriptors: list[int]) -> tuple[_Code, object]:
        kind = type(item)
        if kind is tuple:
            return _Code.TUPLE, list(item)
        if kind is set:
            return _Code.SET, list(item)
        if kind is frozenset:
            return _Code.FROZENSET, list(item)
        if kind is int:
            return _Code.INTEGER, str(item)
        if kind is array:
            return _Code.ARRAY, [item.typecode, item.tobytes()]
        if isinstance(item, enum.Enum):
            return _Code.ENUM, [*_name(kind), item.value]
        if isinstance(item, PurePath):
            return _Code.PATH, str(item)
        if isinstance(item, BaseException):
            return _Code.ERROR, self._error(item)
        if isinstance(item, SharedState):
            descriptors.append(os.dup(item.descriptor))
            tensors = {
                name: [tensor.dtype, list(tensor.shape), tensor.offset, tensor.length]
                for name, tensor in item.layout.items()
            }
            return _Code.STATE, [len(descriptors) - 1, item.size, tensors]
        if isinstance(item, WeightVersion):
            descriptors.append(_file_of(item))
            fields = {**vars(item), "_tensors": None}
            return _Code.WEIGHTS, [len(descriptors) - 1, fields]
        if isinstance(item, HandedSocket):
            descriptors.append(os.dup(item.sock.fileno()))
            return _Code.SOCKET, len(descriptors) - 1
        if isinstance(item, Callback):
            return _Code.CALLBACK, [item.number, item.waits]
        number = self._hold(item)
        if number is not None:
            return _Code.HELD, [number, *_name(kind)]
        return _Code.OBJECT, self._object(item)

    def _object(self, item: Any) -> object:
        kind = type(item)
        is_ours = kind.__module__.partition(".")[0] == _LOCAL
        if not is_ours or isinstance(item, (InProcess, type)) or "<locals>" in kind.__qualname__:
            what = f"{kind.__module__}.{kind.__qualname__}"
            raise CannotCrossError(
                f"{what} cannot be given to the process of a Lattica(process=True): {item!r:.100}"
            )
        base = next((each for each in _BASES if isinstance(item, each)), None)
        state = dict(getattr(item, "__dict__", ()))
        for each in kind.__mro__:
            slots = each.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__weakref__", "__dict__") and hasattr(item, slot):
                    state[slot] = getattr(item, slot)
        value = None if base is None else list(item) if base is tuple else base(item)
        return [*_name(kind), value, state]

    def _error(self, error: BaseException) -> object:
        state = {name: self._copied(value) for name, value in vars(error).items()}
        args = [self._copied(value) for value in error.args]
        if isinstance(error, OSError) and error.filename is not None and len(args) == 2:
            args.append(self._copied(error.filename))
        return [*_name(type(error)), args, state, str(error)]

    def _copied(self, value: object) -> object:
        """What of an exception cannot cross goes as its text."""
        try:
            descriptors = self.encode(value)[1]
        except CannotCrossError:
            return repr(value)
        for descriptor in descriptors:
            os.close(descriptor)
        return value if not descriptors else repr(value)

    # --- decoding ---

    def decode(self, data: bytes | bytearray | memoryview, descriptors: Sequence[int] = ()) -> Any:
        """What :meth:`encode` was given. The descriptors are closed."""

        def unpack(packed: bytes | bytearray | memoryview) -> Any:
            return msgpack.unpackb(
                packed, ext_hook=extension, strict_map_key=False, use_list=True, **_LIMITS
            )

        def extension(code: int, packed: bytes) -> object:
            return self._value(_Code(code), unpack(packed), descriptors)

        try:
            return unpack(data)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _value(self, code: _Code, content: Any, descriptors: Sequence[int]) -> object:
        match code:
            case _Code.TUPLE:
                return tuple(content)
            case _Code.SET:
                return set(content)
            case _Code.FROZENSET:
                return frozenset(content)
            case _Code.INTEGER:
                return int(content)
            case _Code.ARRAY:
                return array(*content)
            case _Code.PATH:
                from pathlib import Path

                return Path(content)
            case _Code.ENUM:
                module, name, value = content
                return _class(module, name)(value)
            case _Code.OBJECT:
                return _filled(*content)
            case _Code.ERROR:
                return _error(*content)
            case _Code.STATE:
                return _mapped_state(descriptors[content[0]], *content[1:])
            case _Code.WEIGHTS:
                fields = content[1] | {"_tensors": MappedTensors(descriptors[content[0]])}
                version = object.__new__(WeightVersion)
                for name, value in fields.items():
                    object.__setattr__(version, name, value)
                return version
            case _Code.SOCKET:
                return socket.socket(fileno=os.dup(descriptors[content]))
            case _Code.CALLBACK if self._callback is not None:
                return self._callback(*content)
            case _Code.HELD if self._held is not None:
                number, module, name = content
                return self._held(number, _class(module, name))
        raise CannotCrossError(f"a value of kind {code.name} is not expected here")


def _file_of(version: WeightVersion) -> int:
    """A descriptor of its file, or of a copy in memory if that is gone already."""
    try:
        return open_regular(version.path)
    except OSError:
        memory = version._tensors.memory
        descriptor = _shared_memory(len(memory))
        with open(descriptor, "wb", closefd=False) as file:
            file.write(memory)
        return descriptor


_LIMITS: Final = {f"max_{kind}_len": 2**31 - 1 for kind in ("str", "bin", "array", "map", "ext")}


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _class(module: str, name: str) -> type[Any]:
    if module.partition(".")[0] != _LOCAL:
        raise CannotCrossError(f"no class of ours: {module}.{name}")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, type):
        raise CannotCrossError(f"no class: {module}.{name}")
    return found


def _filled(module: str, name: str, value: Any, state: dict[str, Any]) -> object:
    kind = _class(module, name)
    base: Any = next((each for each in _BASES if issubclass(kind, each)), None)
    made: Any = object.__new__(kind) if base is None else base.__new__(kind, value)
    if base in (list, dict):
        base.__init__(made, value)
    for attribute, each in state.items():
        object.__setattr__(made, attribute, each)
    return made


def _error(module: str, name: str, args: list[Any], state: dict[str, Any], text: str) -> object:
    kind: type[Any] | None = None
    if module == "builtins":
        kind = getattr(builtins, name, None)
    elif module.partition(".")[0] == _LOCAL:
        kind = _class(module, name)
    if kind is None or not issubclass(kind, BaseException):
        return LatticaError(f"{module}.{name}: {text}")
    if module == "builtins":
        made = kind(*args)
    else:  # what ours is made from is not always what it says
        made = kind.__new__(kind, *args)
        made.args = tuple(args)
    made.__dict__.update(state)
    return made


def _mapped_state(
    descriptor: int, size: int, tensors: dict[str, tuple[str, list[int], int, int]]
) -> dict[str, RawTensor]:
    memory = memoryview(mmap.mmap(descriptor, size))
    return {
        name: RawTensor(dtype, tuple(shape), memory[offset : offset + length])
        for name, (dtype, shape, offset, length) in tensors.items()
    }
