"""Zeros of what is fetched: where the file system can, they are holes and take no room.

Most are known before they come: a long run of zeros is cut into chunks of two lengths, of which the
hashes are known. Other chunks are looked at when they are here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from lattica.content.disk import allocate, next_data, punch, write_all
from lattica.content.download.plan import Placement, Plan
from lattica.content.manifest.chunking import TENSOR_CHUNK_BYTES
from lattica.content.manifest.content_defined import digest_of_zeros
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES

_LEAST = 64 * 1024
"""Bytes of a chunk below which a hole is not worth it."""
_ENDS = 64
_ZEROS = bytes(1024 * 1024)


@dataclass(frozen=True, slots=True)
class Hole:
    """Zeros in an output."""

    output: int
    offset: int
    length: int


@cache
def digests_of_holes() -> frozenset[bytes]:
    """SHA-256 of the chunks into which long runs of zeros are cut."""
    return frozenset(map(digest_of_zeros, (TENSOR_CHUNK_BYTES, MAX_CHUNK_BYTES)))


def joined(places: Iterable[Placement]) -> list[Hole]:
    """The same places, those that follow on each other as one; by output and offset."""
    found: list[Hole] = []
    for place in sorted(places, key=lambda place: (place.output, place.offset)):
        last = found[-1] if found else None
        if (
            last is not None
            and last.output == place.output
            and last.offset + last.length == place.offset
        ):
            found[-1] = Hole(last.output, last.offset, last.length + place.length)
        else:
            found.append(Hole(place.output, place.offset, place.length))
    return found


def known_holes(plan: Plan) -> dict[int, list[Hole]]:
    """By output, ascending: where the manifest says that there are only zeros."""
    places: list[Placement] = []
    for digest in digests_of_holes():
        number = plan.number_of(digest)
        if number is not None:
            places += plan.placements(number)
    found: dict[int, list[Hole]] = {}
    for hole in joined(places):
        found.setdefault(hole.output, []).append(hole)
    return found


def is_zeros(data: memoryview) -> bool:
    """Whether a chunk has nothing but zeros, and is worth a hole."""
    if len(data) < _LEAST or any(data[:_ENDS]) or any(data[-_ENDS:]):
        return False
    return all(
        data[start : start + len(_ZEROS)].tobytes() == _ZEROS[: len(data) - start]
        for start in range(0, len(data), len(_ZEROS))
    )


def allocate_around(descriptor: int, size: int, holes: Sequence[Hole]) -> None:
    """Reserve the blocks of a new file, but for its holes. Raises :class:`OSError`."""
    position = 0
    for hole in holes:
        allocate(descriptor, hole.offset - position, position)
        position = hole.offset + hole.length
    allocate(descriptor, size - position, position)
    if holes:
        os.ftruncate(descriptor, size)


def is_hole(descriptor: int, hole: Hole) -> bool:
    """Whether nothing lies there in a file, so that zeros are read. Raises :class:`OSError`."""
    return next_data(descriptor, hole.offset) >= hole.offset + hole.length


def make_hole(descriptor: int, hole: Hole) -> None:
    """Make a hole in a file, whatever lies there; zeros, where the file system knows of none.

    Raises :class:`OSError`.
    """
    if punch(descriptor, hole.offset, hole.length) or is_hole(descriptor, hole):
        return
    end = hole.offset + hole.length
    for start in range(hole.offset, end, len(_ZEROS)):
        write_all(descriptor, memoryview(_ZEROS)[: end - start], start)
