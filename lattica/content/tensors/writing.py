"""Safetensors files of state dicts: tensors by the size of their elements, the largest first, and
by name, so that all are aligned and the same state makes the same file. Blocking.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lattica.content.disk import allocate, write_all
from lattica.content.manifest.tensor_files.safetensors_header import (
    DTYPE_BITS,
    Tensor,
    build_header,
)
from lattica.content.tensors.elements import StateDict, bytes_of, form_of
from lattica.nat.base.errors import LocalProtocolError


def file_order(tensor: Tensor) -> tuple[int, str]:
    """By what tensors are sorted in a file."""
    return -DTYPE_BITS[tensor.dtype], tensor.name


def in_file_order(state: StateDict) -> list[Tensor]:
    """Names, types and shapes of a state dict, in the order in which they are written.

    Raises:
        LocalProtocolError: something in it is no tensor, or there is none.
    """
    if not state:
        raise LocalProtocolError("the state dict is empty")
    tensors = (Tensor(name, *form_of(name, value), 0) for name, value in state.items())
    return sorted(tensors, key=file_order)


def write_tensors(
    path: Path,
    tensors: Sequence[Tensor],
    state: StateDict,
    metadata: Sequence[tuple[str, str]] = (),
) -> None:
    """Write these tensors of a state dict as a new file; one at a time is in memory for it, where
    its bytes cannot be written as they lie. What fails leaves a part of the file.

    Raises:
        LocalProtocolError: one is a tensor that is not dense.
        OSError: the disk refuses, or there is such a file.
    """
    header = build_header(metadata, tensors)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        allocate(descriptor, len(header) + sum(tensor.length for tensor in tensors))
        write_all(descriptor, memoryview(header), 0)
        position = len(header)
        for tensor in tensors:
            write_all(descriptor, bytes_of(tensor.name, state[tensor.name]), position)
            position += tensor.length
    finally:
        os.close(descriptor)
