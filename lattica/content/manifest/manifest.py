"""What a publication consists of: files, the chunks they are cut into, and their tensors.

Tables of chunks are kept packed (40 bytes a chunk). Of a large publication they are not in the
manifest itself, but in lists of their own, of which only those are loaded that somebody needs
(:mod:`~lattica.content.manifest.lists`): a checkpoint of a terabyte is described in a few KiB.
Construction does not validate; bytes from a peer pass through
:func:`lattica.content.manifest.codec.decode_manifest`, which does.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TypeAlias

from lattica.content.manifest.cid import DIGEST_SIZE
from lattica.content.manifest.tensor_files.gguf_header import GgufLayout
from lattica.content.manifest.tensor_files.safetensors_header import TensorLayout
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.peer_id import PeerId

MAX_CHUNK_BYTES = 2 * 1024 * 1024
"""The longest a chunk may be; 1 MiB is usual."""
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_FILES = 100_000
"""With links, and with directories that are named."""
MAX_TENSORS = 262_144
"""Tensors and metadata entries over all files of one manifest."""
MAX_FILE_BYTES = 1 << 50
MAX_MODE = 0o777
"""Permissions only: nothing runs with somebody else's rights by what a stranger says."""
MAX_CHUNKS = 1 << 22
"""Of all files of one manifest: of about 4 TiB."""
LIST_CHUNKS = 4096
"""Chunks of a list: as many as that, but for the last one of a file."""
INLINE_CHUNKS = 1024
"""Chunks of a publication whose manifest has all of them: about 1 GiB in 36 KiB."""
SHORT_CHUNKS = 8
"""Chunks of a file that are in the manifest in any case: a list would hardly be shorter."""


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

    def lengths(self, first: int = 0, last: int | None = None) -> list[int]:
        """Bytes of each chunk from `first` to `last` - 1, by default of all."""
        ends = self.ends[first:last]
        starts = chain([self.ends[first - 1] if first else 0], ends)
        return [end - start for start, end in zip(starts, ends, strict=False)]

    def digest(self, index: int) -> bytes:
        """SHA-256 of one chunk."""
        return self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]

    def index_at(self, offset: int) -> int:
        """Index of the chunk that contains the byte at `offset`."""
        return bisect_right(self.ends, offset)


class ListNotLoadedError(LocalProtocolError):
    """A chunk is in a list that was not loaded, since nobody said that it would be needed."""


@dataclass(frozen=True, slots=True)
class ListRef:
    """A list of chunks that lies in a block of its own: what the manifest says of it."""

    count: int
    """Chunks."""
    size: int
    """Bytes of these chunks."""
    digest: bytes
    """SHA-256 of the list."""


class ListedChunks:
    """The chunks of one file, in lists of which only some are loaded; else as a `ChunkTable`."""

    __slots__ = ("_loaded", "_starts", "refs")

    def __init__(self, refs: tuple[ListRef, ...], loaded: dict[int, ChunkTable]) -> None:
        self.refs = refs
        self._loaded = loaded
        self._starts = array("Q", [0])
        for ref in refs:
            self._starts.append(self._starts[-1] + ref.size)

    def __repr__(self) -> str:
        return f"<ListedChunks of {len(self)} chunks, {self.size} bytes>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ListedChunks) and self.refs == other.refs

    def __hash__(self) -> int:
        return hash(self.refs)

    def __len__(self) -> int:
        return (len(self.refs) - 1) * LIST_CHUNKS + self.refs[-1].count

    def __getitem__(self, index: int) -> Chunk:
        number, within = divmod(index, LIST_CHUNKS)
        chunk = self._list(number)[within]
        return Chunk(self._starts[number] + chunk.offset, chunk.length, chunk.digest)

    def __iter__(self) -> Iterator[Chunk]:
        return (self[index] for index in range(len(self)))

    @property
    def size(self) -> int:
        """Bytes of all chunks together."""
        return self._starts[-1]

    @property
    def loaded(self) -> dict[int, ChunkTable]:
        """The lists that are here, by index; offsets in them are from where a list begins."""
        return self._loaded

    def _list(self, number: int) -> ChunkTable:
        try:
            return self._loaded[number]
        except KeyError:
            raise ListNotLoadedError(f"list {number} of a file's chunks is not here") from None

    def digest(self, index: int) -> bytes:
        """SHA-256 of one chunk."""
        number, within = divmod(index, LIST_CHUNKS)
        return self._list(number).digest(within)

    def list_at(self, offset: int) -> int:
        """Index of the list that has the byte at `offset`."""
        return bisect_right(self._starts, offset) - 1

    def index_at(self, offset: int) -> int:
        """Index of the chunk that contains the byte at `offset`."""
        number = self.list_at(offset)
        return number * LIST_CHUNKS + self._list(number).index_at(offset - self._starts[number])


Chunks: TypeAlias = ChunkTable | ListedChunks
Layout: TypeAlias = TensorLayout | GgufLayout


def is_listed(chunks: Chunks, total: int) -> bool:
    """Whether a file's chunks are in lists, in a publication of `total` chunks."""
    return total > INLINE_CHUNKS and len(chunks) > SHORT_CHUNKS


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file. `path` is relative, with `/` between its parts."""

    path: str
    executable: bool
    chunks: Chunks
    layout: Layout | None = None
    """For a safetensors or GGUF file: its tensors."""
    mode: int | None = None
    """Its permissions, as of `chmod`, where they are not the usual ones of such a file: 0644, or
    0755 if it is executable, or these with more for the group and others to write."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.chunks.size

    @property
    def table(self) -> ChunkTable:
        """All chunks; raises :class:`ListNotLoadedError` where they are not here."""
        if isinstance(self.chunks, ListedChunks):
            raise ListNotLoadedError(f"not all chunks of {self.path!r} are here")
        return self.chunks


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """A symbolic link to a file or directory of the same publication."""

    path: str
    target: str
    """Relative to the directory that the link is in."""


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """A directory that is empty, or whose permissions are not 0755 (or 0775, 0777)."""

    path: str
    mode: int


@dataclass(frozen=True)
class Manifest:
    """A publication. Chunks are numbered through, in the order of the files.

    Equal content under an equal name has the same manifest, hence the same content id,
    whoever publishes it and whenever.
    """

    name: str
    files: tuple[FileEntry, ...]
    links: tuple[LinkEntry, ...] = ()
    directories: tuple[DirectoryEntry, ...] = ()
    signature: bytes = b""
    """An envelope of the signer's; empty where nobody has signed
    (:mod:`~lattica.content.manifest.signing`)."""
    signer: PeerId | None = None
    """Who has signed it. Of a manifest from a peer this has been verified."""

    @cached_property
    def _first_chunks(self) -> list[int]:
        firsts = [0]
        for file in self.files:
            firsts.append(firsts[-1] + len(file.chunks))
        return firsts

    @cached_property
    def _first_lists(self) -> list[int]:
        firsts = [0]
        for file in self.files:
            listed = len(file.chunks) if is_listed(file.chunks, self.chunk_count) else 0
            firsts.append(firsts[-1] + -(-listed // LIST_CHUNKS))
        return firsts

    @property
    def list_count(self) -> int:
        """Lists of chunks of all files, loaded or not."""
        return self._first_lists[-1]

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

    def locate_list(self, number: int) -> tuple[int, int]:
        """(index of the file, index among its lists) of the list with this number."""
        file_index = bisect_right(self._first_lists, number) - 1
        return file_index, number - self._first_lists[file_index]

    def chunk(self, number: int) -> Chunk:
        """The chunk with this number; its offset is within its file."""
        file_index, index = self.locate(number)
        return self.files[file_index].chunks[index]
