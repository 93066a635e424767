"""Whatever has bytes in memory, seen as one flat row of them.

That is anything with the buffer protocol (PEP 3118), of any shape and format, contiguous or not;
NumPy's arrays also of those types that have no such format, as bfloat16; and PyTorch's tensors, of
any type and on any device. The order of the bytes is that of the elements, the last index fastest
(C order), in the machine's own representation; neither shape nor type is told.

Neither NumPy nor PyTorch is imported here: what belongs to them exists only where they are already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from lattica.nat.base.errors import LocalProtocolError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class Tensor(Protocol):
    """What is asked of a `torch.Tensor`, so that its type is known without PyTorch."""

    def data_ptr(self) -> int: ...

    def element_size(self) -> int: ...

    def numel(self) -> int: ...


class Array(Protocol):
    """What tells a `numpy.ndarray`, which before Python 3.12 is not annotated as a buffer."""

    @property
    def dtype(self) -> Any: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def strides(self) -> tuple[int, ...]: ...


AnyBuffer: TypeAlias = "ReadableBuffer | Array | Tensor"
"""What can be sent."""
AnyWritableBuffer: TypeAlias = "WriteableBuffer | Array | Tensor"
"""What can be received into."""


def flat_bytes(data: AnyBuffer) -> bytes | memoryview:
    """All bytes of `data`: a view of its memory, or a copy (`bytes`) where they do not lie in it
    in order.

    Raises:
        TypeError: it has no bytes.
        LocalProtocolError: its bytes mean nothing elsewhere, or are not in memory.
    """
    # What nearly all are, first.
    if type(data) is bytes:
        return data
    if type(data) is memoryview:
        if data.c_contiguous and data.format == "B" and data.ndim == 1:
            return data
    elif type(data) is bytearray:
        return memoryview(data)
    else:
        if _is_a(data, "torch", "Tensor"):
            return _memory_of(_plain_tensor(data))
        if _is_a(data, "numpy", "ndarray"):
            return _array_bytes(data)
    view = _view(data, "sent")
    if not view.c_contiguous or not view.nbytes:
        return view.tobytes()
    return view.cast("B")


def writable_view(buffer: AnyWritableBuffer) -> tuple[memoryview, Callable[[], object] | None]:
    """A flat view to be written to, and what is to be called when that is done.

    None where the view is of the caller's own memory. Elsewhere it is of a copy, as large as the
    buffer, which the call brings to where it belongs.

    Raises:
        TypeError: it has no bytes.
        LocalProtocolError: it is read-only or empty, its bytes mean nothing elsewhere, or are not
            in memory.
    """
    if type(buffer) is bytearray and buffer:
        return memoryview(buffer), None
    if type(buffer) is memoryview:
        if buffer.c_contiguous and buffer.format == "B" and buffer.ndim == 1:
            _check_target(buffer.readonly, buffer.nbytes)
            return buffer, None
    else:
        if _is_a(buffer, "torch", "Tensor"):
            return _tensor_target(buffer)
        if _is_a(buffer, "numpy", "ndarray"):
            return _array_target(buffer)
    view = _view(buffer, "received into")
    _check_target(view.readonly, view.nbytes)
    if view.c_contiguous:
        return view.cast("B"), None
    if view.ndim == 1 and len(view.format) == 1:
        copy = bytearray(view.tobytes())
        items = memoryview(copy).cast(view.format)  # type: ignore[call-overload]

        def settle() -> None:
            view[:] = items

        return memoryview(copy), settle
    try:
        import numpy as np
    except ImportError:
        raise LocalProtocolError(
            "to receive into memory of this shape that is not contiguous takes NumPy, which is "
            "not installed"
        ) from None
    return _array_target(np.asarray(view))


def _is_a(value: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _view(data: Any, verb: str) -> memoryview:
    try:
        view = memoryview(data)
    except TypeError:
        hint = "; encode it first" if isinstance(data, str) else ""
        raise TypeError(
            f"what is {verb} has bytes in memory (bytes, an array, a tensor), "
            f"{type(data).__name__} has not{hint}"
        ) from None
    if view.format.lstrip("@=<>!") == "O":
        raise _objects()
    return view


def _objects() -> LocalProtocolError:
    return LocalProtocolError("the bytes of an array of Python objects mean nothing elsewhere")


def _check_target(readonly: bool, size: int) -> None:
    if readonly:
        raise LocalProtocolError("cannot receive into a read-only buffer")
    if not size:
        raise LocalProtocolError("cannot receive into an empty buffer")


# --- NumPy ---


def _array_bytes(data: Any) -> bytes | memoryview:
    np: Any = sys.modules["numpy"]
    array = np.asarray(data)  # without what subclasses do differently
    if array.dtype.hasobject:
        raise _objects()
    if not array.flags.c_contiguous or not array.nbytes:
        copy: bytes = array.tobytes()
        return copy
    return memoryview(array.reshape(-1).view(np.uint8))


def _array_target(buffer: Any) -> tuple[memoryview, Callable[[], object] | None]:
    np: Any = sys.modules["numpy"]
    array = np.asarray(buffer)
    if array.dtype.hasobject:
        raise _objects()
    _check_target(not array.flags.writeable, array.nbytes)
    if array.flags.c_contiguous:
        return memoryview(array.reshape(-1).view(np.uint8)), None
    copy = np.ascontiguousarray(array)

    def settle() -> None:
        array[...] = copy

    return memoryview(copy.reshape(-1).view(np.uint8)), settle


# --- PyTorch ---


def _plain_tensor(tensor: Any) -> Any:
    """The elements one after the other in this machine's memory; without a copy if they are."""
    torch: Any = sys.modules["torch"]
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        raise LocalProtocolError(
            f"the elements of this tensor ({tensor.layout}, {tensor.device}) do not lie in memory "
            "one by one; make it a dense one first"
        )
    # A conjugate or negative view shows other numbers than are in its memory.
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def _memory_of(tensor: Any) -> memoryview:
    size: int = tensor.numel() * tensor.element_size()
    if not size:
        return memoryview(b"")
    # Not by way of NumPy, which has no bfloat16, and need not be installed.
    import ctypes

    memory = (ctypes.c_ubyte * size).from_address(tensor.data_ptr())
    memory.tensor = tensor  # type: ignore[attr-defined]  # lives as long as any view
    return memoryview(memory).cast("B")


def _tensor_target(tensor: Any) -> tuple[memoryview, Callable[[], object] | None]:
    plain = _plain_tensor(tensor)
    view = _memory_of(plain)
    _check_target(False, len(view))
    if any(step == 0 and n > 1 for step, n in zip(tensor.stride(), tensor.shape, strict=True)):
        raise LocalProtocolError("cannot receive into an expanded tensor, whose elements are one")
    if plain.data_ptr() == tensor.data_ptr() and plain.device == tensor.device:
        return view, None
    return view, lambda: tensor.detach().copy_(plain)
