"""Versions of weights as files: written, and compared. Blocking."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lattica.content.manifest.tensor_files.safetensors_header import DTYPE_BITS, TensorLayout
from lattica.content.tensors.elements import StateDict
from lattica.content.tensors.writing import in_file_order, write_tensors


def write_state(path: Path, state: StateDict) -> None:
    """Write a state dict as a new safetensors file.

    Raises:
        LocalProtocolError: something in it is no tensor.
        OSError: the disk refuses.
    """
    write_tensors(path, in_file_order(state), state)


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
