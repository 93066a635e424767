"""Arrays of numpy and tensors of torch: their element types by name, their memory as it lies.

Neither library is needed, and neither is imported for a peer's sake except numpy, which is small:
tensors are understood where the program itself has imported torch.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Sequence
from typing import Any, cast

from lattica.rpc.encoding.memory import aligned_copy

Dtype = str | dict[str, Any]
"""How an element type is written down: numpy's text form, or a table of fields."""

_SIMPLE = re.compile(r"[<>|=]?[?bBiufcSUVmMa]\d{0,9}(\[\d{0,9}[a-zA-Zμ]{1,7}\])?")
_EXTENDED = re.compile(r"(u?int[24]|bfloat16|float[468]_[a-z0-9]{3,12})")
"""Names of the types that `ml_dtypes` adds to numpy."""
_MAX_DIMENSIONS = 32
_MAX_FIELDS = 1024
_MAX_NESTING = 8


class RefusedValueError(ValueError):
    """A value that arrived in good form and cannot be had here; the message is for the caller."""


def loaded(name: str) -> Any:
    """A module if the program has imported it; None otherwise."""
    module = sys.modules.get(name)
    # It is listed while it is still being imported, by another thread.
    ready = getattr(getattr(module, "__spec__", None), "_initializing", False) is False
    return module if ready else None


# --- element types ---


def describe(dtype: Any) -> Dtype:
    """An element type of numpy in a form that :func:`dtype_of` reads.

    Raises TypeError for types that hold Python objects.
    """
    if dtype.hasobject:
        raise TypeError(f"arrays of {dtype} hold Python objects")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": describe(base), "shape": list(shape)}
    if dtype.names is not None:
        fields = [dtype.fields[name] for name in dtype.names]
        return {
            "names": list(dtype.names),
            "formats": [describe(field[0]) for field in fields],
            "offsets": [field[1] for field in fields],
            "titles": [field[2] if len(field) > 2 else None for field in fields],
            "itemsize": dtype.itemsize,
        }
    if dtype.kind == "V" and dtype.type.__name__ != "void":
        return str(dtype.name)  # of ml_dtypes
    if not _SIMPLE.fullmatch(dtype.str):
        raise TypeError(f"arrays of {dtype} cannot be sent")
    return str(dtype.str)


def dtype_of(described: object, depth: int = 0) -> Any:
    """The element type that a peer describes. Raises RefusedValueError."""
    import numpy

    try:
        if isinstance(described, str):
            if _EXTENDED.fullmatch(described):
                return _extended(described)
            if _SIMPLE.fullmatch(described):
                return numpy.dtype(described)
        elif isinstance(described, dict) and depth < _MAX_NESTING:
            if "base" in described:
                base = dtype_of(described["base"], depth + 1)
                return numpy.dtype((base, shape_of(described.get("shape"))))
            names, formats = described.get("names"), described.get("formats")
            if isinstance(names, list) and isinstance(formats, list) and len(names) <= _MAX_FIELDS:
                fields: dict[str, Any] = {
                    "names": names,
                    "formats": [dtype_of(each, depth + 1) for each in formats],
                    "offsets": described.get("offsets"),
                    "itemsize": described.get("itemsize"),
                }
                if any(titles := described.get("titles") or ()):
                    fields["titles"] = titles
                return numpy.dtype(cast("Any", fields))
    except RefusedValueError:
        raise
    except Exception as error:
        raise RefusedValueError(f"no element type of an array: {error}") from None
    raise RefusedValueError(f"no element type of an array: {described!r:.100}")


def _extended(name: str) -> Any:
    try:
        import ml_dtypes  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise RefusedValueError(
            f"arrays of {name} need ml_dtypes, which is not installed"
        ) from None
    import numpy

    return numpy.dtype(getattr(ml_dtypes, name))


def shape_of(sizes: object) -> tuple[int, ...]:
    """A shape that a peer names. Raises RefusedValueError."""
    if (
        isinstance(sizes, list)
        and len(sizes) <= _MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size < 2**48 for size in sizes)
    ):
        return tuple(sizes)
    raise RefusedValueError(f"no shape of an array: {sizes!r:.100}")


# --- numpy ---


def array_parts(array: Any) -> tuple[Dtype, list[int], bool, memoryview]:
    """Element type, shape, whether it is column-major, and its memory: a view where it can be."""
    numpy = loaded("numpy")
    dtype = describe(array.dtype)
    shape = list(array.shape)
    if not array.nbytes:
        return dtype, shape, False, memoryview(b"")
    flags = array.flags
    column_major = bool(flags.f_contiguous and not flags.c_contiguous)
    if column_major:
        array = array.T
    elif not flags.c_contiguous:
        array = numpy.ascontiguousarray(array)
    flat = numpy.ndarray((array.nbytes,), numpy.uint8, memoryview_of(array))
    return dtype, shape, column_major, memoryview(flat)


def memoryview_of(array: Any) -> Any:
    """What numpy takes as the memory of a contiguous array, whatever its element type."""
    return array.reshape(-1).view("u1") if array.dtype.itemsize else b""


def make_array(dtype: object, shape: object, column_major: object, data: bytes | memoryview) -> Any:
    """The array that lies in `data`, which is copied if it is immutable. Raises
    RefusedValueError.
    """
    import numpy

    kind = dtype_of(dtype)
    sizes = shape_of(shape)
    if math.prod(sizes) * kind.itemsize != len(data):
        raise RefusedValueError(f"{len(data)} bytes are no array of shape {sizes} of {kind}")
    if not len(data):
        return numpy.empty(sizes, kind)
    memory = aligned_copy(data) if isinstance(data, bytes) else data
    order: Any = "F" if column_major is True else "C"
    return numpy.ndarray(sizes, kind, memory, order=order)


def scalar_parts(scalar: Any) -> tuple[Dtype, bytes]:
    """Element type and bytes of a numpy scalar."""
    # Of an empty text numpy gives the bytes of one character.
    return describe(scalar.dtype), scalar.tobytes()[: scalar.dtype.itemsize]


def make_scalar(dtype: object, data: bytes | memoryview) -> Any:
    return make_array(dtype, [], False, bytes(data))[()]


# --- torch ---


@functools.cache
def _torch_dtypes(torch: Any) -> dict[str, Any]:
    """Element types of tensors that travel, by name: numbers and booleans of whole bytes.

    Those with a quantizer cannot be had from bytes alone, and of others torch knows only the name.
    """
    kinds = {name: kind for name, kind in [*vars(torch).items()] if isinstance(kind, torch.dtype)}
    integers = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    return {
        name: kind
        for name, kind in kinds.items()
        if kind.is_floating_point or kind.is_complex or name == "bool" or name in integers
    }


def tensor_parts(tensor: Any) -> tuple[str, list[int], memoryview]:
    """Element type, shape and memory of a dense tensor; one on a GPU comes through pinned memory.

    Raises TypeError for others.
    """
    torch = loaded("torch")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise TypeError(f"tensors of layout {tensor.layout} cannot be sent; make it dense")
    if tensor.is_meta:
        raise TypeError("tensors on the device meta have no data that could be sent")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _torch_dtypes(torch):
        raise TypeError(f"tensors of {tensor.dtype} cannot be sent")
    tensor = tensor.detach()
    if tensor.is_cuda:
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        tensor = pinned.copy_(tensor)
    elif tensor.device.type != "cpu":
        tensor = tensor.cpu()
    shape = list(tensor.shape)
    if not tensor.numel():
        return dtype, shape, memoryview(b"")
    tensor = tensor.resolve_conj().resolve_neg().contiguous()
    flat = tensor.reshape(-1).view(torch.uint8)
    return dtype, shape, memoryview(flat.numpy())


def make_tensor(dtype: object, shape: object, data: bytes | memoryview) -> Any:
    """The tensor that lies in `data`, which is copied if it is immutable. Raises
    RefusedValueError.
    """
    torch = loaded("torch")
    if torch is None:
        raise RefusedValueError("a torch tensor came to a program that has not imported torch")
    # Not by getattr: asked for some names, torch imports all of its compiler.
    kind = _torch_dtypes(torch).get(dtype) if isinstance(dtype, str) else None
    if kind is None:
        raise RefusedValueError(f"torch has no element type {dtype!r:.100} here")
    sizes = shape_of(shape)
    if math.prod(sizes) * kind.itemsize != len(data):
        raise RefusedValueError(f"{len(data)} bytes are no tensor of shape {sizes} of {kind}")
    if not len(data):
        return torch.empty(sizes, dtype=kind)
    memory = aligned_copy(data) if isinstance(data, bytes) else data
    return torch.frombuffer(memory, dtype=torch.uint8).view(kind).reshape(sizes)


def memory_of(target: object) -> memoryview:
    """The memory of an array or tensor of the caller's, to be received into.

    Raises TypeError unless it is a writable, contiguous array or a contiguous tensor on the CPU.
    """
    numpy, torch = loaded("numpy"), loaded("torch")
    if numpy is not None and isinstance(target, numpy.ndarray):
        if not (target.flags.c_contiguous and target.flags.writeable):
            raise TypeError("out= takes a writable, C-contiguous array")
        return memoryview(memoryview_of(target)) if target.nbytes else memoryview(bytearray())
    if torch is not None and isinstance(target, torch.Tensor):
        if not (target.is_contiguous() and target.device.type == "cpu"):
            raise TypeError("out= takes a contiguous tensor on the CPU")
        return tensor_parts(target)[2] if target.numel() else memoryview(bytearray())
    raise TypeError(f"out= takes an array or a tensor, not {type(target).__name__}")


def same_form(value: object, target: object) -> bool:
    """Whether an array has the shape and element type of the caller's, which may be a parameter."""
    return (
        isinstance(target, type(value))
        and getattr(value, "shape", None) == getattr(target, "shape", ())
        and getattr(value, "dtype", None) == getattr(target, "dtype", ())
    )


def address_of(value: Any) -> int:
    """Where the memory of an array or tensor begins."""
    return int(value.data_ptr() if hasattr(value, "data_ptr") else value.ctypes.data)


def slice_of_safetensors(value: Any) -> Any:
    """All of what a lazily loaded slice of a safetensors file names."""
    return value[...] if _is_scalar(value.get_shape()) else value[:]


def _is_scalar(shape: Sequence[int]) -> bool:
    return not len(shape)
