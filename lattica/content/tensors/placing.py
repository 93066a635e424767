"""From chunks, in whatever order they come, to whole tensors in the order of their bytes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lattica.content.manifest.manifest import Manifest
from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.manifest.verifying import verified_chunks

Destination: TypeAlias = Callable[[Tensor], memoryview]
"""Where the bytes of a tensor go: writable memory of exactly its length."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor, or rows of one as a tensor of their own, and the index of the file it is in."""

    file: int
    tensor: Tensor


def fresh_memory(tensor: Tensor) -> memoryview:
    """New memory for a tensor."""
    return memoryview(bytearray(tensor.length))


class Placing:
    """Says which chunks to ask for, takes them, and gives out tensors that are whole, in order.

    `tensors` are in the order of their files and offsets, and do not overlap. A chunk is written
    to where it belongs as soon as it is verified, whatever is missing before it. In memory is what
    was asked for, at most `window` bytes beyond the tensor whose turn it is, and that tensor.
    """

    def __init__(
        self,
        manifest: Manifest,
        tensors: Sequence[Placed],
        destination: Destination,
        window: int,
    ) -> None:
        self._manifest = manifest
        self._tensors = tensors
        self._starts = [(placed.file, placed.tensor.offset) for placed in tensors]
        self._destination = destination
        self._window = window
        self._memory: dict[int, memoryview] = {}
        """Of tensors of which something was asked for, by their place in the order."""
        self._chunks: list[int] = []
        self._first: list[int] = []
        """By tensor: the place of its first chunk in `_chunks`."""
        self._lacking: list[int] = []
        """By tensor: how many chunks it lacks."""
        self._ends = [0]
        """By place in `_chunks`: bytes of all chunks before."""
        self._place_of: dict[int, int] = {}
        for placed in tensors:
            self._add(placed)
        self._here = bytearray(len(self._chunks))
        self._head = 0
        """The tensor whose turn it is."""
        self._asked = 0
        """How many chunks were asked for."""

    def _add(self, placed: Placed) -> None:
        tensor = placed.tensor
        if not tensor.length:
            self._first.append(len(self._chunks))
            self._lacking.append(0)
            return
        table = self._manifest.files[placed.file].chunks
        base = self._manifest.first_chunk(placed.file)
        first = base + table.index_at(tensor.offset)
        last = base + table.index_at(tensor.offset + tensor.length - 1)
        for number in range(first, last + 1):
            if not self._chunks or number > self._chunks[-1]:
                self._place_of[number] = len(self._chunks)
                self._chunks.append(number)
                self._ends.append(self._ends[-1] + self._manifest.chunk(number).length)
        self._first.append(self._place_of[first])
        self._lacking.append(last - first + 1)

    @property
    def is_finished(self) -> bool:
        """All tensors were given out."""
        return self._head == len(self._tensors)

    @property
    def awaited(self) -> int | None:
        """The chunk without which the next tensor cannot be given out."""
        if self.is_finished or not self._lacking[self._head]:
            return None
        return self._chunks[self._here.index(0, self._first[self._head])]

    @property
    def missing(self) -> list[int]:
        """Chunks that were asked for and are not here, ascending."""
        return [n for n in self._chunks[: self._asked] if self.lacks(n)]

    def lacks(self, number: int) -> bool:
        """Whether a chunk of the tensors is not here."""
        return not self._here[self._place_of[number]]

    def ask(self, window: int | None = None) -> list[int]:
        """The chunks to ask for now, ascending; each is given out once. By default as many as fit
        the window."""
        if self.is_finished:
            return []
        base = self._first[self._head]
        if self._lacking[self._head]:
            base = self._here.index(0, base)
        first, most = self._asked, self._window if window is None else window
        while self._asked < len(self._chunks) and (
            self._asked <= base or self._ends[self._asked + 1] - self._ends[base] <= most
        ):
            self._asked += 1
        numbers = self._chunks[first : self._asked]
        for number in numbers:
            for index in self._tensors_of(number):
                self._begin(index)
        return numbers

    def _begin(self, index: int) -> memoryview:
        memory = self._memory.get(index)
        if memory is None:
            tensor = self._tensors[index].tensor
            memory = self._destination(tensor)
            if memory.nbytes != tensor.length:
                raise ValueError(f"{memory.nbytes} bytes for {tensor.name!r} of {tensor.length}")
            memory = memory.cast("B") if memory.nbytes else memoryview(bytearray())
            self._memory[index] = memory
        return memory

    def _tensors_of(self, number: int) -> list[int]:
        """The tensors that have some byte of a chunk."""
        file, index = self._manifest.locate(number)
        chunk = self._manifest.files[file].chunks[index]
        end = bisect_left(self._starts, (file, chunk.offset + chunk.length))
        found = []
        while end and self._tensors[end - 1].file == file:
            end -= 1
            tensor = self._tensors[end].tensor
            if tensor.length:
                if tensor.offset + tensor.length <= chunk.offset:
                    break
                found.append(end)
        return found

    def write(self, first: int, count: int, data: bytes | memoryview, source: str) -> None:
        """Verify consecutive chunks, each before it is written to where it belongs. In any thread.

        Raises :class:`~lattica.errors.IntegrityError` that names `source`.
        """
        for number, piece in verified_chunks(self._manifest, first, count, data, source):
            file, index = self._manifest.locate(number)
            start = self._manifest.files[file].chunks[index].offset
            end = start + len(piece)
            for place in self._tensors_of(number):
                tensor = self._tensors[place].tensor
                low, high = max(start, tensor.offset), min(end, tensor.offset + tensor.length)
                target = self._memory[place][low - tensor.offset : high - tensor.offset]
                target[:] = piece[low - start : high - start]

    def arrived(self, numbers: Iterable[int]) -> None:
        """Chunks have been written. Those of which that is known count nothing."""
        for number in numbers:
            place = self._place_of[number]
            if not self._here[place]:
                self._here[place] = 1
                for index in self._tensors_of(number):
                    self._lacking[index] -= 1

    def take(self) -> tuple[Tensor, memoryview] | None:
        """The next tensor, with its memory, if it is whole."""
        if self.is_finished or self._lacking[self._head]:
            return None
        index = self._head
        memory = self._begin(index)
        self._head += 1
        del self._memory[index]
        return self._tensors[index].tensor, memory
