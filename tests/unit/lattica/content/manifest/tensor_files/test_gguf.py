"""GGUF files: their tensors are told, cut and selected; hostile headers are refused."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content import FetchOptions, Publisher, fetch, stream_tensors
from lattica.content.manifest.chunking import cut_file
from lattica.content.manifest.codec import decode_manifest, encode_manifest
from lattica.content.manifest.manifest import ChunkTable, FileEntry, Manifest
from lattica.content.manifest.tensor_files.gguf_header import (
    MAX_PAIRS,
    GgufLayout,
    build_gguf_header,
    parse_gguf,
)
from lattica.content.publish.catalog import make_publication
from lattica.errors import ContentError, RemoteProtocolError
from tests.support.doubles.memory_host import memory_net

QUICK = FetchOptions(first_delay=0.01)
KIB = 1024


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def words(*parts: bytes) -> bytes:
    """An array of texts."""
    return struct.pack("<IQ", 8, len(parts)) + b"".join(map(text, parts))


PAIRS = [
    pair(b"general.architecture", 8, text(b"llama")),
    pair(b"n", 10, bytes(8)),
    pair(b"tokens", 9, words(b"a", b"", b"ccc")),
    pair(b"scores", 9, struct.pack("<IQ3f", 6, 3, 1, 2, 3)),
    pair(b"nested", 9, struct.pack("<IQ", 9, 1) + words(b"x")),
]
TENSORS = [
    # Name, dimensions in the file's order, number of the type, bytes.
    (b"token_embd.weight", (256, 10), 12, 1440),
    (b"blk.0.norm", (5,), 0, 20),
    (b"blk.0.q", (64, 700), 1, 89600),
    (b"blk.1.q", (64, 700), 1, 89600),
]


def make(pairs=PAIRS, tensors=TENSORS, alignment=32, version=3, offsets=None, tail=b"") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    data = b""
    for number, (name, dims, kind, size) in enumerate(tensors):
        offset = len(data) if offsets is None else offsets[number]
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        head += struct.pack("<IQ", kind, offset)
        data += random.Random(number).randbytes(size)
        data += bytes(-len(data) % alignment)
    return head + bytes(-len(head) % alignment) + data + tail


def parse(data: bytes) -> GgufLayout:
    return parse_gguf(lambda at, count: data[at : at + count], len(data))


def test_tensors_by_name_type_and_shape():
    data = make()
    layout = parse(data)
    assert [(t.name, t.dtype, t.shape, t.length) for t in layout.tensors] == [
        ("token_embd.weight", "Q4_K", (10, 256), 1440),
        ("blk.0.norm", "F32", (5,), 20),
        ("blk.0.q", "F16", (700, 64), 89600),
        ("blk.1.q", "F16", (700, 64), 89600),
    ]
    for number, tensor in enumerate(layout.tensors):
        content = data[tensor.offset : tensor.offset + tensor.length]
        assert content == random.Random(number).randbytes(tensor.length)
        assert tensor.offset % 32 == 0


def test_as_the_reference_writes_it(tmp_path):
    gguf = pytest.importorskip("gguf")
    np = pytest.importorskip("numpy")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(64)
    writer.add_token_list([b"a", b"bb"])
    rows = np.arange(96 * 7, dtype=np.float32).reshape(7, 96)
    writer.add_tensor("plain", rows)
    quantized = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("quantized", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    layout = cut_file(tmp_path / "m.gguf").layout
    assert isinstance(layout, GgufLayout)
    known = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    assert [(t.name, t.dtype, t.shape[::-1], t.offset, t.length) for t in layout.tensors] == [
        (t.name, t.tensor_type.name, tuple(map(int, t.shape)), int(t.data_offset), int(t.n_bytes))
        for t in known
    ]


ARRAYS = pair(b"a", 9, struct.pack("<IQ", 9, 1) * 5 + words())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"GGML" + make()[4:],
        make(version=1),
        make(version=4),
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        make(tail=b"x"),
        make()[:-100],
        make()[:300],
        make(offsets=[0, 1440, 1504, 91104 + 32]),  # a gap
        make(offsets=[0, 1440, 0, 91104]),  # one in another
        make(offsets=[0, 1440, 1504, 1 << 63]),
        make(tensors=[TENSORS[0], TENSORS[0]]),  # the same name
        make(tensors=[(b"\xff", (4,), 0, 16)]),
        make(tensors=[(b"a", (4,), 4, 16)]),  # a type that was removed
        make(tensors=[(b"a", (4,), 99, 16)]),
        make(tensors=[(b"a", (250,), 12, 144)]),  # half a block
        make(tensors=[(b"a", (1,) * 5, 0, 4)]),
        make(tensors=[(b"a", (1 << 63, 2), 0, 4)]),
        make(tensors=[(b"a", (1 << 33, 1 << 33), 0, 4)]),
        make(pairs=[pair(b"general.alignment", 4, struct.pack("<I", 0))]),
        make(pairs=[pair(b"general.alignment", 4, struct.pack("<I", 24))]),
        make(pairs=[pair(b"general.alignment", 4, struct.pack("<I", 1 << 31))]),
        make(pairs=[pair(b"general.alignment", 10, bytes(8))]),
        make(pairs=[pair(b"a", 13, bytes(8))]),
        make(pairs=[pair(b"a", 8, struct.pack("<Q", 1 << 63))]),
        make(pairs=[pair(b"a", 9, struct.pack("<IQ", 0, 1 << 63))]),
        make(pairs=[pair(b"a", 9, struct.pack("<IQ", 8, 1 << 40))]),
        make(pairs=[pair(b"a", 9, struct.pack("<IQ", 99, 1))]),
        make(pairs=[ARRAYS]),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0) + bytes(100),
        b"GGUF" + struct.pack("<IQQ", 3, 0, MAX_PAIRS + 1) + bytes(100),
    ],
)
def test_headers_that_are_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011 - which one is not the point
        parse(data)


def test_arrays_with_more_texts_than_any_vocabulary_are_not_looked_at():
    most = 1 << 21
    one, many = pair(b"a", 9, words(b"")), pair(b"b", 9, struct.pack("<IQ", 8, most))
    with pytest.raises(ValueError, match="too many elements"):
        parse(make(pairs=[one, many]))
    some = 400_000
    tokens = pair(b"a", 9, struct.pack("<IQ", 8, some) + bytes(8 * some))
    assert parse(make(pairs=[tokens, one])).pairs == 2


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_headers_are_value_errors(data):
    made = bytearray(make()[:600] + bytes(100))
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        parse(bytes(made))


def publish_tree(path: Path) -> bytes:
    path.mkdir()
    data = make()
    (path / "m.gguf").write_bytes(data)
    (path / "readme").write_bytes(b"x")
    return data


async def test_a_tensor_is_cut_from_its_beginning(tmp_path):
    publish_tree(tmp_path / "in")
    publication = await make_publication(tmp_path / "in")
    entry = publication.manifest.files[0]
    layout = entry.layout
    assert layout is not None
    starts = {chunk.offset for chunk in entry.chunks}
    assert {t.offset for t in layout.tensors if t.length >= 64 * KIB} < starts
    assert decode_manifest(publication.encoded) == publication.manifest
    assert encode_manifest(publication.manifest) == publication.encoded


async def test_some_tensors_make_a_file_with_only_these(tmp_path):
    data = publish_tree(tmp_path / "in")
    layout = parse(data)
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(tmp_path / "in")
        out = tmp_path / "out"
        result = await fetch(net.host(), ticket, out, tensors="blk.0.*", options=QUICK)
        assert result.paths == (out / "m.gguf",)
        assert result.bytes_fetched < len(data) - 89600 + 2000
        made = (out / "m.gguf").read_bytes()
        # Exactly what a writer of only these tensors writes, pairs included.
        some = make(tensors=TENSORS[1:3])
        chosen = parse(made)
        assert made[: chosen.data_start] == some[: chosen.data_start]
        for one in chosen.tensors:
            [was] = [t for t in layout.tensors if t.name == one.name]
            assert made[one.offset :][: one.length] == data[was.offset :][: was.length]
        with pytest.raises(ContentError, match="none of the 4 tensors"):
            await fetch(net.host(), ticket, out, tensors="nothing", options=QUICK)
        got = {t.name: bytes(view) async for t, view in stream_tensors(net.host(), ticket)}
        assert got == {t.name: data[t.offset : t.offset + t.length] for t in layout.tensors}
        whole = await fetch(net.host(), ticket, tmp_path / "whole", options=QUICK)
        assert whole.paths[0].read_bytes() == data


async def test_damaged_file_is_sent_as_a_plain_one(tmp_path, caplog):
    (tmp_path / "x.gguf").write_bytes(make()[:-100])
    publication = await make_publication(tmp_path / "x.gguf")
    assert publication.manifest.files[0].layout is None
    assert "not a valid gguf file" in caplog.text
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(tmp_path / "x.gguf")
        with pytest.raises(ContentError, match=r"tensors of 'x\.gguf' are not known"):
            await fetch(net.host(), ticket, tmp_path / "out", tensors="*", options=QUICK)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"pairs": MAX_PAIRS + 1},
        {"pairs_end": 20},
        {"pairs_end": 1 << 40},
        {"alignment": 0},
        {"alignment": 3},
        {"tensors": ()},
    ],
)
def test_manifests_that_lie_about_it(change):
    data = make()
    layout = parse(data)
    fields = {name: getattr(layout, name) for name in layout.__slots__} | change
    table = ChunkTable.from_chunks([len(data)], bytes(32))
    manifest = Manifest("m", (FileEntry("m.gguf", False, table, GgufLayout(**fields)),))
    with pytest.raises(RemoteProtocolError, match="damaged manifest"):
        decode_manifest(encode_manifest(manifest))


def test_header_of_all_is_the_header():
    data = make()
    layout = parse(data)
    prefix, infix = build_gguf_header(layout, layout.tensors)
    assert prefix + data[24 : layout.pairs_end] + infix == data[: layout.data_start]
