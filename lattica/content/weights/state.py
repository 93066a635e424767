"""Versions of weights as files: written, mapped, and compared. Blocking."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lattica.content.manifest.safetensors_header import DTYPE_BITS, TensorLayout
from lattica.content.tensors.elements import RawTensor, StateDict, form_of
from lattica.content.tensors.mapped import MappedTensors
from lattica.content.tensors.targets import load
from lattica.content.tensors.writing import in_file_order, write_tensors
from lattica.nat.base.errors import LocalProtocolError


def write_state(path: Path, state: StateDict) -> None:
    """Write a state dict as a new safetensors file.

    Raises:
        LocalProtocolError: something in it is no tensor.
        OSError: the disk refuses.
    """
    write_tensors(path, in_file_order(state), state)


class MappedState:
    """The tensors of a safetensors file, in memory that is the file's pages. Read only.

    It stays readable when the file is removed, for as long as this, or an array from it, is there.
    """

    def __init__(self, path: Path) -> None:
        self._tensors = MappedTensors(path)

    def raw(self) -> dict[str, RawTensor]:
        """All tensors as bytes, by name."""
        found = {}
        for name in self._tensors:
            tensor, data = self._tensors.raw(name)
            found[name] = RawTensor(tensor.dtype, tensor.shape, data)
        return found

    def numpy(self) -> dict[str, Any]:
        """All tensors as read-only arrays of numpy, by name; types that numpy lacks need ml_dtypes.

        Raises:
            ImportError: that is needed, or numpy, and not installed.
        """
        return dict(self._tensors)

    def torch(self) -> dict[str, Any]:
        """All tensors as tensors of torch, by name, on the CPU. They share their memory with the
        file and must not be written to.

        Raises:
            ImportError: torch is not installed.
        """
        return {name: self._tensors.torch(name) for name in self._tensors}

    def load_into(self, state: StateDict) -> None:
        """Copy into arrays or tensors that exist already, each straight from the file.

        Names that `state` lacks are left out. Tensors on a GPU are copied to.

        Raises:
            LocalProtocolError: one of `state` is not here, or has another type or shape.
        """
        for name, target in state.items():
            if name not in self._tensors:
                raise LocalProtocolError(f"there is no tensor {name!r} in these weights")
            tensor, data = self._tensors.raw(name)
            form = form_of(name, target)
            if form != (tensor.dtype, tensor.shape):
                raise LocalProtocolError(
                    f"the tensor {name!r} is {tensor.dtype} of shape {tensor.shape}, not "
                    f"{form[0]} of {form[1]}"
                )
            load(target, tensor, data)


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
