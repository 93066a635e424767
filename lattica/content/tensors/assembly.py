"""From chunks, in the order of a manifest, to whole tensors in the same order. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lattica.content.manifest.manifest import Manifest
from lattica.content.manifest.tensor_files.safetensors_header import Tensor

Destination: TypeAlias = Callable[[Tensor], memoryview]
"""Where the bytes of a tensor go: writable memory of exactly its length."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor, and the index of the file that it is in."""

    file: int
    tensor: Tensor


def fresh_memory(tensor: Tensor) -> memoryview:
    """New memory for a tensor."""
    return memoryview(bytearray(tensor.length))


def chunks_of(manifest: Manifest, tensors: Sequence[Placed]) -> list[int]:
    """Numbers of the chunks that have some byte of the tensors, ascending, each once."""
    found: list[int] = []
    for placed in tensors:
        tensor = placed.tensor
        if tensor.length:
            table = manifest.files[placed.file].chunks
            base = manifest.first_chunk(placed.file)
            first = base + table.index_at(tensor.offset)
            last = base + table.index_at(tensor.offset + tensor.length - 1)
            found += range(max(first, found[-1] + 1) if found else first, last + 1)
    return found


class Assembly:
    """Takes verified chunks, gives out tensors when they are whole.

    `tensors` are in the order of their files and offsets.
    """

    def __init__(
        self, manifest: Manifest, tensors: Sequence[Placed], destination: Destination
    ) -> None:
        self._manifest = manifest
        self._left = deque(tensors)
        self._destination = destination
        self._memory: memoryview | None = None
        """Of the first tensor that is left."""

    @property
    def is_finished(self) -> bool:
        """All tensors were given out."""
        return not self._left

    def add(self, number: int, data: memoryview) -> Iterator[tuple[Tensor, memoryview]]:
        """A chunk has come; the tensors that are whole by that, with their memory."""
        file, index = self._manifest.locate(number)
        start = self._manifest.files[file].chunks[index].offset
        end = start + len(data)
        while self._left and self._left[0].file == file:
            tensor = self._left[0].tensor
            stop = tensor.offset + tensor.length
            first, last = max(start, tensor.offset), min(end, stop)
            if tensor.length and first >= last:
                return
            memory = self._begun(tensor)
            if tensor.length:
                target = memory[first - tensor.offset : last - tensor.offset]
                target[:] = data[first - start : last - start]
            if stop > end:
                return
            yield self._take(tensor, memory)

    def empty(self) -> Iterator[tuple[Tensor, memoryview]]:
        """Tensors without bytes, whose turn it is: no chunk brings them."""
        while self._left and not self._left[0].tensor.length:
            tensor = self._left[0].tensor
            yield self._take(tensor, self._begun(tensor))

    def _begun(self, tensor: Tensor) -> memoryview:
        if self._memory is None:
            memory = self._destination(tensor)
            if memory.nbytes != tensor.length:
                raise ValueError(f"{memory.nbytes} bytes for {tensor.name!r} of {tensor.length}")
            self._memory = memory.cast("B") if memory.nbytes else memoryview(bytearray())
        return self._memory

    def _take(self, tensor: Tensor, memory: memoryview) -> tuple[Tensor, memoryview]:
        self._left.popleft()
        self._memory = None
        return tensor, memory
