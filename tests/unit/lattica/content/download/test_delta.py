"""From one version to the next: what travels, and what is said of it before."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lattica.content import Cid, FetchOptions, Publisher, fetch, fetch_manifest
from lattica.content.manifest.difference import Changes, compare
from lattica.content.manifest.manifest import ChunkTable, FileEntry, Manifest
from lattica.content.publish.catalog import make_publication
from lattica.errors import ConfigError, ContentError
from tests.support.doubles.content_doubles import memory_node

MIB = 1024 * 1024
QUICK = FetchOptions(window=4 * MIB, first_delay=0.01)
LAYERS = 24


def checkpoint(directory: Path, changed: int | None = None, shards: int = 2) -> Path:
    """Layers with a large tensor, a smaller one and a tiny one each."""
    directory.mkdir(parents=True)
    tensors = {}
    for layer in range(LAYERS):
        rng = np.random.default_rng(layer + (1000 if layer == changed else 0))
        tensors[f"layers.{layer}.w"] = rng.standard_normal((256, 512), np.float32)
        tensors[f"layers.{layer}.v"] = rng.standard_normal((128, 200), np.float32)
        tensors[f"layers.{layer}.norm"] = rng.standard_normal(64, np.float32)
    for shard in range(shards):
        chosen = {n: a for i, (n, a) in enumerate(tensors.items()) if i % shards == shard}
        save_file(chosen, directory / f"model-{shard + 1:05}-of-{shards:05}.safetensors")
    return directory


def layer_bytes() -> int:
    return (256 * 512 + 128 * 200 + 64) * 4


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("shards", [2, 3])
async def test_one_changed_layer_costs_hardly_more_than_that_layer(tmp_path, shards, links):
    """From a base that stays as it is, whatever its files are called."""
    old, new = checkpoint(tmp_path / "old"), checkpoint(tmp_path / "new", 7, shards)
    base = old
    if links:  # as in the cache of a hub
        base = tmp_path / "snapshot"
        base.mkdir()
        for path in old.iterdir():
            os.symlink(path, base / path.name)
    options = replace(QUICK, base=(base,))
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(new)
        result = await fetch(node, ticket, tmp_path / "out", options=options)
        former = (await make_publication(old)).manifest
        expected = compare(former, await fetch_manifest(node, ticket))
    # The tiny tensors share chunks, of which some changed; headers, and what lies beside them.
    assert result.bytes_fetched <= 1.1 * layer_bytes() + 24 * 1024
    if shards == 2:
        assert result.bytes_fetched == expected.bytes_to_fetch
    for path in new.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in old.iterdir()} == {p.name for p in base.iterdir()}


async def test_what_changed(tmp_path):
    old = (await make_publication(checkpoint(tmp_path / "old"))).manifest
    new = (await make_publication(checkpoint(tmp_path / "new", 7))).manifest
    difference = compare(old, new)
    assert difference.files.added == difference.files.removed == ()
    assert {"layers.7.w", "layers.7.v", "layers.7.norm"} <= set(difference.tensors.changed)
    large = [name for name in difference.tensors.changed if not name.endswith("norm")]
    assert large == ["layers.7.v", "layers.7.w"]
    assert compare(new, new).bytes_to_fetch == 0
    assert compare(new, new).tensors == Changes((), (), ())
    empty = Manifest("empty", ())
    assert compare(empty, new).bytes_to_fetch == new.size
    assert len(compare(empty, new).tensors.added) == 3 * LAYERS
    assert len(compare(new, empty).tensors.removed) == 3 * LAYERS


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=8))
def test_bytes_to_fetch_are_the_chunks_that_are_new_each_once(before, after):
    def manifest(chunks: list[int]) -> Manifest:
        digests = b"".join(Cid.of(bytes((number,))).digest for number in chunks)
        table = ChunkTable.from_chunks([number + 1 for number in chunks], digests)
        return Manifest("m", (FileEntry("f", False, table),))

    difference = compare(manifest(before), manifest(after))
    assert difference.bytes_to_fetch == sum(n + 1 for n in set(after) - set(before))
    assert difference.bytes_total == sum(n + 1 for n in after)
    assert difference.files.changed == (("f",) if before != after else ())


async def test_bases_that_are_none(tmp_path):
    source = checkpoint(tmp_path / "source")
    async with memory_node(1 << 20) as node, Publisher(node) as publisher:
        ticket = await publisher.publish(source)
        options = replace(QUICK, base=(tmp_path / "nowhere",))
        with pytest.raises(ContentError, match="nowhere does not exist; check the path"):
            await fetch(node, ticket, tmp_path / "out", options=options)
        # What cannot be read, or is of no use, costs nothing but a look.
        base = tmp_path / "base"
        base.mkdir()
        os.mkfifo(base / "pipe")
        os.symlink("gone", base / "dangling")
        (base / "other").write_bytes(b"x" * MIB)
        result = await fetch(node, ticket, tmp_path / "out", options=replace(QUICK, base=(base,)))
    assert result.bytes_fetched == result.bytes_total
    with pytest.raises(ConfigError):
        FetchOptions(base="old")  # type: ignore[arg-type]
