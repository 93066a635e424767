"""Sparse deltas: where two versions of a file of weights differ, and what stands there now. Pure.

After a step of reinforcement learning in bf16 most elements have the bits that they had; those
that changed are written down by position and value, without loss (as in PULSE, arXiv 2602.03839).
A delta only says how a file is made from another one: whether it is right, the hashes of its
chunks tell. Form::

    length (4 bytes, big endian) | msgpack [1, size of the file, [section, …]] | zstd frames
    section = [offset, unit, elements, changed, length of its frame]

A section is `elements` elements of `unit` bytes from `offset` on, of which `changed` changed. Its
frame holds the positions of these as int32 (the first, then the distance from one to the next)
and their new values, each as planes: all first bytes, then all second ones, and so on, since the
upper bytes of both hardly differ from each other. Chunks of which much has changed are left out,
and travel as chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from lattica.content.errors import IntegrityError

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
MAX_CHANGED = 1 << 20
"""Elements that one section changes; bounds the memory of whoever applies it to 16 MiB."""
MAX_ELEMENTS = (1 << 31) - 1
MAX_HEADER_BYTES = 16 * 1024 * 1024
_UNITS = (1, 2, 4, 8)
_LENGTH = 4
_POSITION = 4
_WORTH = 0.75
"""A chunk is described by its changes if these take less than this part of it."""
_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the file that is compared as a whole: a chunk, with elements of `unit` bytes."""

    offset: int
    length: int
    unit: int


@dataclass(frozen=True, slots=True)
class _Section:
    offset: int
    unit: int
    elements: int
    changed: int
    squeezed: int

    @property
    def plain(self) -> int:
        """Bytes of the frame's content."""
        return self.changed * (_POSITION + self.unit)


def can_delta() -> bool:
    """Whether numpy and zstandard are installed, which deltas need."""
    from importlib.util import find_spec

    return find_spec("numpy") is not None and find_spec("zstandard") is not None


def _elements(memory: memoryview, offset: int, length: int, unit: int) -> np.ndarray[Any, Any]:
    import numpy

    return numpy.frombuffer(memory, f"<u{unit}", length // unit, offset)


def _planes(values: np.ndarray[Any, Any]) -> bytes:
    import numpy

    unit = values.dtype.itemsize
    return numpy.ascontiguousarray(values).view("u1").reshape(-1, unit).T.tobytes()


def _from_planes(data: memoryview, kind: str, unit: int) -> np.ndarray[Any, Any]:
    import numpy

    table = numpy.frombuffer(data, "u1").reshape(unit, -1)
    return numpy.ascontiguousarray(table.T).view(kind).reshape(-1)


def make_delta(old: memoryview, new: memoryview, regions: Sequence[Region]) -> bytes | None:
    """How `new` is made from `old`, which has the same size: what of `regions` has changed.

    Regions are in ascending order and do not overlap. None if nothing would be gained. Blocking,
    about a second a gigabyte.
    """
    import numpy
    import zstandard

    if len(old) != len(new):
        return None
    squeeze = zstandard.ZstdCompressor(level=_LEVEL).compress
    sections: list[_Section] = []
    frames: list[bytes] = []
    start, unit, end = 0, 0, 0
    waiting: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    count = 0

    def flush() -> None:
        nonlocal count
        if count:
            positions = numpy.concatenate([each[0] for each in waiting])
            values = numpy.concatenate([each[1] for each in waiting])
            gaps = numpy.diff(positions, prepend=0).astype("<i4")
            frame = squeeze(_planes(gaps) + _planes(values))
            elements = (end - start) // unit
            sections.append(_Section(start, unit, elements, count, len(frame)))
            frames.append(frame)
        waiting.clear()
        count = 0

    for region in regions:
        if region.unit not in _UNITS or region.offset % region.unit or region.length % region.unit:
            region = Region(region.offset, region.length, 1)
        before = _elements(old, region.offset, region.length, region.unit)
        after = _elements(new, region.offset, region.length, region.unit)
        positions = numpy.flatnonzero(before != after)
        changed = len(positions)
        if not changed or changed * (region.unit + 1) > region.length * _WORTH:
            continue
        last = region.offset + region.length
        if count and (
            region.unit != unit
            or count + changed > MAX_CHANGED
            or (last - start) // unit > MAX_ELEMENTS
        ):
            flush()
        if not count:
            start, unit = region.offset, region.unit
        waiting.append((positions + (region.offset - start) // unit, after[positions]))
        count += changed
        end = last
    flush()
    if not sections:
        return None
    rows = [[s.offset, s.unit, s.elements, s.changed, s.squeezed] for s in sections]
    header: bytes = msgpack.packb([VERSION, len(new), rows])
    if len(header) > MAX_HEADER_BYTES:
        return None
    return b"".join([len(header).to_bytes(_LENGTH, "big"), header, *frames])


def _sections(delta: memoryview) -> tuple[int, list[_Section], int]:
    """Size of the file, the sections, and where their frames begin; raises ValueError."""
    size = int.from_bytes(delta[:_LENGTH], "big")
    if not 0 < size <= min(MAX_HEADER_BYTES, len(delta) - _LENGTH):
        raise ValueError("it is truncated")
    fields = msgpack.unpackb(delta[_LENGTH : _LENGTH + size], max_map_len=0, max_ext_len=0)
    match fields:
        case [version, int(file_size), list(rows)] if version == VERSION:
            return file_size, [_section(row, file_size) for row in rows], _LENGTH + size
    raise ValueError("its header is not one")


def _section(row: object, file_size: int) -> _Section:
    match row:
        case [int(offset), int(unit), int(elements), int(changed), int(squeezed)] if (
            unit in _UNITS
            and offset >= 0
            and 0 < changed <= min(elements, MAX_CHANGED)
            and elements <= MAX_ELEMENTS
            and offset + elements * unit <= file_size
            and squeezed > 0
        ):
            return _Section(offset, unit, elements, changed, squeezed)
    raise ValueError("a section is not within the file")


def _frames(
    delta: memoryview, sections: list[_Section], position: int
) -> Iterator[tuple[_Section, memoryview]]:
    """Sections and the contents of their frames, from `position` on; raises ValueError."""
    import zstandard

    decompress = zstandard.ZstdDecompressor().decompress
    for section in sections:
        frame = delta[position : position + section.squeezed]
        position += section.squeezed
        if len(frame) != section.squeezed:
            raise ValueError("it is truncated")
        try:
            # Before memory is taken for what the frame claims to hold.
            if zstandard.frame_content_size(frame) != section.plain:
                raise ValueError("a section has another length than it should")
            plain = decompress(frame, max_output_size=section.plain)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        if len(plain) != section.plain:
            raise ValueError("a section has another length than it should")
        yield section, memoryview(plain)
    if position != len(delta):
        raise ValueError("something follows its end")


def apply_delta(delta: bytes | memoryview, target: memoryview) -> None:
    """Change `target`, which has the old version, into the new one. Blocking.

    Raises:
        IntegrityError: it is no delta of a file of this size; `target` may be changed in part.
    """
    import numpy

    view = memoryview(delta)
    try:
        size, sections, position = _sections(view)
        if size != len(target):
            raise ValueError("it is for a file of another size")
        for section, plain in _frames(view, sections, position):
            border = section.changed * _POSITION
            gaps = _from_planes(plain[:border], "<i4", _POSITION)
            if gaps[0] < 0 or (len(gaps) > 1 and gaps[1:].min() <= 0):
                raise ValueError("its positions do not ascend")
            positions = numpy.cumsum(gaps, dtype=numpy.int64)
            if positions[-1] >= section.elements:
                raise ValueError("a position is outside its section")
            values = _from_planes(plain[border:], f"<u{section.unit}", section.unit)
            length = section.elements * section.unit
            _elements(target, section.offset, length, section.unit)[positions] = values
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise IntegrityError(f"a delta of weights is damaged: {error}") from None
