"""Manifests, safetensors headers, and where files are cut."""

from __future__ import annotations

import json

import msgpack
import numpy as np
import pytest
import trio
from safetensors.numpy import load, save, save_file

from lattica.content.manifest import chunking
from lattica.content.manifest.chunking import cut_file, cut_plain, cut_tensors, hash_files
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest, encode_manifest
from lattica.content.manifest.manifest import ChunkTable, FileEntry, Manifest
from lattica.content.manifest.tensor_files.safetensors_header import (
    build_header,
    header_length,
    parse_header,
)
from lattica.errors import ContentError, RemoteProtocolError
from tests.support.leaves import raises_leaf

MIB = 1024 * 1024
DIGEST = bytes(range(32))


def entry(path="a", lengths=(5,), layout=None, executable=False):
    return FileEntry(
        path, executable, ChunkTable.from_chunks(lengths, DIGEST * len(lengths)), layout
    )


def header(fields) -> bytes:
    return json.dumps(fields).encode() if not isinstance(fields, bytes) else fields


def tensor(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


# --- safetensors ---


def test_parser_agrees_with_the_reference_writer():
    arrays: dict[str, np.ndarray] = {
        "norm.weight": np.ones((8,), np.float32),
        "layers.0.q": np.arange(12, dtype=np.int64).reshape(3, 4),
        "empty": np.zeros((0, 4), np.float16),
        "scalar": np.array(3.0),
    }
    data = save(arrays, {"format": "pt", "ü": "x"})
    length = header_length(data[:8], len(data))
    layout = parse_header(data[8 : 8 + length], len(data))
    assert dict(layout.metadata) == {"format": "pt", "ü": "x"}
    assert {t.name for t in layout.tensors} == set(arrays)
    for t in layout.tensors:
        assert data[t.offset : t.offset + t.length] == arrays[t.name].tobytes()
        assert t.shape == arrays[t.name].shape


def test_written_header_is_read_by_parser():
    data = save({"a": np.ones((3, 5), np.float32), "b": np.zeros(7, np.uint8)}, {"k": "v"})
    layout = parse_header(data[8 : 8 + header_length(data, len(data))], len(data))
    again = build_header(layout.metadata, layout.tensors)
    assert len(again) % 8 == 0
    size = len(again) + sum(t.length for t in layout.tensors)
    parsed = parse_header(again[8:], size)
    assert parsed.metadata == layout.metadata
    assert [(t.name, t.dtype, t.shape) for t in parsed.tensors] == [
        (t.name, t.dtype, t.shape) for t in layout.tensors
    ]


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"[]",
        b" {}",
        b"{",
        b"{\xff}",
        b'{"a":1}',
        b"{}x",
        {"a": tensor(dtype="F33")},
        {"a": tensor(shape=(3,))},
        {"a": tensor(shape=(-2,))},
        {"a": tensor(shape=(2.0,))},
        {"a": tensor(shape=(True, 2))},
        {"a": tensor(begin=8, end=16)},
        {"a": tensor(begin=-8, end=0)},
        {"a": tensor(end=True)},
        {"a": {**tensor(), "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {**tensor(), "shape": 2}},
        {"a": tensor(), "b": tensor()},
        {"a": tensor(), "b": tensor(begin=16, end=24)},
        {"a": tensor(shape=(1 << 62, 1 << 62))},
        {"a": tensor(shape=[1] * 33)},
        {"a": tensor(dtype="F4", shape=(1,), end=1)},
        {"__metadata__": {"a": 1}},
        {"__metadata__": []},
        {"__metadata__": {"a": "\ud800"}, "a": tensor()},
        {"\ud800": tensor()},
        b'{"a":NaN}',
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_bad_headers_are_value_errors(fields):
    data = header(fields)
    with pytest.raises(ValueError):  # noqa: PT011 - which one is not the point
        parse_header(data, 8 + len(data) + 8)


FORMS = {
    "leading blanks": b' \t\r\n{"a":%s}',
    "trailing blanks": b'{"a":%s} \n',
    "null metadata": b'{"__metadata__":null,"a":%s}',
    "repeated name": b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":%s}',
    "repeated metadata": b'{"__metadata__":{"k":"1","k":"2"},"a":%s}',
    "long metadata": b'{"__metadata__":{"k":"' + b"v" * (17 << 20) + b'"},"a":%s}',
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_the_library_takes_is_taken(form):
    entry = b'{"dtype":"F32","x":[1],"shape":[2],"data_offsets":[0,8],"x":null}'
    data = form.replace(b"%s", entry)
    file = len(data).to_bytes(8, "little") + data + np.array([1, 2], np.float32).tobytes()
    assert list(load(file)) == ["a"]
    assert header_length(file, len(file)) == len(data)
    layout = parse_header(data, len(file))
    (found,) = layout.tensors
    assert (found.name, found.dtype, found.shape) == ("a", "F32", (2,))
    assert found.offset == len(file) - 8
    prefix = build_header(layout.metadata, layout.tensors)
    assert list(load(prefix + file[-8:])) == ["a"]


def test_header_length_is_bounded():
    for prefix, size in ((b"", 0), (b"1234567", 7), ((100).to_bytes(8, "little"), 107)):
        with pytest.raises(ValueError, match=r"header|length"):
            header_length(prefix, size)
    with pytest.raises(ValueError, match="longer than"):
        header_length((1 << 40).to_bytes(8, "little"), 1 << 50)


# --- cutting ---


def test_plain_files_are_cut_every_mebibyte():
    assert cut_plain(0) == []
    assert cut_plain(1) == [1]
    assert cut_plain(2 * MIB + 3) == [MIB, MIB, 3]


def layout_of(**sizes):
    data = save({name: np.zeros(size, np.uint8) for name, size in sizes.items()})
    return parse_header(data[8 : 8 + header_length(data, len(data))], len(data))


def test_tensors_begin_chunks_and_small_ones_share():
    layout = layout_of(a=100, b=200, c=3 * MIB + 7, d=64 * 1024, e=50, f=0)
    lengths = cut_tensors(layout)
    # The reference writer orders tensors of one type by name.
    assert lengths == [layout.data_start, 300, MIB, MIB, MIB, 7, 64 * 1024, 50]


def test_shared_chunks_are_bounded():
    names = {f"t{i:03}": 60 * 1024 for i in range(10)}
    lengths = cut_tensors(layout_of(**names))[1:]
    assert lengths == [240 * 1024, 240 * 1024, 120 * 1024]


async def test_unchanged_tensor_keeps_its_chunks(tmp_path):
    rng = np.random.default_rng(1)
    kept = rng.integers(0, 255, 2 * MIB + 12345, np.uint8)
    other = rng.integers(0, 255, 777_777, np.uint8)
    save_file({"a": other, "kept": kept}, tmp_path / "1.safetensors")
    save_file({"a": other[:100_001], "b": other, "kept": kept}, tmp_path / "2.safetensors")
    files = [cut_file(tmp_path / name) for name in ("1.safetensors", "2.safetensors")]
    tables = await hash_files(files)
    digests = [{chunk.digest for chunk in table} for table in tables]
    assert len(digests[0] & digests[1]) == 4  # three of `kept`, one of `other`


def test_damaged_safetensors_file_is_cut_as_a_plain_one(tmp_path, caplog):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 40_000)
    cut = cut_file(path)
    assert cut.layout is None
    assert cut.ends is None
    assert "not a valid safetensors file" in caplog.text


async def test_hashes_are_those_of_the_chunks(tmp_path):
    data = np.random.default_rng(2).bytes(40 * MIB + 5)
    (tmp_path / "big").write_bytes(data)
    (tmp_path / "none").write_bytes(b"")
    seen: list[int] = []
    big, none = await hash_files([cut_file(tmp_path / n) for n in ("big", "none")], seen.append)
    for chunk in big:
        assert chunk.digest == Cid.of(data[chunk.offset : chunk.offset + chunk.length]).digest
    assert (big.size, len(none)) == (len(data), 0)
    assert sum(seen) == len(data)


async def test_file_that_grows_or_shrinks_while_hashed_is_an_error(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    cut = cut_file(path)
    for content in (b"x" * 101, b"x" * 50):
        path.write_bytes(content)
        with raises_leaf(ContentError, match="being written to"):
            await hash_files([cut])


async def test_hashing_can_be_cancelled(tmp_path):
    (tmp_path / "f").write_bytes(bytes(64 * MIB))
    with trio.CancelScope() as scope:
        await hash_files([cut_file(tmp_path / "f")], lambda _: scope.cancel())
    assert scope.cancelled_caught


# --- manifests ---


def test_manifest_round_trip():
    layout = layout_of(a=100, b=3 * MIB)
    lengths = cut_tensors(layout)
    manifest = Manifest(
        "model",
        (
            entry("config.json"),
            entry("empty", ()),
            entry("model.safetensors", lengths, layout),
            entry("run.sh", (MIB, 1), executable=True),
        ),
    )
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    assert manifest.chunk_count == 1 + len(lengths) + 2
    assert manifest.size == 5 + sum(lengths) + MIB + 1
    for number in range(manifest.chunk_count):
        index, local = manifest.locate(number)
        assert manifest.first_chunk(index) + local == number
        assert manifest.chunk(number) == manifest.files[index].chunks[local]


def test_chunk_at_offset():
    table = ChunkTable.from_chunks([5, 3], DIGEST * 2)
    assert [table.index_at(offset) for offset in (0, 4, 5, 7)] == [0, 0, 1, 1]
    assert [(c.offset, c.length) for c in table] == [(0, 5), (5, 3)]


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (Manifest("m", (entry("a\n"),)), "control"),
        (Manifest("m", (entry("a"), entry("A"))), "collide"),
        (Manifest("../m", (entry("a"),)), "contains '/'"),
        (Manifest("m", (entry("b\\c"),)), "contains"),
    ],
)
def test_what_cannot_be_published_says_why(manifest, says):
    with pytest.raises(ContentError, match=says):
        encode_manifest(manifest)


GOOD_FILE = ["a", 0o644, [0, (5).to_bytes(4, "big"), DIGEST], []]
LAYOUT = [8, [["k", "v"]], [["t", "F32", [2]]]]
TENSOR_FILE = ["a", 0o755, [0, (16).to_bytes(4, "big"), DIGEST], LAYOUT]


def changed(base, index, value):
    return [*base[:index], value, *base[index + 1 :]]


def in_layout(index, value):
    return changed(TENSOR_FILE, 3, changed(LAYOUT, index, value))


def in_chunks(index, value):
    return changed(GOOD_FILE, 2, changed(GOOD_FILE[2], index, value))


def test_hand_made_manifests_are_good():
    for file in (GOOD_FILE, TENSOR_FILE):
        decode_manifest(msgpack.packb([2, "m", [file]]))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [1, "m", []],
        [3, "m", []],
        [True, "m", []],
        [2, "m", [], 0],
        [2, b"m", []],
        [2, "", []],
        [2, "a/b", []],
        [2, "m", {}],
        [2, "m", [GOOD_FILE, GOOD_FILE]],
        *(
            [2, "m", [file]]
            for file in (
                [],
                GOOD_FILE[:3],
                changed(GOOD_FILE, 0, "../a"),
                changed(GOOD_FILE, 0, "/a"),
                changed(GOOD_FILE, 0, b"a"),
                changed(GOOD_FILE, 1, False),
                changed(GOOD_FILE, 1, 0o1644),
                changed(GOOD_FILE, 1, -1),
                in_chunks(1, b"\0\0\0"),
                in_chunks(1, bytes(4)),
                in_chunks(1, bytes(8)),
                in_chunks(1, (2 * MIB + 1).to_bytes(4, "big")),
                in_chunks(2, DIGEST + b"\0"),
                in_chunks(2, b""),
                changed(GOOD_FILE, 3, None),
                changed(GOOD_FILE, 3, [1]),
                in_layout(0, 9),
                in_layout(0, -1),
                in_layout(0, 1 << 63),
                in_layout(1, [["k"]]),
                in_layout(1, [["k", "v"], ["k", "w"]]),
                in_layout(1, [["k", 1]]),
                in_layout(2, []),
                in_layout(2, [["t", "F99", [2]]]),
                in_layout(2, [["t", "F32", [1 << 63]]]),
                in_layout(2, [["t", "F32", [1 << 62, 1 << 62]]]),
                in_layout(2, [["t", "F32", [1]], ["t", "F32", [1]]]),
                in_layout(2, [["t", "F32", [2.0]]]),
                in_layout(2, [["__metadata__", "F32", [2]]]),
            )
        ),
    ],
)
def test_bad_manifests_are_remote_protocol_errors(value):
    with pytest.raises(RemoteProtocolError, match="damaged manifest"):
        decode_manifest(msgpack.packb(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93",
        b"\xdd\xff\xff\xff\xff",
        b"\x93\x02\xa1m\xdd\xff\xff\xff\xff",
        b"\x93\x02\xdb\xff\xff\xff\xff",
        b"\x93\x02\xa2\xff\xff\x90",  # not UTF-8
        b"\x93\xcc\x02\xa1m\x90",  # 2 in two bytes
        b"\xdc\x00\x03\x02\xa1m\x90",  # array header longer than necessary
        msgpack.packb([2, "m", []]) + b"\0",
        b"\x91" * 5000,
    ],
)
def test_bad_encodings_are_remote_protocol_errors(data):
    with pytest.raises(RemoteProtocolError, match="damaged manifest"):
        decode_manifest(data)


def test_too_many_entries_are_refused_before_they_are_read(monkeypatch):
    from lattica.content.manifest import codec as manifest_codec

    monkeypatch.setattr(manifest_codec, "MAX_TENSORS", 2)
    monkeypatch.setattr(manifest_codec, "MAX_FILES", 1)
    three = [["a", "F32", [0]], ["b", "F32", [0]], ["c", "F32", [2]]]
    for files in ([GOOD_FILE, changed(GOOD_FILE, 0, "b")], [in_layout(2, three)]):
        with pytest.raises(RemoteProtocolError, match="elements"):
            decode_manifest(msgpack.packb([2, "m", files]))


def test_threads_exist_even_on_one_core():
    assert chunking.HASH_THREADS >= 2


def test_lengths_of_a_table():
    table = ChunkTable.from_chunks([3, 1, 2], bytes(96))
    assert table.lengths() == [chunk.length for chunk in table] == [3, 1, 2]
    assert (table.lengths(1), table.lengths(1, 2), table.lengths(3)) == ([1, 2], [1], [])
    assert ChunkTable.from_chunks([], b"").lengths() == []
