"""The header of a `.safetensors` file: a bounded parser that takes what the library takes.

A file is 8 bytes of header length (little endian), the header (JSON: tensor name to `dtype`,
`shape`, `data_offsets`, and optionally `__metadata__`), and the tensors' bytes without gaps.
Source: https://github.com/huggingface/safetensors#format. Pure, but for the function that reads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from lattica.content.manifest.tensor_files.ggml_types import block_bytes

MAX_HEADER_BYTES = 100_000_000
"""Longest header, by the format."""
MAX_DIMENSIONS = 64
"""As many as numpy and torch have."""
MAX_DIMENSION = (1 << 64) - 1
"""The library's numbers have 64 bits; beside a zero even such a dimension takes no bytes."""
MAX_NAME_BYTES = 64 * 1024
LENGTH_BYTES = 8

Read: TypeAlias = Callable[[int, int], bytes]
"""So many bytes at an offset of a file; fewer where it ends."""

_BLANKS = b" \t\r\n"
_METADATA = "__metadata__"
_FIELDS = ("dtype", "shape", "data_offsets")
_MAX_NESTING = 127
"""Arrays and objects in each other that the library's JSON parser (serde_json) takes."""
_INTEGER_DIGITS = 20
"""Of the numbers with 64 bits; to serde_json longer ones are floating point numbers."""
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD]([89a-fA-F])|.)", re.DOTALL
)
"""One character spelled by its code in a JSON string; with a group: half of one."""

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
        if self.dtype in DTYPE_BITS:
            return tensor_bytes(self.dtype, self.shape)
        return block_bytes(self.dtype, self.shape)


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
    elements = 1
    for dimension in shape:
        if type(dimension) is not int or not 0 <= dimension <= MAX_DIMENSION:
            raise ValueError("a dimension is not a whole number from 0 to 2**64-1")
        elements *= dimension
        # A later dimension of zero would make it small again, but the library takes no such.
        if elements > MAX_DIMENSION:
            raise ValueError("the number of a tensor's elements does not fit in 64 bits")
    bits *= elements
    if bits > MAX_DIMENSION:
        raise ValueError("the number of a tensor's bits does not fit in 64 bits")
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


# An object is a tuple of its (name, value) pairs here, which no other JSON value is: what a name
# that is repeated means depends on the object, which the decoder does not say.
_Object = tuple[tuple[str, object], ...]


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _integer(text: str) -> int | float:
    return _float(text) if len(text) > _INTEGER_DIGITS or text == "-0" else int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _check_nesting(value: object, level: int) -> None:
    """`level` arrays and objects are round `value`."""
    waiting = [(value, level)]
    while waiting:
        value, level = waiting.pop()
        if isinstance(value, list | tuple):
            if level == _MAX_NESTING:
                raise ValueError("the header is nested too deeply")
            values = value if isinstance(value, list) else [inner for _, inner in value]
            waiting += [(inner, level + 1) for inner in values]


def _metadata(value: object) -> dict[str, str]:
    pairs = () if value is None else value
    if isinstance(pairs, tuple) and all(isinstance(text, str) for _, text in pairs):
        return dict(pairs)  # the last of a name counts
    raise ValueError("__metadata__ must map strings to strings")


def _tensor_fields(name: str, value: object) -> tuple[object, ...]:
    """dtype, shape and offsets of one header entry; they are not checked."""
    if isinstance(value, list):  # as serde takes any structure
        if len(value) != len(_FIELDS):
            raise ValueError(f"tensor {name[:80]!r} must have dtype, shape and data_offsets")
        return tuple(value)
    found = {}
    for key, field in value if isinstance(value, tuple) else ():
        if key not in _FIELDS:  # ignored, as the reference implementation does
            _check_nesting(field, 2)
        elif key in found:
            raise ValueError(f"tensor {name[:80]!r} repeats {key}")
        else:
            found[key] = field
    if len(found) != len(_FIELDS):
        raise ValueError(f"tensor {name[:80]!r} must have dtype, shape and data_offsets")
    return tuple(found[key] for key in _FIELDS)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_DIMENSION


def _entry(name: str, value: object) -> tuple[int, int, str, str, tuple[int, ...]]:
    """(begin, end, name, dtype, shape) of one header entry, each of the right type."""
    dtype, shape, offsets = _tensor_fields(name, value)
    if isinstance(dtype, tuple) and len(dtype) == 1 and dtype[0][1] is None:
        dtype = dtype[0][0]  # serde's other way to write one of several names
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"tensor {name[:80]!r} has an unknown dtype")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise ValueError(f"tensor {name[:80]!r} has a bad shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(f"tensor {name[:80]!r} has bad data_offsets")
    return offsets[0], offsets[1], name, dtype, tuple(shape)


def _decode(header: bytes) -> _Object:
    """The JSON object, by the rules of the library's parser."""
    # Blanks before it are none of the format's, but the reference implementation takes them.
    if not header.lstrip(_BLANKS).startswith(b"{") or len(header) > MAX_HEADER_BYTES:
        raise ValueError("the header is not a JSON object of permitted size")
    text = header.decode()
    if any(match[1] for match in _ESCAPE.finditer(text)):
        raise ValueError("a text has half of a character, which no encoding takes")
    try:
        fields: _Object = json.loads(
            text,
            object_pairs_hook=tuple,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None
    return fields


def parse_header(header: bytes, file_size: int) -> TensorLayout:
    """Parse a header (without its length field) of a file of `file_size` bytes.

    Raises:
        ValueError: and nothing else: for whatever the format does not allow.
    """
    fields = _decode(header)
    texts = [value for name, value in fields if name == _METADATA]
    if len(texts) > 1:
        raise ValueError("__metadata__ is repeated")
    metadata = _metadata(texts[0] if texts else None)
    # Of a name that is repeated the last counts, but all have to be right.
    last = {name: _entry(name, value) for name, value in fields if name != _METADATA}
    # Empty tensors share their begin with the next one: the end decides.
    entries = sorted(last.values())
    position = 0
    for begin, end, name, dtype, shape in entries:
        if begin != position:
            raise ValueError(f"tensor {name[:80]!r} leaves a gap or overlaps another")
        if end - begin != tensor_bytes(dtype, shape):
            raise ValueError(f"tensor {name[:80]!r}: its offsets do not match its shape")
        position = end
    return layout_from_shapes(
        LENGTH_BYTES + len(header),
        file_size,
        metadata.items(),
        ((name, dtype, shape) for _, _, name, dtype, shape in entries),
    )


def parse_safetensors(read: Read, size: int) -> TensorLayout:
    """Read the header of a file of `size` bytes.

    Raises:
        ValueError: and nothing else, but for what `read` raises: it is not well-formed.
    """
    length = header_length(read(0, LENGTH_BYTES), size)
    return parse_header(read(LENGTH_BYTES, length), size)


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
