"""The header of a GGUF file: a strict, bounded parser, and a header of some of its tensors.

A file is: the magic, its version, the number of tensors and of pairs; the pairs (key, type, value),
of which only `general.alignment` means something here; for each tensor its name, dimensions, type,
and offset; and from the next multiple of the alignment on the tensors' bytes, each of them filled
up to one.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian;
as in ggml tensors follow each other in the order of the header, without gaps. Pure, but for the
function that reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lattica.content.manifest.tensor_files.ggml_types import GGML_TYPES, NAME_OF, block_bytes
from lattica.content.manifest.tensor_files.safetensors_header import MAX_NAME_BYTES, Read, Tensor

MAGIC = b"GGUF"
PREFIX_BYTES = 24
"""Magic, version and the two numbers."""
VERSIONS = (2, 3)
MAX_PAIRS = 65_536
MAX_PAIR_BYTES = 256 * 1024 * 1024
"""Of all pairs: tokens of a vocabulary are among them."""
MAX_ARRAY_ELEMENTS = 2_097_152
"""Texts and arrays in all arrays of a header, which have to be looked at one by one: several times
what the largest vocabularies have, and a second of a core."""
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
_MAX_NESTING = 4
_MAX_TENSORS = 262_144
_WINDOW = 1024 * 1024
_ALIGNMENT = b"general.alignment"
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by its type's number."""


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """How a GGUF file is divided: its pairs, which are not known here, and tensors in order."""

    version: int
    pairs: int
    pairs_end: int
    """Where the last pair ends, bytes from the beginning of the file."""
    alignment: int
    tensors: tuple[Tensor, ...]
    """Shapes are in C order, as numpy has them: the reverse of the file's."""
    size: int
    """Of the file, in bytes."""

    @property
    def data_start(self) -> int:
        """Bytes before the first tensor."""
        return _aligned(self.pairs_end + _infos_bytes(self.tensors), self.alignment)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """None that is known."""
        return ()


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _infos_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(24 + len(tensor.name.encode()) + 8 * len(tensor.shape) for tensor in tensors)


def gguf_layout(
    version: int,
    pairs: int,
    pairs_end: int,
    alignment: int,
    size: int,
    shapes: Sequence[tuple[str, str, tuple[int, ...]]],
) -> GgufLayout:
    """Lay tensors of (name, type, shape) out as ggml does, in a file of `size` bytes.

    Raises:
        ValueError: they do not fill the file, a name is repeated, or something else cannot be.
    """
    if version not in VERSIONS or not 0 <= pairs <= MAX_PAIRS:
        raise ValueError("a GGUF file of an unknown version, or with too many pairs")
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError("the alignment is not a power of two")
    if not PREFIX_BYTES <= pairs_end <= PREFIX_BYTES + MAX_PAIR_BYTES:
        raise ValueError("the pairs are too long")
    names = set()
    tensors = []
    for name, dtype, shape in shapes:
        if name in names or len(name.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"the tensor name {name[:80]!r} is repeated or too long")
        if len(shape) > MAX_DIMENSIONS or not all(type(d) is int and d >= 0 for d in shape):
            raise ValueError(f"tensor {name[:80]!r} has a bad shape")
        names.add(name)
        tensors.append(Tensor(name, dtype, shape, 0))
    position = _aligned(pairs_end + _infos_bytes(tensors), alignment)
    end = position
    placed = []
    for tensor in tensors:
        position = _aligned(end, alignment)
        end = position + block_bytes(tensor.dtype, tensor.shape)
        placed.append(Tensor(tensor.name, tensor.dtype, tensor.shape, position))
    if not end <= size <= _aligned(end, alignment):
        raise ValueError("the tensors do not fill the file exactly")
    return GgufLayout(version, pairs, pairs_end, alignment, tuple(placed), size)


class _Cursor:
    """Reads a file from its beginning to its end, with a bounded window of it in memory."""

    def __init__(self, read: Read, limit: int) -> None:
        self._read = read
        self._limit = limit
        self._window = b""
        self._start = 0
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next bytes; raises :class:`ValueError` where there are not so many."""
        start = self.position - self._start
        if start + count > len(self._window):
            if self.position + count > self._limit:
                raise ValueError("the header is longer than the file, or than is allowed")
            self._start, start = self.position, 0
            self._window = self._read(self.position, max(count, _WINDOW))
            if len(self._window) < count:
                raise ValueError("the header is longer than the file")
        self.position += count
        return self._window[start : start + count]

    def skip(self, count: int) -> None:
        """Go on behind so many bytes."""
        if self.position + count > self._limit:
            raise ValueError("the header is longer than the file, or than is allowed")
        self.position += count
        if self.position > self._start + len(self._window):
            self._start, self._window = self.position, b""

    def number(self, size: int) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def text(self, most: int) -> bytes:
        """A text with its length in front."""
        length = self.number(8)
        if length > most:
            raise ValueError(f"a text of {length} bytes, where {most} are allowed")
        return self.take(length)


def _skip_value(cursor: _Cursor, kind: int, left: list[int], level: int = 0) -> None:
    """Go behind a value; `left` has how many elements may still be looked at."""
    if kind == _STRING:
        cursor.skip(cursor.number(8))
    elif kind in _SIZES:
        cursor.skip(_SIZES[kind])
    elif kind == _ARRAY and level < _MAX_NESTING:
        inner, count = cursor.number(4), cursor.number(8)
        if inner in _SIZES:
            cursor.skip(_SIZES[inner] * count)
            return
        left[0] -= count
        if left[0] < 0:
            raise ValueError("its arrays have too many elements")
        for _ in range(count):
            _skip_value(cursor, inner, left, level + 1)
    else:
        raise ValueError("a value is of an unknown type, or nested too deeply")


def parse_gguf(read: Read, size: int, max_tensors: int = _MAX_TENSORS) -> GgufLayout:
    """Read the header of a file of `size` bytes.

    Raises:
        ValueError: and nothing else, but for what `read` raises: it is not well-formed.
    """
    cursor = _Cursor(read, min(size, PREFIX_BYTES + MAX_PAIR_BYTES))
    if cursor.take(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = cursor.number(4)
    count, pairs = cursor.number(8), cursor.number(8)
    if version not in VERSIONS:
        raise ValueError(f"version {version} of GGUF is not known, or it is big endian")
    if count > max_tensors or pairs > MAX_PAIRS:
        raise ValueError(f"{count} tensors and {pairs} pairs are too many")
    alignment = 32
    left = [MAX_ARRAY_ELEMENTS]
    for _ in range(pairs):
        key, kind = cursor.text(MAX_NAME_BYTES), cursor.number(4)
        if key == _ALIGNMENT:
            if kind != _UINT32:
                raise ValueError("general.alignment is not a UINT32")
            alignment = cursor.number(4)
        else:
            _skip_value(cursor, kind, left)
    pairs_end = cursor.position
    if not alignment or alignment > MAX_ALIGNMENT:
        raise ValueError("general.alignment is out of range")
    shapes, offsets = [], []
    cursor = _Cursor(read, size)
    cursor.skip(pairs_end)
    for _ in range(count):
        name = cursor.text(MAX_NAME_BYTES).decode()
        dimensions = cursor.number(4)
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(cursor.number(8) for _ in range(dimensions))[::-1]
        dtype = NAME_OF.get(cursor.number(4))
        if dtype is None:
            raise ValueError(f"tensor {name[:80]!r} has an unknown type")
        shapes.append((name, dtype, shape))
        offsets.append(cursor.number(8))
    layout = gguf_layout(version, pairs, pairs_end, alignment, size, shapes)
    start = layout.data_start
    for tensor, offset in zip(layout.tensors, offsets, strict=True):
        if tensor.offset != start + offset:
            raise ValueError(f"tensor {tensor.name[:80]!r} leaves a gap or overlaps another")
    return layout


def extents(layout: GgufLayout) -> list[int]:
    """Bytes of each tensor with what fills it up."""
    ends = [*(tensor.offset for tensor in layout.tensors[1:]), layout.size]
    return [end - tensor.offset for tensor, end in zip(layout.tensors, ends, strict=False)]


def build_gguf_header(layout: GgufLayout, tensors: Sequence[Tensor]) -> tuple[bytes, bytes]:
    """What comes before and behind the pairs in a file with only `tensors`, in this order."""
    prefix = MAGIC + struct.pack("<IQQ", layout.version, len(tensors), layout.pairs)
    infos = bytearray()
    offset = 0
    for tensor in tensors:
        name = tensor.name.encode()
        infos += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.shape))
        infos += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape[::-1])
        infos += struct.pack("<IQ", GGML_TYPES[tensor.dtype].code, offset)
        offset = _aligned(offset + tensor.length, layout.alignment)
    end = layout.pairs_end + len(infos)
    return prefix, bytes(infos) + bytes(_aligned(end, layout.alignment) - end)
