"""Manifests in two levels: the lists of chunks travel that are needed, and none of them lies."""

from __future__ import annotations

import os
from dataclasses import replace

import msgpack
import pytest

from lattica.content import ByteRange, FetchOptions, Publisher, fetch, fetch_manifest
from lattica.content.download.plan import Plan
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest, encode_manifest
from lattica.content.manifest.lists import (
    all_lists,
    encode_list,
    lists_in,
    split_lists,
    with_lists,
)
from lattica.content.manifest.manifest import (
    INLINE_CHUNKS,
    LIST_CHUNKS,
    MAX_CHUNKS,
    ChunkTable,
    FileEntry,
    ListedChunks,
    ListNotLoadedError,
    Manifest,
)
from lattica.content.publish.catalog import Publication, make_publication
from lattica.content.publish.service import serving
from lattica.content.store.store import ContentStore
from lattica.errors import ContentError, IntegrityError, RemoteProtocolError
from tests.support.doubles.memory_host import memory_net

GIB = 1 << 30
QUICK = FetchOptions(first_delay=0.01)
COUNT = 2 * LIST_CHUNKS + 5


def large() -> Manifest:
    digests = b"".join(n.to_bytes(32, "big") for n in range(COUNT))
    table = ChunkTable.from_chunks((n % 7 + 1 for n in range(COUNT)), digests)
    small = ChunkTable.from_chunks([3], b"s" * 32)
    files = (
        FileEntry("a", False, small),
        FileEntry("b", False, table),
        FileEntry("c", True, small),
    )
    return Manifest("large", files)


def by_number(manifest: Manifest) -> dict[int, bytes]:
    found = dict(enumerate(all_lists(manifest)))
    assert found == {number: encode_list(manifest, number) for number in found}
    return found


def test_first_level_is_small_and_the_lists_make_it_whole():
    manifest = large()
    encoded = encode_manifest(manifest)
    assert len(encoded) < 300
    first = decode_manifest(encoded)
    assert (first.chunk_count, first.size) == (manifest.chunk_count, manifest.size)
    assert isinstance(first.files[1].chunks, ListedChunks)
    assert encode_manifest(first) == encoded
    assert [(one.file, one.index, one.ref.count) for one in lists_in(first)] == [
        (1, 0, LIST_CHUNKS),
        (1, 1, LIST_CHUNKS),
        (1, 2, 5),
    ]
    whole = with_lists(first, by_number(manifest))
    assert whole == manifest
    assert encode_manifest(whole) == encoded
    together = b"".join(all_lists(manifest))
    assert split_lists(first, together) == by_number(manifest)
    assert split_lists(first, b"x" + together) == {}


def test_lists_are_numbered_through_the_files_that_have_some():
    file = large().files[1]
    files = [replace(file, path=path) for path in "bde"]
    short = [replace(large().files[0], path=path) for path in "acf"]
    manifest = Manifest("m", tuple(sorted([*files, *short], key=lambda entry: entry.path)))
    first = decode_manifest(encode_manifest(manifest))
    found = [(one.file, one.index) for one in lists_in(first)]
    assert found == [(index, within) for index in (1, 3, 4) for within in range(3)]
    assert [manifest.locate_list(number) for number in range(manifest.list_count)] == found
    assert with_lists(first, by_number(manifest)) == manifest
    with pytest.raises(RemoteProtocolError, match="list 9"):
        encode_list(manifest, 9)


def test_what_is_not_loaded_is_an_error_by_name():
    first = decode_manifest(encode_manifest(large()))
    part = with_lists(first, {1: encode_list(large(), 1)})
    assert [part.chunk(n) for n in (LIST_CHUNKS + 1, 2 * LIST_CHUNKS)] == [
        large().chunk(n) for n in (LIST_CHUNKS + 1, 2 * LIST_CHUNKS)
    ]
    for number in (1, 2 * LIST_CHUNKS + 1):
        with pytest.raises(ListNotLoadedError):
            part.chunk(number)
    with pytest.raises(ListNotLoadedError):
        part.files[1].table  # noqa: B018
    assert encode_list(part, 1) == encode_list(large(), 1)
    with pytest.raises(ListNotLoadedError):
        encode_list(part, 0)
    with pytest.raises(RemoteProtocolError):
        encode_list(part, 3)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_requests_are_cut_alike_whatever_is_loaded(number):
    manifest = large()
    whole = Plan(Cid(bytes(32)), manifest)
    part = with_lists(
        decode_manifest(encode_manifest(manifest)), {number: by_number(manifest)[number]}
    )
    first = 1 + number * LIST_CHUNKS
    numbers = list(range(first, min(first + LIST_CHUNKS, 1 + COUNT)))
    assert list(Plan(Cid(bytes(32)), part).spans(numbers)) == list(whole.spans(numbers))


def test_a_selection_needs_the_lists_that_have_it():
    manifest = decode_manifest(encode_manifest(large()))
    chunk = large().chunk(1 + LIST_CHUNKS)
    for start, stop, lists in (
        (0, 1, {0}),
        (chunk.offset, chunk.offset + 1, {1}),
        (chunk.offset - 1, chunk.offset + 1, {0, 1}),
        (manifest.files[1].size - 1, None, {2}),
    ):
        plan = Plan(Cid(bytes(32)), manifest, ranges=[ByteRange(start, stop, "b")])
        assert plan.lists() == lists
    assert Plan(Cid(bytes(32)), manifest, ranges=[ByteRange(0, 1, "c")]).lists() == set()
    assert Plan(Cid(bytes(32)), manifest).lists() == {0, 1, 2}


def fields_of(manifest: Manifest) -> list:
    return msgpack.unpackb(encode_manifest(manifest))


def sizes(values: list[int]) -> bytes:
    return b"".join(value.to_bytes(8, "big") for value in values)


@pytest.mark.parametrize(
    "chunks",
    [
        [COUNT, sizes([9, 9]), bytes(64)],  # lists that do not make the number
        [COUNT, sizes([9] * 4), bytes(128)],
        [COUNT, sizes([4096, 4096, 4]), bytes(96)],  # less than a byte a chunk
        [COUNT, sizes([1 << 40, 4096, 5]), bytes(96)],  # more than chunks can have
        [COUNT, sizes([4096, 4096, 5]), bytes(95)],
        [COUNT, bytes(3), bytes(96)],
        [MAX_CHUNKS + 1, b"", b""],
        [1 << 63, b"", b""],
        [-1, b"", b""],
        [9, sizes([9]), bytes(32)],  # lists in a publication that needs none
        [0, b"\0\0\0\1" * COUNT, bytes(32) * COUNT],  # none in one that does
        [COUNT, [[COUNT, b"", b""]], b""],  # a level below
    ],
)
def test_first_levels_that_lie(chunks):
    fields = fields_of(large())
    fields[2] = [["b", 0o644, chunks, []]]
    with pytest.raises(RemoteProtocolError, match="damaged manifest"):
        decode_manifest(msgpack.packb(fields))


def test_no_more_chunks_than_are_allowed():
    half = [MAX_CHUNKS // 2 + 1, sizes([4096] * 513)[: 8 * 513], bytes(32) * 513]
    half[1] = sizes([4096] * 512 + [1])
    fields = fields_of(large())
    fields[2] = [["a", 0o644, half, []], ["b", 0o644, half, []]]
    with pytest.raises(RemoteProtocolError, match="chunks, where"):
        decode_manifest(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data + bytes(36), "another number of chunks"),
        (lambda data: data[:-1], "another number of chunks"),
        (lambda data: b"\0\0\0\2" + data[4:], "chunks have"),
        (lambda data: bytes(4) + data[4:], "empty or longer"),
        (lambda data: b"\xff" + data[1:], "empty or longer"),
    ],
)
def test_lists_that_lie(spoil, says):
    """Their hashes are right: whoever made the manifest has meant it."""
    first = decode_manifest(encode_manifest(large()))
    with pytest.raises(RemoteProtocolError, match=says) as caught:
        with_lists(first, {0: spoil(encode_list(large(), 0))})
    assert "'b'" in str(caught.value)


# --- from publisher to fetcher ---


def sparse(path, size=3 * GIB):
    path.touch()
    os.truncate(path, size)
    with path.open("r+b") as file:
        file.seek(size - 1000)
        file.write(b"lattica" * 10)
    return path


@pytest.fixture
def asked(monkeypatch):
    """Numbers of the lists that publishers were asked for."""
    numbers: list[int] = []
    real = Publication.chunk_list

    def counting(self, number):
        numbers.append(number)
        return real(self, number)

    monkeypatch.setattr(Publication, "chunk_list", counting)
    monkeypatch.setattr("lattica.content.manifest.lists.LIST_CHUNKS", 1024)
    monkeypatch.setattr("lattica.content.manifest.manifest.LIST_CHUNKS", 1024)
    monkeypatch.setattr("lattica.content.manifest.codec.LIST_CHUNKS", 1024)
    return numbers


async def test_a_range_of_a_large_file_loads_one_list(tmp_path, asked):
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(sparse(tmp_path / "large"))
        part = [ByteRange(3 * GIB - 1000, 3 * GIB - 993)]
        result = await fetch(net.host(), ticket, tmp_path / "out", ranges=part, options=QUICK)
        [path] = result.paths
        assert path.read_bytes() == b"lattica"
        assert len(asked) == 1
        [publication] = publisher.catalog
        assert len(publication.encoded) < 1000
        assert await fetch_manifest(net.host(), ticket) == publication.manifest
        assert publication.chunk_count > INLINE_CHUNKS


async def test_a_store_has_the_lists_too(tmp_path, asked):
    publication = await make_publication(sparse(tmp_path / "large"))
    with ContentStore(tmp_path / "store") as store:
        store.add(publication, copy=False)
        store.collect(1 << 40)
        part = [ByteRange(3 * GIB - 1000, 3 * GIB - 993)]
        with store.reading(publication.cid) as served:
            async with memory_net() as net:
                host, client = net.host(), net.host()
                with serving(host, {publication.cid: served}.get):
                    await client.connect(host.peer_id)
                    await fetch(client, publication.cid, tmp_path, ranges=part, options=QUICK)
        first = next(lists_in(decode_manifest(publication.encoded)))
        store._path(first.ref.digest).write_bytes(b"damaged")
        assert store.verify().publications == (publication.cid,)
        with pytest.raises(ContentError, match="damaged"), store.reading(publication.cid):
            pass


@pytest.mark.parametrize("lie", [bytes(1), b"\xff"])
async def test_a_peer_that_sends_another_list_is_told_by_its_name(
    tmp_path, asked, monkeypatch, lie
):
    real = Publication.chunk_list
    monkeypatch.setattr(
        Publication, "chunk_list", lambda self, number: lie + real(self, number)[1:-1] + b"x"
    )
    async with memory_net() as net:
        host = net.host()
        async with Publisher(host) as publisher:
            ticket = await publisher.publish(sparse(tmp_path / "large"))
            with pytest.raises(IntegrityError, match=str(host.peer_id)):
                await fetch(net.host(), ticket, tmp_path / "out", options=QUICK)
    assert not (tmp_path / "out").exists()
