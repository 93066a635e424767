"""Files that are no tensors: cut where their content says so, by many threads as by one."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import pytest

from lattica.content import FetchOptions, Publisher, fetch
from lattica.content.manifest import chunking, content_defined
from lattica.content.manifest.chunking import cut_file, hash_files
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.content_defined import MIN_BYTES, cut_content
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES
from lattica.content.manifest.tensor_files.safetensors_header import build_header
from tests.support.doubles.memory_host import memory_net

KIB = 1024
MIB = 1 << 20
DATA = random.Random(3).randbytes(12 * MIB + 7)
QUICK = FetchOptions(first_delay=0.01)


def cut(path: Path, data: bytes) -> list[bytes]:
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        ends = [one.end for one in cut_content(descriptor, 0, len(data))]
    finally:
        os.close(descriptor)
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def test_lengths(tmp_path):
    chunks = cut(tmp_path / "f", DATA)
    assert b"".join(chunks) == DATA
    assert all(MIN_BYTES <= len(chunk) <= MAX_CHUNK_BYTES for chunk in chunks[:-1])
    assert 8 <= len(chunks) <= 16


@pytest.mark.parametrize("size", [0, 1, MIN_BYTES, MIN_BYTES + 1])
def test_small_files(tmp_path, size):
    assert b"".join(cut(tmp_path / "f", DATA[:size])) == DATA[:size]


def test_where_it_cuts_is_part_of_every_content_id(tmp_path):
    """Another number here means that nobody finds what was published before."""
    assert [len(chunk) for chunk in cut(tmp_path / "f", random.Random(1).randbytes(4 * MIB))] == [
        1061888,
        1159276,
        1130377,
        842763,
    ]


@pytest.mark.parametrize("at", [0, 5 * MIB, len(DATA)])
@pytest.mark.parametrize("change", [b"x", b"", b"longer than that"])
def test_an_insertion_changes_a_chunk_or_two(tmp_path, at, change):
    before = cut(tmp_path / "f", DATA)
    after = cut(tmp_path / "g", DATA[:at] + change + DATA[at + (not change) :])
    assert len(set(after) - set(before)) <= 2


@pytest.mark.parametrize("segment", [300 * KIB, MIB, 5 * MIB])
@pytest.mark.parametrize(
    "data",
    [DATA, bytes(9 * MIB + 1), DATA[: 3 * MIB] + bytes(6 * MIB) + DATA, b"ab" * (4 * MIB)],
    ids=["random", "zeros", "zeros within", "never in step"],
)
async def test_many_threads_cut_as_one(tmp_path, monkeypatch, segment, data):
    monkeypatch.setattr(content_defined, "SEGMENT_BYTES", segment)
    monkeypatch.setattr(chunking, "SEGMENT_BYTES", segment)
    expected = cut(tmp_path / "f", data)
    [table] = await hash_files([cut_file(tmp_path / "f")])
    assert [chunk.length for chunk in table] == [len(chunk) for chunk in expected]
    assert [chunk.digest for chunk in table] == [Cid.of(chunk).digest for chunk in expected]


async def test_small_files_take_little_memory(tmp_path):
    """A buffer for the longest chunk takes longer to make than such a file to hash."""
    (tmp_path / "f").write_bytes(b"small")
    (tmp_path / "f.safetensors").write_bytes(build_header([], []))
    files = [cut_file(tmp_path / name) for name in ("f", "f.safetensors")]
    tracemalloc.start()
    try:
        tables = await hash_files(files)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(table) for table in tables] == [1, 1]
    assert most < MIB


@pytest.mark.parametrize("segment", [MIB, 32 * MIB])
async def test_holes_are_as_zeros(tmp_path, monkeypatch, segment):
    monkeypatch.setattr(content_defined, "SEGMENT_BYTES", segment)
    monkeypatch.setattr(chunking, "SEGMENT_BYTES", segment)
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    dense.write_bytes(bytes(7 * MIB + 3) + DATA + bytes(6 * MIB))
    with sparse.open("wb") as file:
        file.seek(7 * MIB + 3)
        file.write(DATA)
        file.truncate(dense.stat().st_size)
    tables = await hash_files([cut_file(dense), cut_file(sparse)])
    assert tables[0] == tables[1]


async def test_a_byte_inserted_at_the_front_costs_one_chunk(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "former.bin").write_bytes(DATA)
    (tmp_path / "new.bin").write_bytes(b"!" + DATA)
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(tmp_path / "new.bin")
        base = FetchOptions(base=(tmp_path / "old",), first_delay=0.01)
        result = await fetch(net.host(), ticket, tmp_path / "out", options=base)
        assert 0 < result.bytes_fetched <= MAX_CHUNK_BYTES
        # Of a file in the directory that nobody has named, some is looked at.
        again = await fetch(net.host(), ticket, tmp_path / "old", options=QUICK)
        assert 0 < again.bytes_fetched <= MAX_CHUNK_BYTES
    assert (tmp_path / "old" / "new.bin").read_bytes() == b"!" + DATA
