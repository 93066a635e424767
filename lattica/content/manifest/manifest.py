"""What a publication consists of: files, the chunks they are cut into, and their tensors.

Tables of chunks are kept packed (40 bytes a chunk), so that a checkpoint of a terabyte, with a
million chunks, is described in 40 MB. Construction does not validate; bytes from a peer pass
through :func:`lattica.content.manifest.codec.decode_manifest`, which does.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from lattica.content.manifest.cid import DIGEST_SIZE
from lattica.content.manifest.safetensors_header import TensorLayout

MAX_CHUNK_BYTES = 1024 * 1024
"""The longest a chunk may be, and the usual length."""
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_FILES = 100_000
MAX_TENSORS = 262_144
"""Tensors and metadata entries over all files of one manifest."""
MAX_FILE_BYTES = 1 << 50


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a file: `length` bytes at `offset`, with this SHA-256."""

    offset: int
    length: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """The chunks of one file, in order and without gaps."""

    ends: array[int]
    """Typecode `Q`: the offset in the file where each chunk ends; strictly increasing."""
    digests: bytes
    """32 bytes a chunk."""

    @classmethod
    def from_chunks(cls, lengths: Iterable[int], digests: bytes) -> ChunkTable:
        """A table of chunks of these lengths (bytes), one after the other."""
        ends = array("Q")
        position = 0
        for length in lengths:
            position += length
            ends.append(position)
        return cls(ends, digests)

    def __repr__(self) -> str:
        return f"<ChunkTable of {len(self)} chunks, {self.size} bytes>"

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Chunk:
        start = self.ends[index - 1] if index else 0
        return Chunk(start, self.ends[index] - start, self.digest(index))

    def __iter__(self) -> Iterator[Chunk]:
        return (self[index] for index in range(len(self.ends)))

    @property
    def size(self) -> int:
        """Bytes of all chunks together."""
        return self.ends[-1] if self.ends else 0

    def digest(self, index: int) -> bytes:
        """SHA-256 of one chunk."""
        return self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]

    def index_at(self, offset: int) -> int:
        """Index of the chunk that contains the byte at `offset`."""
        return bisect_right(self.ends, offset)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file. `path` is relative, with `/` between its parts."""

    path: str
    executable: bool
    chunks: ChunkTable
    layout: TensorLayout | None = None
    """For a safetensors file: its tensors."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.chunks.size


@dataclass(frozen=True)
class Manifest:
    """A publication. Chunks are numbered through, in the order of the files.

    Equal content under an equal name has the same manifest, hence the same content id,
    whoever publishes it and whenever.
    """

    name: str
    files: tuple[FileEntry, ...]

    @cached_property
    def _first_chunks(self) -> list[int]:
        firsts = [0]
        for file in self.files:
            firsts.append(firsts[-1] + len(file.chunks))
        return firsts

    @property
    def chunk_count(self) -> int:
        """Chunks of all files."""
        return self._first_chunks[-1]

    @cached_property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def first_chunk(self, file_index: int) -> int:
        """Number of the first chunk of a file (of the next file's when it has none)."""
        return self._first_chunks[file_index]

    def locate(self, number: int) -> tuple[int, int]:
        """(index of the file, index in its table) of the chunk with this number."""
        file_index = bisect_right(self._first_chunks, number) - 1
        return file_index, number - self._first_chunks[file_index]

    def chunk(self, number: int) -> Chunk:
        """The chunk with this number; its offset is within its file."""
        file_index, index = self.locate(number)
        return self.files[file_index].chunks[index]
