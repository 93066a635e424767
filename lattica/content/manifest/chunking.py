"""Cutting files into chunks, and hashing them in threads.

A plain file is cut every 1 MiB. A safetensors file is cut at the end of its header and at
tensors first: a tensor of at least 64 KiB begins a chunk of its own and is cut every 1 MiB from
there; runs of smaller neighbours share chunks of up to 256 KiB. So a tensor that did not change
keeps its chunks wherever it moves in the file, and one tensor can be fetched alone.

Files are read in pieces by worker threads: memory is 1 MiB a thread, whatever their size.
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import trio

from lattica.content.disk import next_data, open_regular, read_exactly
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import DIGEST_SIZE
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES, MAX_TENSORS, ChunkTable
from lattica.content.manifest.safetensors_header import (
    LENGTH_BYTES,
    TensorLayout,
    header_length,
    parse_header,
)

logger = logging.getLogger(__name__)

SMALL_TENSOR_BYTES = 64 * 1024
SHARED_CHUNK_BYTES = 256 * 1024
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
    """A file whose chunks are known and not yet hashed."""

    path: Path
    state: FileState
    ends: array[int]
    """As in :class:`~lattica.content.manifest.manifest.ChunkTable`."""
    layout: TensorLayout | None


def _split(lengths: list[int], size: int) -> None:
    """Append `size` bytes as chunks of the usual length and a rest."""
    whole, rest = divmod(size, MAX_CHUNK_BYTES)
    lengths += [MAX_CHUNK_BYTES] * whole
    if rest:
        lengths.append(rest)


def cut_plain(size: int) -> list[int]:
    """Lengths of the chunks of a plain file."""
    lengths: list[int] = []
    _split(lengths, size)
    return lengths


def cut_tensors(layout: TensorLayout) -> list[int]:
    """Lengths of the chunks of a safetensors file."""
    lengths = cut_plain(layout.data_start)
    shared = 0
    for tensor in layout.tensors:
        length = tensor.length
        small = length < SMALL_TENSOR_BYTES
        if shared and not (small and shared + length <= SHARED_CHUNK_BYTES):
            lengths.append(shared)
            shared = 0
        if small:
            shared += length
        else:
            _split(lengths, length)
    if shared:
        lengths.append(shared)
    return lengths


def _read_layout(descriptor: int, path: Path, size: int, warn: bool) -> TensorLayout | None:
    try:
        length = header_length(os.pread(descriptor, LENGTH_BYTES, 0), size)
        layout = parse_header(os.pread(descriptor, length, LENGTH_BYTES), size)
        if len(layout.tensors) + len(layout.metadata) > MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS:,} tensors and metadata entries")
        text = sum(len(key) + len(value) for key, value in layout.metadata)
        if text > _MAX_METADATA_BYTES:
            raise ValueError(f"more than {_MAX_METADATA_BYTES:,} characters of metadata")
        return layout
    except ValueError as error:
        logger.log(
            logging.WARNING if warn else logging.DEBUG,
            "%s is not a valid safetensors file (%s); sent as a plain file, of which no tensors "
            "can be selected",
            path,
            error,
        )
        return None


def cut_file(path: Path, *, flags: int = os.O_RDONLY, warn: bool = True) -> CutFile:
    """Look at a file and decide where to cut it; blocking, reads at most its header.

    A damaged safetensors file is cut as a plain one, unless told otherwise with a warning. Raises
    :class:`OSError`.
    """
    descriptor = open_regular(path, flags)
    try:
        state = FileState.of(os.fstat(descriptor))
        layout = None
        if path.suffix.lower() == ".safetensors":
            layout = _read_layout(descriptor, path, state.size, warn)
    finally:
        os.close(descriptor)
    lengths = cut_plain(state.size) if layout is None else cut_tensors(layout)
    return CutFile(path, state, ChunkTable.from_chunks(lengths, b"").ends, layout)


@lru_cache(maxsize=64)
def _digest_of_zeros(length: int) -> bytes:
    return hashlib.sha256(bytes(length)).digest()


def _hash_unit(file: CutFile, first: int, last: int) -> bytes:
    """Digests of chunks `first` to `last` - 1; blocking."""
    ends = file.ends
    digests = bytearray()
    buffer = memoryview(b"")
    descriptor = open_regular(file.path)
    try:
        start = ends[first - 1] if first else 0
        data = next_data(descriptor, start)
        for end in ends[first:last]:
            if data >= end:  # a sparse file may be a thousand times what is on disk
                digests += _digest_of_zeros(end - start)
            else:
                buffer = buffer or memoryview(bytearray(MAX_CHUNK_BYTES))
                piece = buffer[: end - start]
                if not read_exactly(descriptor, piece, start):
                    break
                digests += hashlib.sha256(piece).digest()
                data = next_data(descriptor, end)
            start = end
        if FileState.of(os.fstat(descriptor)) != file.state:
            raise ContentError(
                f"{file.path} is being written to while it is hashed; "
                "wait until it is complete, and try again"
            )
    finally:
        os.close(descriptor)
    return bytes(digests)


def _units(files: Iterable[tuple[int, CutFile]]) -> Iterator[tuple[int, CutFile, int, int]]:
    for index, file in files:
        for first in range(0, len(file.ends), _UNIT_CHUNKS):
            yield index, file, first, min(first + _UNIT_CHUNKS, len(file.ends))


async def hash_files(
    files: Sequence[CutFile], on_bytes: Callable[[int], None] | None = None
) -> list[bytes]:
    """Hash all chunks of `files`; returns 32 bytes a chunk for each file.

    `on_bytes` is called with the size of every finished piece, in the trio thread. Raises
    :class:`ContentError` when a file is written to meanwhile, and :class:`OSError`; inside an
    exception group, as it comes from a nursery. When cancelled, returns after the pieces being
    hashed (16 MiB each) are done.
    """
    digests = [bytearray(len(file.ends) * DIGEST_SIZE) for file in files]
    units = _units(enumerate(files))

    async def work() -> None:
        for index, file, first, last in units:
            result = await trio.to_thread.run_sync(_hash_unit, file, first, last, limiter=limiter)
            digests[index][first * DIGEST_SIZE : last * DIGEST_SIZE] = result
            if on_bytes is not None:
                start = file.ends[first - 1] if first else 0
                on_bytes(file.ends[last - 1] - start)

    limiter = trio.CapacityLimiter(HASH_THREADS)
    async with trio.open_nursery() as nursery:
        for _ in range(HASH_THREADS):
            nursery.start_soon(work)
    return [bytes(d) for d in digests]
