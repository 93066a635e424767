"""Cutting files into chunks, and hashing them in threads.

A plain file is cut where its content says so (:mod:`~.content_defined`). A safetensors file is cut
at the end of its header, which is cut every 1 MiB, and at tensors first: a tensor of at least
64 KiB begins a chunk of its own and is cut every 1 MiB from there; runs of smaller neighbours share
chunks of up to 256 KiB. So a tensor that did not change keeps its chunks wherever it moves in the
file, and one tensor can be fetched alone. A GGUF file is cut likewise; what fills a tensor up to
the alignment is part of its last chunk.

Files are read in pieces by worker threads: memory is 8 MiB a thread, whatever their size.
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import trio

from lattica.content.disk import next_data, open_regular, read_exactly, reader_of
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import DIGEST_SIZE
from lattica.content.manifest.content_defined import (
    SEGMENT_BYTES,
    Cut,
    Stitching,
    cut_segment,
    digest_of_zeros,
)
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES, MAX_TENSORS, ChunkTable, Layout
from lattica.content.manifest.tensor_files.gguf_header import GgufLayout, extents, parse_gguf
from lattica.content.manifest.tensor_files.safetensors_header import (
    Read,
    TensorLayout,
    parse_safetensors,
)

logger = logging.getLogger(__name__)

SMALL_TENSOR_BYTES = 64 * 1024
SHARED_CHUNK_BYTES = 256 * 1024
TENSOR_CHUNK_BYTES = 1024 * 1024
"""Of a tensor's chunks, but for the last one."""
HASH_THREADS = max(2, min(8, os.cpu_count() or 2))

_MAX_METADATA_BYTES = 16 * 1024 * 1024
"""Of one file: the manifest carries it."""
_UNIT_CHUNKS = 16
"""Chunks hashed in one visit to a thread: what a cancelled hash still finishes."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells that a file has not been written to since it was looked at."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state that `os.stat` saw."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class CutFile:
    """A file that is not yet hashed."""

    path: Path
    state: FileState
    ends: array[int] | None
    """As in :class:`~lattica.content.manifest.manifest.ChunkTable`; None: it is cut by its content,
    when it is hashed."""
    layout: Layout | None


def cut_plain(size: int) -> list[int]:
    """Lengths of chunks of 1 MiB, and a rest."""
    whole, rest = divmod(size, TENSOR_CHUNK_BYTES)
    lengths = [TENSOR_CHUNK_BYTES] * whole
    if rest:
        lengths.append(rest)
    return lengths


def cut_tensors(layout: Layout) -> list[int]:
    """Lengths of the chunks of a safetensors or GGUF file."""
    lengths = cut_plain(layout.data_start)
    if isinstance(layout, GgufLayout):
        tensors = extents(layout)
        if not tensors:
            lengths += cut_plain(layout.size - layout.data_start)
    else:
        tensors = [tensor.length for tensor in layout.tensors]
    shared = 0
    for length in tensors:
        small = length < SMALL_TENSOR_BYTES
        if shared and not (small and shared + length <= SHARED_CHUNK_BYTES):
            lengths.append(shared)
            shared = 0
        if small:
            shared += length
        else:
            lengths += cut_plain(length)
    if shared:
        lengths.append(shared)
    return lengths


def _safetensors(read: Read, size: int) -> TensorLayout:
    layout = parse_safetensors(read, size)
    if len(layout.tensors) + len(layout.metadata) > MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS:,} tensors and metadata entries")
    text = sum(len(key) + len(value) for key, value in layout.metadata)
    if text > _MAX_METADATA_BYTES:
        raise ValueError(f"more than {_MAX_METADATA_BYTES:,} characters of metadata")
    return layout


def _gguf(read: Read, size: int) -> GgufLayout:
    return parse_gguf(read, size, MAX_TENSORS)


_FORMATS: dict[str, Callable[[Read, int], Layout]] = {".safetensors": _safetensors, ".gguf": _gguf}
"""By the end of a file's name, what reads its header."""


def has_tensors(path: str) -> bool:
    """Whether a file is one of those whose tensors can be told, by its name."""
    return PurePosixPath(path).suffix.lower() in _FORMATS


def _read_layout(descriptor: int, path: Path, size: int, warn: bool) -> Layout | None:
    try:
        return _FORMATS[path.suffix.lower()](reader_of(descriptor), size)
    except ValueError as error:
        logger.log(
            logging.WARNING if warn else logging.DEBUG,
            "%s is not a valid %s file (%s); sent as a plain file, of which no tensors "
            "can be selected",
            path,
            path.suffix.lower()[1:],
            error,
        )
        return None


def cut_file(path: Path, *, flags: int = os.O_RDONLY, warn: bool = True) -> CutFile:
    """Look at a file and decide where to cut it; blocking, reads at most its header.

    A damaged safetensors or GGUF file is cut as a plain one, unless told otherwise with a warning.
    Raises :class:`OSError`.
    """
    descriptor = open_regular(path, flags)
    try:
        state = FileState.of(os.fstat(descriptor))
        layout = None
        if has_tensors(path.name):
            layout = _read_layout(descriptor, path, state.size, warn)
    finally:
        os.close(descriptor)
    if layout is None:
        return CutFile(path, state, None, None)
    lengths = cut_tensors(layout)
    return CutFile(path, state, ChunkTable.from_chunks(lengths, b"").ends, layout)


@contextmanager
def _opened(file: CutFile) -> Iterator[int]:
    """A descriptor, for reading what is as it was when it was cut.

    Raises :class:`ContentError` at the end for a file that is not, and :class:`OSError`.
    """
    descriptor = open_regular(file.path)
    try:
        yield descriptor
        if FileState.of(os.fstat(descriptor)) != file.state:
            raise ContentError(
                f"{file.path} is being written to while it is hashed; "
                "wait until it is complete, and try again"
            )
    finally:
        os.close(descriptor)


def _hash_unit(file: CutFile, ends: array[int], first: int, last: int) -> bytes:
    """Digests of chunks `first` to `last` - 1; blocking."""
    digests = bytearray()
    buffer = memoryview(b"")
    with _opened(file) as descriptor:
        start = ends[first - 1] if first else 0
        data = next_data(descriptor, start)
        for end in ends[first:last]:
            if data >= end:  # a sparse file may be a thousand times what is on disk
                digests += digest_of_zeros(end - start)
            else:
                buffer = buffer or memoryview(bytearray(min(MAX_CHUNK_BYTES, file.state.size)))
                piece = buffer[: end - start]
                if not read_exactly(descriptor, piece, start):
                    break
                digests += hashlib.sha256(piece).digest()
                data = next_data(descriptor, end)
            start = end
    return bytes(digests)


def _cut_unit(file: CutFile, start: int) -> list[Cut]:
    """The chunks of a segment of a file that is cut by its content; blocking."""
    with _opened(file) as descriptor:
        return cut_segment(descriptor, start, file.state.size)


def _join_unit(file: CutFile, stitching: Stitching, cuts: list[Cut]) -> None:
    with _opened(file) as descriptor:
        stitching.join(cuts, descriptor)


_OnBytes: TypeAlias = Callable[[int], None]
_Work: TypeAlias = Callable[[trio.CapacityLimiter], Awaitable[int]]
"""A piece of work, of which some is done in a thread; returns how many bytes it was."""


class _Known:
    """Hashes a file whose chunks are known."""

    def __init__(self, file: CutFile, ends: array[int]) -> None:
        self._file = file
        self._ends = ends
        self._digests = bytearray(len(ends) * DIGEST_SIZE)

    @property
    def table(self) -> ChunkTable:
        return ChunkTable(self._ends, bytes(self._digests))

    def units(self) -> Iterator[_Work]:
        for first in range(0, len(self._ends), _UNIT_CHUNKS):
            yield partial(self._hash, first, min(first + _UNIT_CHUNKS, len(self._ends)))

    async def _hash(self, first: int, last: int, limiter: trio.CapacityLimiter) -> int:
        ends = self._ends
        result = await trio.to_thread.run_sync(
            _hash_unit, self._file, ends, first, last, limiter=limiter
        )
        self._digests[first * DIGEST_SIZE : last * DIGEST_SIZE] = result
        return ends[last - 1] - (ends[first - 1] if first else 0)


class _ByContent:
    """Cuts and hashes a file by its content."""

    def __init__(self, file: CutFile) -> None:
        self._file = file
        self._stitching = Stitching(file.state.size)

    @property
    def table(self) -> ChunkTable:
        return self._stitching.table

    def units(self) -> Iterator[_Work]:
        for start in range(0, self._file.state.size, SEGMENT_BYTES):
            yield partial(self._cut, start)

    async def _cut(self, start: int, limiter: trio.CapacityLimiter) -> int:
        file, stitching = self._file, self._stitching
        cuts = await trio.to_thread.run_sync(_cut_unit, file, start, limiter=limiter)
        stitching.add(start, cuts)
        while (following := stitching.take()) is not None:
            await trio.to_thread.run_sync(_join_unit, file, stitching, following, limiter=limiter)
        return min(SEGMENT_BYTES, file.state.size - start)


async def hash_files(
    files: Sequence[CutFile], on_bytes: _OnBytes | None = None
) -> list[ChunkTable]:
    """Hash all chunks of `files`, and cut those that are cut by their content.

    `on_bytes` is called with the size of every finished piece, in the trio thread. Raises
    :class:`ContentError` when a file is written to meanwhile, and :class:`OSError`; inside an
    exception group, as it comes from a nursery. When cancelled, returns after the pieces being
    hashed (32 MiB each) are done.
    """
    hashed = [_ByContent(file) if file.ends is None else _Known(file, file.ends) for file in files]
    units = (unit for one in hashed for unit in one.units())

    async def work() -> None:
        for unit in units:
            count = await unit(limiter)
            if on_bytes is not None:
                on_bytes(count)

    limiter = trio.CapacityLimiter(HASH_THREADS)
    async with trio.open_nursery() as nursery:
        for _ in range(HASH_THREADS):
            nursery.start_soon(work)
    return [one.table for one in hashed]
