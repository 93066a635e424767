"""Tensors as they come: in order, verified, from whoever has them."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from fnmatch import fnmatchcase
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lattica.content import FetchOptions, Publisher
from lattica.content.manifest.chunking import cut_tensors
from lattica.content.manifest.manifest import ChunkTable, FileEntry, Manifest
from lattica.content.manifest.tensor_files.safetensors_header import layout_from_shapes
from lattica.content.publish.catalog import Publication
from lattica.content.publish.service import PublisherLimits, service_of
from lattica.content.tensors.placing import Placed, Placing, fresh_memory
from lattica.content.tensors.streaming import stream_tensors
from lattica.errors import ContentError, IntegrityError
from tests.support.doubles.memory_host import memory_net

QUICK = FetchOptions(first_delay=0.01, give_up_after=0.5, window=2 * 1024 * 1024)


def checkpoint(directory: Path) -> dict[str, np.ndarray]:
    """Two shards with tensors of all sizes; all of them, in the order of their bytes."""
    directory.mkdir()
    rng = np.random.default_rng(3)
    found: dict[str, np.ndarray] = {}
    for shard in (1, 2):
        tensors = {
            f"layers.{shard}.big": rng.standard_normal((700, 1024), np.float32),
            f"layers.{shard}.norm": rng.standard_normal(64, np.float32),
            f"layers.{shard}.none": np.zeros((0, 3), np.float32),
            f"layers.{shard}.scalar": np.array(shard, np.float32),
        }
        save_file(tensors, directory / f"model-{shard}.safetensors")
        found |= tensors
    (directory / "config.json").write_text("{}")
    return found


async def take(*arguments, **options) -> dict[str, np.ndarray]:
    found = {}
    async with aclosing(stream_tensors(*arguments, options=QUICK, **options)) as tensors:
        async for tensor, data in tensors:
            assert tensor.dtype == "F32"
            found[tensor.name] = np.frombuffer(data, np.float32).reshape(tensor.shape)
    return found


@pytest.mark.parametrize("pattern", ["*", "layers.2.*", "*.norm", "*.none"])
async def test_tensors_come_in_the_order_of_their_files(tmp_path, pattern):
    everything = checkpoint(tmp_path / "model")
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publisher.publish(tmp_path / "model")
            [publication] = publisher.catalog
            found = await take(client, ticket, pattern)
            sent = service_of(server).bytes_sent[ticket.cid]
    order = [t.name for f in publication.manifest.files if f.layout for t in f.layout.tensors]
    assert [*found] == [n for n in order if n in found]
    assert set(found) == {name for name in everything if fnmatchcase(name, pattern)}
    for name, array in found.items():
        np.testing.assert_array_equal(array, everything[name])
    if pattern == "*.none":
        assert sent == 0
    elif pattern == "layers.2.*":
        assert sent < sum(a.nbytes for a in everything.values()) * 0.55


async def test_the_rest_is_not_had_when_it_is_closed(tmp_path):
    checkpoint(tmp_path / "model")
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publisher.publish(tmp_path / "model")
            async with aclosing(stream_tensors(client, ticket, options=QUICK)) as tensors:
                async for _ in tensors:
                    break
            assert len(await take(client, ticket)) == 8


async def test_no_tensor_matches(tmp_path):
    checkpoint(tmp_path / "model")
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publisher.publish(tmp_path / "model")
            with pytest.raises(ContentError, match="none of the 8 tensors"):
                await take(client, ticket, "nothing")


@pytest.mark.parametrize("others", [0, 1])
async def test_wrong_bytes_are_of_no_use(tmp_path, monkeypatch, others):
    """They cost their sender its place; whoever else has it is asked."""
    everything = checkpoint(tmp_path / "model")
    honest = Publication.read_span
    liar: list[Publication] = []

    def lie(self, first, count):
        data = honest(self, first, count)
        return bytes(len(data)) if any(self is one for one in liar) and first > 1 else data

    monkeypatch.setattr(Publication, "read_span", lie)
    async with memory_net() as net:
        server, client, helper = net.host(), net.host(), net.host()
        async with Publisher(server) as publisher, Publisher(helper) as other:
            ticket = await publisher.publish(tmp_path / "model")
            liar += publisher.catalog
            if others:
                await other.publish(tmp_path / "model")
                net.link(client, helper)
                found = await take(client, ticket)
                assert set(found) == set(everything)
                np.testing.assert_array_equal(found["layers.1.big"], everything["layers.1.big"])
            else:
                with pytest.raises(IntegrityError, match=str(server.peer_id)):
                    await take(client, ticket)


async def test_tensors_are_drawn_from_all_who_have_them(tmp_path):
    """Each sends a part of it, one that nobody named among them; and the order stays."""
    rng = np.random.default_rng(5)
    everything = {f"{n:02}": rng.standard_normal(2**16, np.float32) for n in range(40)}
    (tmp_path / "model").mkdir()
    save_file(everything, tmp_path / "model" / "model.safetensors")
    slow = PublisherLimits(rate=4e6)
    async with memory_net() as net, AsyncExitStack() as stack:
        client, servers = net.host(), [net.host() for _ in range(3)]
        tickets = []
        for server in servers:
            publisher = await stack.enter_async_context(Publisher(server, limits=slow))
            tickets.append(await publisher.publish(tmp_path / "model"))
            net.link(client, server)
        found = await take(client, tickets[0])
        sent = [service_of(server).bytes_sent[tickets[0].cid] for server in servers]
    assert [*found] == [name for name in found if name in everything]
    for name, array in everything.items():
        np.testing.assert_array_equal(found[name], array)
    assert all(sent), sent


async def test_a_reader_that_takes_its_time_has_no_more_than_the_window_under_way(tmp_path):
    rng = np.random.default_rng(5)
    one = 256 * 1024
    save_file(
        {f"{n:02}": rng.standard_normal(one // 4, np.float32) for n in range(40)},
        tmp_path / "model.safetensors",
    )
    options = replace(QUICK, window=4 * one)
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publisher.publish(tmp_path)
            async with aclosing(stream_tensors(client, ticket, options=options)) as tensors:
                taken = 0
                async for _ in tensors:
                    taken += one
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    assert service_of(server).bytes_sent[ticket.cid] <= taken + 5 * one


# --- putting tensors together, pure ---


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 300_000), max_size=6), min_size=1, max_size=3),
    st.data(),
)
def test_whatever_the_sizes_tensors_are_put_together(files, data):
    entries, contents = [], []
    for index, sizes in enumerate(files):
        shapes = [(f"{index}.{n}", "U8", (size,)) for n, size in enumerate(sizes)]
        layout = layout_from_shapes(10, 10 + sum(sizes), (), shapes)
        lengths = cut_tensors(layout)
        content = np.random.default_rng(index).bytes(10 + sum(sizes))
        ends = [*accumulate(lengths)]
        digests = (sha256(content[e - n : e]).digest() for n, e in zip(lengths, ends, strict=True))
        table = ChunkTable.from_chunks(lengths, b"".join(digests))
        entries.append(FileEntry(f"{index}.safetensors", False, table, layout))
        contents.append(content)
    manifest = Manifest("m", tuple(entries))
    placed = [
        Placed(index, tensor)
        for index, entry in enumerate(entries)
        for tensor in (entry.layout.tensors if entry.layout else ())
        if data.draw(st.booleans())
    ]
    window = data.draw(st.sampled_from([1, 300_000, 1 << 30]))
    placing = Placing(manifest, placed, fresh_memory, window)
    found, asked, came = [], [], []
    while True:
        asked += placing.ask()
        if (one := placing.take()) is not None:
            found.append(one)
        elif placing.is_finished:
            break
        else:
            assert placing.awaited in asked
            assert placing.missing == sorted(asked)
            number = asked.pop(data.draw(st.integers(0, len(asked) - 1)))
            file, index = manifest.locate(number)
            chunk = entries[file].chunks[index]
            piece = contents[file][chunk.offset : chunk.offset + chunk.length]
            placing.write(number, 1, piece, "test")
            placing.arrived([number])
            came.append(number)
    assert not asked
    assert len(came) == len(set(came))
    assert [tensor for tensor, _ in found] == [one.tensor for one in placed]
    for where, (tensor, memory) in zip(placed, found, strict=True):
        assert memory == contents[where.file][tensor.offset : tensor.offset + tensor.length]
