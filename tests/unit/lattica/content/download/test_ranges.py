"""Ranges of bytes: exactly these, of no more chunks than have some of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content import ByteRange, Cid, FetchOptions, Publisher, fetch
from lattica.content.download.plan import Plan
from lattica.content.manifest.manifest import ChunkTable, FileEntry, Manifest
from lattica.errors import ConfigError, ContentError
from tests.support.doubles.content_doubles import memory_node

MIB = 1 << 20
QUICK = FetchOptions(window=4 * MIB, first_delay=0.01)
DATA = random.Random(5).randbytes(3 * MIB + 1234)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-1023", ByteRange(0, 1024)),
        ("7-7", ByteRange(7, 8)),
        ("10-", ByteRange(10)),
        ("-10", ByteRange(-10)),
        ("a:b/c.bin:0-1", ByteRange(0, 2, "a:b/c.bin")),
        (":0-1", ByteRange(0, 2)),
    ],
)
def test_texts(text, expected):
    assert ByteRange.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "-", "5", "5-4", "-0", "a-b", "x:", "0-1,3-4", "٣-٤x", "1--2"]
)
def test_no_ranges(text):
    with pytest.raises(ConfigError):
        ByteRange.parse(text)


@pytest.mark.parametrize("fields", [(3, 3), (3, 2), (-3, 2), (-3, -1), (0, 0)])
def test_no_slices(fields):
    with pytest.raises(ConfigError):
        ByteRange(*fields)


def manifest_of(lengths: list[int]) -> Manifest:
    digests = b"".join(n.to_bytes(32, "big") for n in range(len(lengths)))
    return Manifest("m", (FileEntry("f", True, ChunkTable.from_chunks(lengths, digests)),))


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    parts=st.lists(st.tuples(st.integers(0, 250), st.integers(1, 60)), min_size=1, max_size=5),
)
def test_every_byte_goes_to_its_place_and_only_chunks_that_have_some_are_had(lengths, parts):
    size = sum(lengths)
    ends = [(start, start + count) for start, count in parts]
    ranges = [ByteRange(*pair) for pair in ends]
    manifest, cid = manifest_of(lengths), Cid(bytes(32))
    if any(stop > size for _, stop in ends):
        with pytest.raises(ContentError):
            Plan(cid, manifest, ranges=ranges)
        return
    wanted = sorted({n for start, stop in ends for n in range(start, stop)})
    plan = Plan(cid, manifest, ranges=ranges)
    (output,) = plan.outputs
    assert output.size == plan.size == len(wanted)
    made: dict[int, int] = {}
    for number in plan.chunks:
        places = plan.placements(number)
        assert places
        for place in places:
            for n in range(place.length):
                made[place.offset + n] = manifest.chunk(number).offset + place.start + n
    assert [made[n] for n in range(len(wanted))] == wanted


@pytest.mark.parametrize("part", [ByteRange(0), ByteRange(-8), ByteRange(0, 1)])
def test_a_file_that_is_empty_is_called_so(part):
    with pytest.raises(ContentError, match="'f' is empty"):
        Plan(Cid(bytes(32)), manifest_of([]), ranges=[part])


async def test_a_range_is_fetched_to_a_file_of_its_own(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.bin", "b.bin"):
        (tmp_path / "in" / name).write_bytes(DATA)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.bin").write_bytes(b"mine")
    async with memory_node() as node, Publisher(node) as publisher:
        ticket = await publisher.publish(tmp_path / "in")
        ranges = [ByteRange(MIB + 5, MIB + 105, "a.bin"), ByteRange(-3, None, "a.bin")]
        result = await fetch(node, ticket, out, ranges=ranges, options=QUICK)
        end = len(DATA)
        assert result.paths == (out / f"a.bin.{MIB + 5}-{MIB + 104},{end - 3}-{end - 1}",)
        assert result.paths[0].read_bytes() == DATA[MIB + 5 : MIB + 105] + DATA[-3:]
        assert result.bytes_total == 103
        [publication] = publisher.catalog
        table = publication.manifest.files[0].table
        some = {table.index_at(MIB + 5), table.index_at(MIB + 104), len(table) - 1}
        assert result.bytes_fetched == sum(table[index].length for index in some)
        assert (out / "a.bin").read_bytes() == b"mine"
        # What lies there is enough for a part of it.
        (out / "a.bin").write_bytes(DATA)
        again = await fetch(
            node, ticket, out, ranges=[ByteRange(9, 2 * MIB, "b.bin")], options=QUICK
        )
        assert again.bytes_fetched == 0
        assert again.paths[0].read_bytes() == DATA[9 : 2 * MIB]
        for wrong in (ByteRange(0, 1), ByteRange(0, 1, "c"), ByteRange(0, end + 1, "a.bin")):
            with pytest.raises(ContentError, match=r"a\.bin"):
                await fetch(node, ticket, out, ranges=[wrong], options=QUICK)
        with pytest.raises(ContentError, match="not both"):
            await fetch(node, ticket, out, ranges=[ByteRange(0, 1)], tensors="*", options=QUICK)
        many = [ByteRange(n, n + 1, "a.bin") for n in range(0, 400, 2)]
        with pytest.raises(ContentError, match="cannot name"):
            await fetch(node, ticket, out, ranges=many, options=QUICK)
