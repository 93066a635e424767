"""Lists of chunks: what a manifest of a large publication refers to instead of containing it. Pure.

A publication of more than :data:`~.manifest.INLINE_CHUNKS` chunks is described in two levels. In
its manifest a file of more than :data:`~.manifest.SHORT_CHUNKS` chunks has for each of its lists
only the bytes of its chunks, together, and the list's SHA-256. A list is `lengths`, 4 bytes (big
endian) a chunk, and then `digests`, 32 bytes a chunk, of :data:`~.manifest.LIST_CHUNKS` chunks; the
last one of a file has the rest. Lists refer to nothing, so that there is no third level, and no
loop. They are numbered through, in the order of the files. The division depends on nothing but the
content.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lattica.content.manifest.big_endian import pack_numbers, unpack_numbers
from lattica.content.manifest.cid import DIGEST_SIZE
from lattica.content.manifest.manifest import (
    LIST_CHUNKS,
    MAX_CHUNK_BYTES,
    Chunks,
    ChunkTable,
    FileEntry,
    ListedChunks,
    ListNotLoadedError,
    ListRef,
    Manifest,
    is_listed,
)
from lattica.nat.base.errors import RemoteProtocolError

CHUNK_BYTES = 4 + DIGEST_SIZE
"""Bytes of a list for each of its chunks."""


@dataclass(frozen=True, slots=True)
class NumberedList:
    """A list of a manifest: its number, whose it is, and what is said of it."""

    number: int
    file: int
    index: int
    """Among the lists of its file."""
    ref: ListRef

    @property
    def encoded_size(self) -> int:
        """Bytes of the list itself."""
        return self.ref.count * CHUNK_BYTES


def table_of(lengths: bytes, digests: bytes) -> ChunkTable:
    """A table as it is written down; raises :class:`ValueError`."""
    if len(lengths) % 4 or len(lengths) // 4 * DIGEST_SIZE != len(digests):
        raise ValueError("lengths and digests do not belong together")
    unpacked = unpack_numbers("I", lengths)
    if unpacked and (min(unpacked) == 0 or max(unpacked) > MAX_CHUNK_BYTES):
        raise ValueError(f"a chunk is empty or longer than {MAX_CHUNK_BYTES} bytes")
    return ChunkTable.from_chunks(unpacked, digests)


def _bytes_of(table: ChunkTable, first: int, last: int) -> bytes:
    """The list of chunks `first` to `last` - 1."""
    lengths = pack_numbers("I", table.lengths(first, last))
    return lengths + table.digests[first * DIGEST_SIZE : last * DIGEST_SIZE]


def refs_of(chunks: Chunks) -> tuple[ListRef, ...]:
    """What a manifest says of the lists of a file's chunks."""
    if isinstance(chunks, ListedChunks):
        return chunks.refs
    refs = []
    before = 0
    for first in range(0, len(chunks), LIST_CHUNKS):
        last = min(first + LIST_CHUNKS, len(chunks))
        size, before = chunks.ends[last - 1] - before, chunks.ends[last - 1]
        digest = hashlib.sha256(_bytes_of(chunks, first, last)).digest()
        refs.append(ListRef(last - first, size, digest))
    return tuple(refs)


def lists_in(manifest: Manifest) -> Iterator[NumberedList]:
    """The lists of a manifest, in their order, as it came: none where all is in it."""
    number = 0
    for index, file in enumerate(manifest.files):
        if isinstance(file.chunks, ListedChunks):
            for within, ref in enumerate(file.chunks.refs):
                yield NumberedList(number, index, within, ref)
                number += 1


def encode_list(manifest: Manifest, number: int) -> bytes:
    """The bytes of one list.

    Raises:
        RemoteProtocolError: there is none of that number.
        ListNotLoadedError: it is not here.
    """
    if number >= manifest.list_count:
        raise RemoteProtocolError(f"list {number} was asked for, which there is not")
    file, index = manifest.locate_list(number)
    chunks = manifest.files[file].chunks
    if isinstance(chunks, ListedChunks):
        table = chunks.loaded.get(index)
        if table is None:
            raise ListNotLoadedError(f"list {number} is not here")
        return _bytes_of(table, 0, len(table))
    first = index * LIST_CHUNKS
    return _bytes_of(chunks, first, min(first + LIST_CHUNKS, len(chunks)))


def all_lists(manifest: Manifest) -> Iterator[bytes]:
    """The bytes of each list; none where the manifest has everything. Raises as
    :func:`encode_list`."""
    return (encode_list(manifest, number) for number in range(manifest.list_count))


def split_lists(manifest: Manifest, data: bytes) -> dict[int, bytes]:
    """Lists, by number, that lie one after the other; those whose hash is wrong are left out."""
    found = {}
    start = 0
    for one in lists_in(manifest):
        piece = data[start : start + one.encoded_size]
        start += one.encoded_size
        if hashlib.sha256(piece).digest() == one.ref.digest:
            found[one.number] = piece
    return found


def _decode(one: NumberedList, data: bytes, path: str) -> ChunkTable:
    """A list whose hash is right; raises :class:`RemoteProtocolError` for one that is no list."""
    try:
        if len(data) != one.encoded_size:
            raise ValueError("it has another number of chunks")
        table = table_of(data[: one.ref.count * 4], data[one.ref.count * 4 :])
        if table.size != one.ref.size:
            raise ValueError(f"its chunks have {table.size} bytes, not {one.ref.size}")
    except ValueError as error:
        raise RemoteProtocolError(
            f"damaged manifest: list {one.index} of the chunks of {path!r} is not what the "
            f"manifest says: {error}"
        ) from None
    return table


def with_lists(manifest: Manifest, lists: Mapping[int, bytes]) -> Manifest:
    """The manifest with these lists, by number. Their hashes have been compared.

    A file of which all are there has a plain table then.

    Raises:
        RemoteProtocolError: a list is not what the manifest says.
    """
    loaded: dict[int, dict[int, ChunkTable]] = {}
    for one in lists_in(manifest):
        if one.number in lists:
            table = _decode(one, lists[one.number], manifest.files[one.file].path)
            loaded.setdefault(one.file, {})[one.index] = table
    if not loaded:
        return manifest
    files = list(manifest.files)
    for index, tables in loaded.items():
        files[index] = _with_tables(files[index], tables)
    return replace(manifest, files=tuple(files))


def _with_tables(file: FileEntry, tables: dict[int, ChunkTable]) -> FileEntry:
    chunks = file.chunks
    assert isinstance(chunks, ListedChunks)
    tables = {**chunks.loaded, **tables}
    if len(tables) < len(chunks.refs):
        return replace(file, chunks=ListedChunks(chunks.refs, tables))
    ends = array("Q")
    start = 0
    for index in range(len(tables)):
        ends.extend(start + end for end in tables[index].ends)
        start = ends[-1]
    digests = b"".join(tables[index].digests for index in range(len(tables)))
    return replace(file, chunks=ChunkTable(ends, digests))


def lists_for(manifest: Manifest, wanted: Mapping[int, Iterable[tuple[int, int]]]) -> set[int]:
    """Numbers of the lists that have chunks with some of these bytes: by file, (start, stop)."""
    found: set[int] = set()
    first_number = 0
    for index, file in enumerate(manifest.files):
        chunks = file.chunks
        if not isinstance(chunks, ListedChunks):
            continue
        for start, stop in wanted.get(index, ()):
            if start < stop:
                first, last = chunks.list_at(start), chunks.list_at(stop - 1)
                found.update(range(first_number + first, first_number + last + 1))
        first_number += len(chunks.refs)
    return found


def loaded_runs(manifest: Manifest) -> Iterator[tuple[int, list[int], bool]]:
    """All chunks that are here: the number of the first, the lengths of it and those after it, and
    whether they begin a list or follow the last one of a file, whichever lists are loaded.
    """
    after_list = False
    for index, file in enumerate(manifest.files):
        base = manifest.first_chunk(index)
        listed = is_listed(file.chunks, manifest.chunk_count)
        if isinstance(file.chunks, ListedChunks):
            for within, table in sorted(file.chunks.loaded.items()):
                yield base + within * LIST_CHUNKS, table.lengths(), True
        else:
            lengths = file.chunks.lengths()
            step = LIST_CHUNKS if listed else max(1, len(lengths))
            for first in range(0, len(lengths), step):
                yield base + first, lengths[first : first + step], listed or after_list
        after_list = listed or (after_list and not len(file.chunks))
