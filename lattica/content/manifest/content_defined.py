"""Chunks that begin where the content says so, for files of which nothing else is known.

FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based
Storage Systems", IEEE TPDS 2020; normalization 3): a chunk has 256 KiB to 2 MiB, about 1 MiB on
average, and ends where a gear hash of the bytes before has certain bits. So a byte that is inserted
changes the chunk that it is in, and no others.

Where a chunk ends depends on where it begins, hence on all that comes before. A file is cut in
parallel all the same: each thread takes a segment and begins at its first byte, as if a chunk began
there. After a few chunks it has found an end that is one of the whole file's too, and from there on
they are the same. :class:`Stitching` cuts anew what lies before. Blocking, but for that.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pyfastcdc import FastCDC

from lattica.content.disk import next_data, read_exactly
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES, ChunkTable

MIN_BYTES = 256 * 1024
AVERAGE_BYTES = 1024 * 1024
SEGMENT_BYTES = 32 * 1024 * 1024
"""What a thread takes at once."""

_BUFFER_BYTES = 4 * MAX_CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Cut:
    """A chunk: where it ends in the file, and its SHA-256."""

    end: int
    digest: bytes


@lru_cache(maxsize=64)
def digest_of_zeros(length: int) -> bytes:
    """SHA-256 of so many zeros: of what a hole in a sparse file has."""
    return hashlib.sha256(bytes(length)).digest()


def cut_content(descriptor: int, start: int, size: int) -> Iterator[Cut]:
    """The chunks of a file of `size` bytes from `start` on, as if one began there.

    Ends early where the file does. Raises :class:`OSError`. Memory: 8 MiB.
    """
    cutter = FastCDC(
        AVERAGE_BYTES, min_size=MIN_BYTES, max_size=MAX_CHUNK_BYTES, normalized_chunking=3
    )
    buffer = memoryview(b"")
    first = filled = 0
    """What of the buffer is to be cut: it is at `position` in the file."""
    position, data = start, next_data(descriptor, start)
    while position < size:
        zeros = min(MAX_CHUNK_BYTES, size - position)
        if data >= position + zeros:  # nothing but a hole, in which the hash finds no end
            length = zeros
            yield Cut(position + length, digest_of_zeros(length))
            position += length
            first = min(filled, first + length)
            continue
        if filled - first < min(MAX_CHUNK_BYTES, size - position):
            buffer = buffer or memoryview(bytearray(min(_BUFFER_BYTES, size - position)))
            held = filled - first
            buffer[:held] = buffer[first:filled]
            first, filled = 0, min(len(buffer), size - position)
            if not read_exactly(descriptor, buffer[held:filled], position + held):
                return
        length = next(iter(cutter.cut_buf(buffer[first:filled]))).length
        piece = buffer[first : first + length]
        yield Cut(position + length, hashlib.sha256(piece).digest())
        first += length
        position += length
        if data < position:
            data = next_data(descriptor, position) if position < size else position


class Stitching:
    """Puts segments, which come in any order, together to the chunks of the whole file.

    :meth:`add` and :meth:`take` are for one thread, :meth:`join` for one at a time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: dict[int, list[Cut]] = {}
        self._next = 0
        self._is_joining = False
        self._position = 0
        self._ends = array("Q")
        self._digests = bytearray()

    @property
    def table(self) -> ChunkTable:
        """The chunks, once all segments are joined."""
        return ChunkTable(self._ends, bytes(self._digests))

    def add(self, start: int, cuts: list[Cut]) -> None:
        """Take the chunks of the segment at `start`; the first one's are chunks of the file."""
        if start:
            self._waiting[start] = cuts
            return
        for cut in cuts:
            self._append(cut)
        self._next = SEGMENT_BYTES

    def take(self) -> list[Cut] | None:
        """The segment that is next, to be joined; None where it is not here, or one is joined."""
        if self._is_joining or self._next not in self._waiting:
            return None
        self._is_joining = True
        return self._waiting.pop(self._next)

    def join(self, cuts: list[Cut], descriptor: int) -> None:
        """Append a segment, and cut what lies between. Raises :class:`OSError`."""
        self._join(cuts, descriptor, min(self._next + SEGMENT_BYTES, self._size))
        self._next += SEGMENT_BYTES
        self._is_joining = False

    def _join(self, cuts: list[Cut], descriptor: int, stop: int) -> None:
        following = 0
        if self._position != self._next:
            numbers = {cut.end: number for number, cut in enumerate(cuts)}
            if self._position < stop and self._position not in numbers:
                for cut in cut_content(descriptor, self._position, self._size):
                    self._append(cut)
                    if self._position >= stop or self._position in numbers:
                        break
            following = numbers.get(self._position, len(cuts)) + 1
        for cut in cuts[following:]:
            self._append(cut)

    def _append(self, cut: Cut) -> None:
        self._ends.append(cut.end)
        self._digests += cut.digest
        self._position = cut.end


def cut_segment(descriptor: int, start: int, size: int) -> list[Cut]:
    """The chunks from the beginning of a segment on, the last of which may end behind it."""
    stop = start + SEGMENT_BYTES
    found = []
    for cut in cut_content(descriptor, start, size):
        found.append(cut)
        if cut.end >= stop:
            break
    return found
