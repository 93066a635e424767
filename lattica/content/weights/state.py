"""State dicts and safetensors files: arrays, tensors and raw memory by name, in either direction.

What is written is what the safetensors library reads. Tensors lie in the order of their element
sizes, the largest first, and of their names, so that all are aligned and the same state makes the
same file. Blocking.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lattica.content.disk import allocate, write_all
from lattica.content.manifest.safetensors_header import (
    DTYPE_BITS,
    Tensor,
    TensorLayout,
    build_header,
    tensor_bytes,
)
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.encoding.arrays import array_parts, loaded, memory_of, tensor_parts

_NAMES = {
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}
"""Element types as numpy, ml_dtypes and torch call them, and as safetensors does."""
_LIBRARY_NAMES = {safetensors: name for name, safetensors in _NAMES.items()}
_NUMPY = frozenset(np_ for np_ in _NAMES if not np_.startswith(("bfloat", "float8")))


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as bytes, for whoever has no library for its element type."""

    dtype: str
    """As safetensors calls it: `BF16`, `F8_E4M3`, …"""
    shape: tuple[int, ...]
    data: memoryview
    """The elements, little endian, in C order."""


Value: TypeAlias = "RawTensor | Any"
"""A :class:`RawTensor`, an array of numpy or a tensor of torch."""
StateDict: TypeAlias = Mapping[str, Value]


def raw_of(name: str, value: Value) -> RawTensor:
    """The memory of one value: a view where it can be, a copy from a GPU.

    Raises:
        LocalProtocolError: it is none of the kinds, or of a type that safetensors does not have.
    """
    if isinstance(value, RawTensor):
        if value.dtype not in DTYPE_BITS or value.data.nbytes != tensor_bytes(
            value.dtype, value.shape
        ):
            raise LocalProtocolError(
                f"the tensor {name!r}: {value.data.nbytes} bytes are no {value.dtype!r} of shape "
                f"{value.shape}"
            )
        return RawTensor(value.dtype, value.shape, value.data.cast("B"))
    numpy, torch = loaded("numpy"), loaded("torch")
    try:
        if torch is not None and isinstance(value, torch.Tensor):
            kind, shape, data = tensor_parts(value)
        elif numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
            array = numpy.ascontiguousarray(value)
            if array.dtype.byteorder == ">":
                array = array.astype(array.dtype.newbyteorder("<"))
            kind, shape, data = array.dtype.name, list(value.shape), array_parts(array)[3]
        else:
            raise TypeError(
                f"{type(value).__name__} is no array of numpy, tensor of torch or RawTensor"
            )
        return RawTensor(_NAMES[kind], tuple(shape), data)
    except (TypeError, KeyError) as error:
        detail = f"no element type {error}" if isinstance(error, KeyError) else str(error)
        raise LocalProtocolError(f"the tensor {name!r} cannot be published: {detail}") from None


def write_state(path: Path, state: StateDict) -> None:
    """Write a state dict as a new safetensors file.

    Raises:
        LocalProtocolError: something in it is no tensor.
        OSError: the disk refuses.
    """
    if not state:
        raise LocalProtocolError("the state dict is empty")
    found = [(name, raw_of(name, value)) for name, value in state.items()]
    found.sort(key=lambda pair: (-DTYPE_BITS[pair[1].dtype], pair[0]))
    header = build_header((), (Tensor(name, raw.dtype, raw.shape, 0) for name, raw in found))
    size = len(header) + sum(raw.data.nbytes for _, raw in found)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        allocate(descriptor, size)
        write_all(descriptor, memoryview(header), 0)
        position = len(header)
        for _, raw in found:
            write_all(descriptor, raw.data, position)
            position += raw.data.nbytes
    finally:
        os.close(descriptor)


class MappedState:
    """The tensors of a safetensors file, in memory that is the file's pages. Read only.

    It stays readable when the file is removed, for as long as this, or an array from it, is there.
    """

    def __init__(self, path: Path, layout: TensorLayout) -> None:
        self._layout = layout
        with path.open("rb") as file:
            self._memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def raw(self) -> dict[str, RawTensor]:
        """All tensors as bytes, by name."""
        return {
            tensor.name: RawTensor(
                tensor.dtype,
                tensor.shape,
                self._memory[tensor.offset : tensor.offset + tensor.length],
            )
            for tensor in self._layout.tensors
        }

    def numpy(self) -> dict[str, Any]:
        """All tensors as read-only arrays of numpy, by name; types that numpy lacks need ml_dtypes.

        Raises:
            ImportError: that is needed, or numpy, and not installed.
        """
        import numpy

        found = {}
        for name, raw in self.raw().items():
            kind = _LIBRARY_NAMES.get(raw.dtype)
            if kind in _NUMPY:
                dtype = numpy.dtype(kind)
            else:
                if kind is None:
                    raise ImportError(f"numpy has no {raw.dtype}, as {name!r} is; see raw()")
                import ml_dtypes  # type: ignore[import-not-found,unused-ignore]

                dtype = numpy.dtype(getattr(ml_dtypes, kind))
            found[name] = numpy.frombuffer(raw.data, numpy.uint8).view(dtype).reshape(raw.shape)
        return found

    def torch(self) -> dict[str, Any]:
        """All tensors as tensors of torch, by name, on the CPU. They share their memory with the
        file and must not be written to.

        Raises:
            ImportError: torch is not installed.
        """
        import warnings

        import torch  # type: ignore[import-not-found,unused-ignore]

        found = {}
        with warnings.catch_warnings():
            # Of memory that cannot be written to; that is said above.
            warnings.simplefilter("ignore", UserWarning)
            for name, raw in self.raw().items():
                kind = _LIBRARY_NAMES.get(raw.dtype)
                if kind is None:
                    raise ImportError(f"torch has no {raw.dtype}, as {name!r} is; see raw()")
                dtype = getattr(torch, kind)
                if raw.data.nbytes:
                    flat = torch.frombuffer(raw.data, dtype=torch.uint8).view(dtype)
                else:
                    flat = torch.empty(0, dtype=dtype)
                found[name] = flat.reshape(raw.shape)
        return found

    def load_into(self, state: StateDict) -> None:
        """Copy into arrays or tensors that exist already, each straight from the file.

        Names that `state` lacks are left out. Tensors on a GPU are copied to.

        Raises:
            LocalProtocolError: one of `state` is not here, or has another type or shape.
        """
        here = self.raw()
        for name, target in state.items():
            raw = here.get(name)
            if raw is None:
                raise LocalProtocolError(f"there is no tensor {name!r} in these weights")
            _copy(name, raw, target)


def _copy(name: str, raw: RawTensor, target: Value) -> None:
    torch = loaded("torch")
    if isinstance(target, RawTensor):
        kind, shape = target.dtype, target.shape
    else:
        text = str(getattr(target, "dtype", "")).removeprefix("torch.")
        kind, shape = _NAMES.get(text, text), tuple(getattr(target, "shape", ()))
    if (kind, shape) != (raw.dtype, raw.shape):
        raise LocalProtocolError(
            f"the tensor {name!r} is {raw.dtype} of shape {raw.shape}, not {kind} of {shape}"
        )
    if not raw.data.nbytes:
        return
    if torch is not None and isinstance(target, torch.Tensor):
        if not (target.is_contiguous() and target.device.type == "cpu"):
            source = torch.frombuffer(bytearray(raw.data), dtype=torch.uint8)
            with torch.no_grad():
                target.copy_(source.view(target.dtype).reshape(target.shape))
            return
        target = target.detach()
    try:
        memory = target.data if isinstance(target, RawTensor) else memory_of(target)
        memory.cast("B")[:] = raw.data
    except TypeError as error:
        raise LocalProtocolError(f"{name!r} cannot be loaded into: {error}") from None


def layouts_equal(one: TensorLayout, other: TensorLayout) -> bool:
    """Whether two files have the same tensors in the same places."""
    return one.data_start == other.data_start and one.tensors == other.tensors


def element_bytes(layout: TensorLayout, offsets: Iterable[int]) -> list[int]:
    """For ascending offsets: the bytes of an element of the tensor that is there, at least 1."""
    found = []
    tensors = iter(layout.tensors)
    tensor = next(tensors, None)
    for offset in offsets:
        while tensor is not None and tensor.offset + tensor.length <= offset:
            tensor = next(tensors, None)
        bits = DTYPE_BITS[tensor.dtype] if tensor is not None and tensor.offset <= offset else 8
        found.append(max(1, bits // 8))
    return found
