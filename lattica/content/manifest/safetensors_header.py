"""The header of a `.safetensors` file: a bounded parser that takes what the library takes.

A file is 8 bytes of header length (little endian), the header (JSON: tensor name to `dtype`,
`shape`, `data_offsets`, and optionally `__metadata__`), and the tensors' bytes without gaps.
Source: https://github.com/huggingface/safetensors#format. Pure functions on bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_HEADER_BYTES = 100_000_000
"""Longest header, by the format."""
MAX_DIMENSIONS = 32
MAX_NAME_BYTES = 1024
LENGTH_BYTES = 8

_BLANKS = b" \t\r\n"
_METADATA = "__metadata__"
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_LARGEST = (1 << 63) - 1

DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
"""Bits of one element by dtype name."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its shape in elements, and where its bytes lie in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""

    @property
    def length(self) -> int:
        """Size in bytes."""
        return tensor_bytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """How a safetensors file is divided: the tensors in the order of their bytes."""

    data_start: int
    """Bytes before the first tensor: the length field and the header."""
    metadata: tuple[tuple[str, str], ...]
    """`__metadata__`, in the header's order."""
    tensors: tuple[Tensor, ...]


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor.

    Raises:
        ValueError: for a type or shape that cannot be.
    """
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise ValueError(f"unknown dtype {dtype[:40]!r}")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} dimensions")
    for dimension in shape:
        if type(dimension) is not int or not 0 <= dimension <= _LARGEST:
            raise ValueError("a dimension is not a whole number from 0 to 2**63-1")
        bits *= dimension
        if bits > _LARGEST * 8:
            # A later dimension of zero would make it small again, but no real file has that.
            raise ValueError("a tensor's size does not fit in 63 bits")
    if bits % 8:
        raise ValueError("a tensor's size is not a whole number of bytes")
    return bits // 8


def layout_from_shapes(
    data_start: int,
    size: int,
    metadata: Iterable[tuple[str, str]],
    shapes: Iterable[tuple[str, str, tuple[int, ...]]],
) -> TensorLayout:
    """Lay tensors of (name, dtype, shape) out from `data_start` to `size`, without gaps.

    Raises:
        ValueError: they do not fill the file exactly or a name is repeated.
    """
    offset = data_start
    tensors = []
    names = set()
    for name, dtype, shape in shapes:
        if name == _METADATA or name in names or len(name.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"the tensor name {name[:80]!r} is repeated, reserved or too long")
        names.add(name)
        tensors.append(Tensor(name, dtype, shape, offset))
        offset += tensor_bytes(dtype, shape)
    if offset != size:
        raise ValueError("the tensors do not fill the file exactly")
    pairs = tuple(metadata)
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a metadata key is repeated")
    for key, value in pairs:
        (key + value).encode()  # JSON can spell halves of characters, which no encoding takes
    return TensorLayout(data_start, pairs, tuple(tensors))


def header_length(prefix: bytes, file_size: int) -> int:
    """Length of the header of a file from its first 8 bytes; raises :class:`ValueError`."""
    if len(prefix) < LENGTH_BYTES:
        raise ValueError("shorter than its length field")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > file_size - LENGTH_BYTES:
        raise ValueError("the header is longer than the file")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"the header is longer than {MAX_HEADER_BYTES} bytes")
    return length


def _no_repeated_field(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of a name that is repeated the last counts, but for what makes an entry."""
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs if key in _FIELDS]
        if len(set(keys)) != len(keys):
            raise ValueError("a field of a tensor is repeated")
    return result


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _entry(name: str, value: object) -> tuple[int, int, str, str, tuple[int, ...]]:
    """(begin, end, name, dtype, shape) of one header entry."""
    # More fields than these are ignored, as the reference implementation does.
    if not isinstance(value, dict) or not value.keys() >= _FIELDS:
        raise ValueError(f"tensor {name[:80]!r} must have dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError(f"tensor {name[:80]!r} has a field of the wrong type")
    length = tensor_bytes(dtype, shape)
    if len(offsets) != 2 or any(type(o) is not int or not 0 <= o <= _LARGEST for o in offsets):
        raise ValueError(f"tensor {name[:80]!r} has bad data_offsets")
    if offsets[1] - offsets[0] != length:
        raise ValueError(f"tensor {name[:80]!r}: its offsets do not match its shape")
    return offsets[0], offsets[1], name, dtype, tuple(shape)


def parse_header(header: bytes, file_size: int) -> TensorLayout:
    """Parse a header (without its length field) of a file of `file_size` bytes.

    Raises:
        ValueError: and nothing else: for whatever the format does not allow.
    """
    # Blanks before it are none of the format's, but the reference implementation takes them.
    if not header.lstrip(_BLANKS).startswith(b"{") or len(header) > MAX_HEADER_BYTES:
        raise ValueError("the header is not a JSON object of permitted size")
    try:
        fields = json.loads(
            header.decode(), object_pairs_hook=_no_repeated_field, parse_constant=_no_constant
        )
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None
    metadata = fields.pop(_METADATA, None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ must map strings to strings")
    # Empty tensors share their begin with the next one: the end decides.
    entries = sorted(_entry(name, value) for name, value in fields.items())
    position = 0
    for begin, end, name, _, _ in entries:
        if begin != position:
            raise ValueError(f"tensor {name[:80]!r} leaves a gap or overlaps another")
        position = end
    return layout_from_shapes(
        LENGTH_BYTES + len(header),
        file_size,
        metadata.items(),
        ((name, dtype, shape) for _, _, name, dtype, shape in entries),
    )


def build_header(metadata: Iterable[tuple[str, str]], tensors: Iterable[Tensor]) -> bytes:
    """The first bytes (length field and header) of a file with `tensors` in this order.

    The header is padded with spaces so that the data starts at a multiple of 8, as the
    reference implementation does. The tensors' own offsets are not used.
    """
    fields: dict[str, object] = {}
    pairs = dict(metadata)
    if pairs:
        fields[_METADATA] = pairs
    position = 0
    for tensor in tensors:
        end = position + tensor.length
        fields[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    header = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(LENGTH_BYTES, "little") + header
