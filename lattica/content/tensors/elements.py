"""Element types as safetensors, numpy and torch call them; values of state dicts as bytes, and
bytes as arrays of either library.

Neither library is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from lattica.content.manifest.tensor_files.safetensors_header import (
    DTYPE_BITS,
    Tensor,
    tensor_bytes,
)
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.encoding.arrays import array_parts, loaded, tensor_parts

if TYPE_CHECKING:
    import numpy

_LIBRARY_NAMES = {
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
_NAMES = {name: dtype for dtype, name in _LIBRARY_NAMES.items()}


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


def is_torch(value: Value) -> bool:
    """Whether it is a tensor of torch, which has been imported then."""
    torch = loaded("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def form_of(name: str, value: Value) -> tuple[str, tuple[int, ...]]:
    """Element type, as safetensors calls it, and shape of a value.

    Raises:
        LocalProtocolError: it is none of the kinds, or of a type that safetensors does not have.
    """
    if isinstance(value, RawTensor):
        size = value.data.nbytes
        if value.dtype not in DTYPE_BITS or size != tensor_bytes(value.dtype, value.shape):
            raise LocalProtocolError(
                f"{name!r}: {size} bytes are no {value.dtype!r} of shape {value.shape}"
            )
        return value.dtype, value.shape
    dtype = getattr(value, "dtype", "")
    kind = getattr(dtype, "name", None) or str(dtype)
    shape = getattr(value, "shape", None)
    if shape is None:
        kind = ""
    return safetensors_dtype(name, kind, type(value).__name__), tuple(shape or ())


def safetensors_dtype(name: str, kind: str, what: str = "value") -> str:
    """What safetensors calls an element type of numpy or torch. Raises as :func:`form_of`."""
    kind = kind.removeprefix("torch.")
    if kind not in _NAMES:
        what = f"of {kind}" if kind else f"a {what}"
        raise LocalProtocolError(
            f"{name!r} is {what}, and no array of numpy, tensor of torch or RawTensor that "
            "safetensors has"
        )
    return _NAMES[kind]


def bytes_of(name: str, value: Value) -> memoryview:
    """The elements, little endian, in C order: the memory itself where it is so, else a copy.

    Raises LocalProtocolError as :func:`form_of` does, and for tensors that are not dense.
    """
    form_of(name, value)
    try:
        if isinstance(value, RawTensor):
            return value.data.cast("B")
        if is_torch(value):
            return tensor_parts(value)[2]
        import numpy

        array = numpy.ascontiguousarray(value)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        return array_parts(array)[3]
    except TypeError as error:
        raise LocalProtocolError(f"{name!r}: {error}") from None


def _library_name(tensor: Tensor, library: str) -> str:
    found = _LIBRARY_NAMES.get(tensor.dtype)
    if found is None:
        raise ImportError(f"{library} has no {tensor.dtype}, which {tensor.name!r} is of")
    return found


def as_numpy(tensor: Tensor, data: memoryview) -> numpy.ndarray[Any, Any]:
    """The elements as an array of numpy on that very memory.

    Raises:
        ImportError: numpy is not installed, or its element type needs ml_dtypes, which is not.
    """
    import numpy

    kind = _library_name(tensor, "numpy")
    if kind.startswith(("bfloat", "float8")):
        import ml_dtypes  # type: ignore[import-not-found,unused-ignore]

        kind = getattr(ml_dtypes, kind)
    flat = numpy.frombuffer(data, numpy.uint8) if len(data) else numpy.empty(0, numpy.uint8)
    return flat.view(numpy.dtype(kind)).reshape(tensor.shape)


def torch_dtype(tensor: Tensor) -> Any:
    """What torch calls the element type.

    Raises:
        ImportError: torch is not installed, or does not have it.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    return getattr(torch, _library_name(tensor, "torch"))


def as_torch(tensor: Tensor, data: memoryview) -> Any:
    """The elements as a tensor of torch on that very memory, which must not be written to where
    that is read only (a mapped file).

    Raises:
        ImportError: torch is not installed, or does not have the element type.
    """
    import warnings

    import torch  # type: ignore[import-not-found,unused-ignore]

    dtype = torch_dtype(tensor)
    if not len(data):
        return torch.empty(tensor.shape, dtype=dtype)
    with warnings.catch_warnings():
        # Of memory that cannot be written to; that is said above.
        warnings.simplefilter("ignore", UserWarning)
        flat = torch.frombuffer(data, dtype=torch.uint8)
    return flat.view(dtype).reshape(tensor.shape)
