"""Checkpoints in shards: of a selection the right shards travel, and an index that lies is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lattica.content import FetchOptions, Publisher, fetch
from lattica.content.publish import server
from lattica.errors import ContentError
from tests.support.doubles.memory_host import memory_net

QUICK = FetchOptions(first_delay=0.01)
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def make_checkpoint(path: Path, below: str = "") -> Path:
    top = path / below
    top.mkdir(parents=True)
    weights: dict[str, str] = {}
    for number, shard in enumerate(SHARDS):
        arrays = {f"layers.{number}.{part}": np.full(50_000, number, np.float32) for part in "qk"}
        save_file(arrays, top / shard)
        weights |= dict.fromkeys(arrays, shard)
    (top / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    (path / "config.json").write_text("{}")
    return path


@pytest.mark.parametrize("below", ["", "sub/dir"])
async def test_a_selection_is_had_from_the_right_shard_with_the_index(tmp_path, below):
    source = make_checkpoint(tmp_path / "in", below)
    out = tmp_path / "out"
    async with memory_net() as net, Publisher(net.host()) as publisher:
        ticket = await publisher.publish(source)
        result = await fetch(net.host(), ticket, out, tensors="layers.1.q", options=QUICK)
        assert set(result.paths) == {out / below / SHARDS[1], out / below / INDEX}
        assert result.bytes_fetched < 202_000
        assert list(load_file(out / below / SHARDS[1])) == ["layers.1.q"]
        assert (out / below / INDEX).read_bytes() == (source / below / INDEX).read_bytes()
        with pytest.raises(ContentError, match="none of the 4"):
            await fetch(net.host(), ticket, out, tensors="x", options=QUICK)


WRONG: dict[str, Any] = {
    "names the shard 'model-00003": {"weight_map": {"layers.0.q": "model-00003.safetensors"}},
    "'layers.9.q' is in": {"weight_map": {"layers.9.q": SHARDS[0]}},
    "'layers.0.q' is in": {"weight_map": {"layers.0.q": SHARDS[1]}},
    "names the shard '../": {"weight_map": {"layers.0.q": "../" + SHARDS[0]}},
    "no weight_map": [],
}


@pytest.mark.parametrize("says", WRONG)
async def test_an_index_that_is_wrong(tmp_path, monkeypatch, says):
    source = make_checkpoint(tmp_path / "in")
    (source / INDEX).write_text(json.dumps(WRONG[says]))
    async with memory_net() as net, Publisher(net.host()) as publisher:
        with pytest.raises(ContentError, match=says) as caught:
            await publisher.publish(source)
        assert INDEX in str(caught.value)
        # Somebody who does not look publishes it; whoever selects by it is told.
        monkeypatch.setattr(server, "check_shards", lambda publication: None)
        ticket = await publisher.publish(source)
        with pytest.raises(ContentError, match=says):
            await fetch(net.host(), ticket, tmp_path / "out", tensors="layers.0.*", options=QUICK)
        await fetch(net.host(), ticket, tmp_path / "whole", options=QUICK)
