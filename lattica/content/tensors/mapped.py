"""Safetensors files as memory maps: tensors whose memory is the file's pages."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattica.content.disk import open_regular, reader_of
from lattica.content.errors import ContentError
from lattica.content.manifest.tensor_files.safetensors_header import Tensor, parse_safetensors
from lattica.content.tensors.elements import as_numpy, as_torch

if TYPE_CHECKING:
    import numpy


class MappedTensors(Mapping[str, "numpy.ndarray[Any, Any]"]):
    """The tensors of a safetensors file, by name, as read-only arrays of numpy on its pages.

    Nothing is read before it is looked at, and processes that map the same file share its memory.
    The map lives as long as this, or an array from it. Raises
    :class:`~lattica.errors.ContentError`: it is no such file, or cannot be read.
    """

    def __init__(self, path: Path | str | int) -> None:
        """`path` may be a descriptor of the file, which stays open."""
        try:
            descriptor = os.dup(path) if isinstance(path, int) else open_regular(path)
            try:
                size = os.fstat(descriptor).st_size
                layout = parse_safetensors(reader_of(descriptor), size)
                self.memory = memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
                """The whole file."""
            finally:
                os.close(descriptor)
        except ValueError as error:
            raise ContentError(f"{path} is no safetensors file: {error}") from None
        except OSError as error:
            raise ContentError(f"cannot read {path}: {error.strerror}") from None
        self._tensors = {tensor.name: tensor for tensor in layout.tensors}
        self.metadata = dict(layout.metadata)
        """`__metadata__` of the file."""

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # whatever its element type needs

    def __getitem__(self, name: str) -> numpy.ndarray[Any, Any]:
        """Raises ImportError: the element type needs ml_dtypes, which is not installed."""
        return as_numpy(*self.raw(name))

    def raw(self, name: str) -> tuple[Tensor, memoryview]:
        """Type and shape of a tensor, and its bytes. Raises KeyError."""
        tensor = self._tensors[name]
        return tensor, self.memory[tensor.offset : tensor.offset + tensor.length]

    def torch(self, name: str) -> Any:
        """A tensor of torch on the file's pages; it must not be written to. Raises KeyError, and
        ImportError."""
        return as_torch(*self.raw(name))
