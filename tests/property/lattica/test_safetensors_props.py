"""The parser of safetensors headers against the library: both take the same files alike."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from lattica.content.manifest.tensor_files.safetensors_header import (
    DTYPE_BITS,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    build_header,
    parse_header,
)

Tensors = list[tuple[str, str, tuple[int, ...]]]


def of_the_library(header: bytes, data: bytes) -> Tensors | None:
    """Sorted (name, dtype, shape), or None where it refuses."""
    try:
        found = deserialize(struct.pack("<Q", len(header)) + header + data)
    except SafetensorError:
        return None
    return sorted((name, info["dtype"], tuple(info["shape"])) for name, info in found)


def of_ours(header: bytes, data: bytes) -> Tensors | None:
    try:
        layout = parse_header(header, 8 + len(header) + len(data))
    except ValueError:
        return None
    # What was taken can be written again, so that single tensors of it can be fetched.
    again = build_header(layout.metadata, layout.tensors)
    parsed = parse_header(again[8:], len(again) + len(data))
    assert (parsed.metadata, parsed.tensors == ()) == (layout.metadata, layout.tensors == ())
    return sorted((tensor.name, tensor.dtype, tensor.shape) for tensor in layout.tensors)


def entry(dtype: str = '"F32"', shape: str = "[1]", offsets: str = "[0,4]") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def one(value: str) -> str:
    return f'{{"a":{value}}}'


def extra(fields: str) -> str:
    """A tensor with more fields than it has to have."""
    return one(f"{entry()[:-1]},{fields}}}")


def metadata(text: str) -> str:
    return f'{{"__metadata__":{text},"a":{entry()}}}'


def twice(name: str, first: str) -> str:
    return f'{{"{name}":{first},"{name}":{entry()}}}'


EMPTY = "[0,0]"
TAKEN = {
    "a long name": f'{{"{"n" * MAX_NAME_BYTES}":{entry()}}}',
    "an empty name": f'{{"":{entry()}}}',
    "many dimensions": one(entry(shape=str([1] * MAX_DIMENSIONS))),
    "a metadata key shape, twice": metadata('{"shape":"1","shape":"2"}'),
    "a metadata key dtype, twice": metadata('{"dtype":"1","dtype":"2"}'),
    "any metadata key, twice": metadata('{"x":"1","x":"2"}'),
    "a tensor called shape": f'{{"shape":{entry()}}}',
    "a tensor called shape, twice": twice("shape", entry()),
    "a tensor called data_offsets, twice": twice("data_offsets", entry()),
    "a tensor twice, the last counts": twice("a", entry(dtype='"I32"')),
    "a tensor twice, the first does not fit": twice("a", entry(shape="[7]")),
    "2**63 beside zero": one(entry(shape=f"[{1 << 63},0]", offsets=EMPTY)),
    "zero beside 2**64-1": one(entry(shape=f"[0,{(1 << 64) - 1}]", offsets=EMPTY)),
    "2**62 times 1 times 0": one(entry(shape=f"[{1 << 62},1,0]", offsets=EMPTY)),
    "fields within an extra field, twice": extra('"x":{"shape":1,"shape":2}'),
    "an extra field twice": extra('"x":1,"x":2'),
    "-0 in an extra field": extra('"x":-0'),
    "an extra number of 300 digits": extra('"x":' + "9" * 300),
    "a pair of halves": extra(r'"x":"\ud83d\ude00"'),
    "a backslash before ud800": extra(r'"x":"\\ud800"'),
    "125 arrays in an extra field": extra('"x":' + "[" * 125 + "]" * 125),
    "an entry as a list": one('["F32",[1],[0,4]]'),
    "a dtype as an object": one(entry(dtype='{"F32":null}')),
    "no metadata": metadata("null"),
    "blanks round it": f' \n\t{{ "a" : {entry()} }} \r\n',
}
REFUSED = {
    "__metadata__ twice": '{"__metadata__":{},' + metadata("{}")[1:],
    "shape twice": extra('"shape":[1]'),
    "a tensor twice, the first is none": twice("a", "5"),
    "a tensor twice, the first of an unknown dtype": twice("a", entry(dtype='"X"')),
    "-0": one(entry(shape="[-0]", offsets=EMPTY)),
    "-0 as an offset": one(entry(offsets="[-0,4]")),
    "1.0": one(entry(shape="[1.0]")),
    "1e999 in an extra field": extra('"x":1e999'),
    "-1e999 deep in an extra field": extra('"x":[{"y":[-1e999]}]'),
    "an extra number of 400 digits": extra('"x":' + "9" * 400),
    "half a character in an extra field": extra(r'"x":"\ud800"'),
    "the other half": extra(r'"x":[{"y":"\udc00"}]'),
    "half a character in an extra name": extra(r'"\ud800":1'),
    "halves in the wrong order": extra(r'"x":"\ude00\ud83d"'),
    "half a character after a backslash": extra(r'"x":"\\\ud800"'),
    "half a character in metadata": metadata(r'{"x":"\ud800"}'),
    "half a character that is replaced": metadata(r'{"x":"\ud800","x":"1"}'),
    "126 arrays in an extra field": extra('"x":' + "[" * 126 + "]" * 126),
    "2**64": one(entry(shape=f"[0,{1 << 64}]", offsets=EMPTY)),
    "elements beyond 64 bits": one(entry(shape=f"[{1 << 62},4,0]", offsets=EMPTY)),
    "NaN": extra('"x":NaN'),
    "metadata that is no text": metadata('{"x":1}'),
    "metadata that is no text and replaced": metadata('{"x":1,"x":"1"}'),
    "three offsets": one(entry(offsets="[0,4,4]")),
    "a list of two": one('["F32",[1]]'),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_the_library_takes(name):
    header, data = TAKEN[name].encode(), b"" if EMPTY in TAKEN[name] else b"0000"
    assert of_the_library(header, data) is not None
    assert of_ours(header, data) == of_the_library(header, data)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_library_refuses(name):
    header, data = REFUSED[name].encode(), b"" if EMPTY in REFUSED[name] else b"0000"
    assert of_the_library(header, data) is None
    assert of_ours(header, data) is None


# JSON text with names that repeat and mean something, and numbers and texts at the edges.
NAMES = st.sampled_from(["a", "b", "", "dtype", "shape", "data_offsets", "__metadata__", "x"])
NUMBERS = st.sampled_from(
    ["0", "1", "2", "4", "8", "-0", "-1", "1.0", "1e0", "1e999", "0e999", "1e-999"]
    + [str((1 << bits) + more) for bits in (62, 63, 64) for more in (-1, 0)]
)
TEXTS = st.sampled_from(["", "F32", "U8", "F4", "\\ud800", "\\ud83d\\ude00", "\\\\ud800", "é"]).map(
    lambda text: f'"{text}"'
)
DTYPES = st.sampled_from([*DTYPE_BITS, "F31"]).map(json.dumps)


def json_list(items: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[str]:
    return st.lists(items, max_size=most).map(lambda found: f"[{','.join(found)}]")


def json_object(values: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[str]:
    pair = st.tuples(NAMES, values).map(lambda pair: f'"{pair[0]}":{pair[1]}')
    return st.lists(pair, max_size=most).map(lambda found: "{" + ",".join(found) + "}")


ANY = st.recursive(
    NUMBERS | TEXTS | st.sampled_from(["null", "true", "NaN"]),
    lambda inner: json_list(inner) | json_object(inner),
    max_leaves=6,
)


@st.composite
def entries(draw: st.DrawFn) -> str:
    shape = draw(json_list(NUMBERS.filter(lambda text: len(text) < 3)) | json_list(NUMBERS))
    begin, length = draw(st.integers(0, 8)), draw(st.integers(0, 16))
    offsets = draw(st.just(f"[{begin},{begin + length}]") | json_list(NUMBERS))
    fields = [
        ("dtype", draw(DTYPES)),
        ("shape", shape),
        ("data_offsets", offsets),
        *draw(st.lists(st.tuples(NAMES, ANY), max_size=1)),
    ]
    chosen = draw(st.permutations(fields))
    return "{" + ",".join(f'"{name}":{value}' for name, value in chosen) + "}"


HEADERS = json_object(entries() | entries() | json_object(TEXTS) | ANY)


@given(HEADERS, st.integers(0, 24))
def test_any_header_is_taken_as_the_library_takes_it(text, size):
    header, data = text.encode(), bytes(size)
    assert of_ours(header, data) == of_the_library(header, data)
