"""State dicts: written and published, and loaded into what exists already."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lattica.content import FetchOptions, Publisher, RawTensor
from lattica.content.tensors.mapped import MappedTensors
from lattica.content.tensors.state_dict import load_state_dict, publish_state_dict
from lattica.errors import ContentError, LocalProtocolError
from tests.support.doubles.memory_host import memory_net

QUICK = FetchOptions(first_delay=0.01, give_up_after=0.5)


def state(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal((600, 512), np.float32),
        "half": rng.standard_normal((3, 5), np.float32).astype(np.float16),
        "flags": rng.integers(0, 2, 7).astype(bool),
        "count": np.array(seed, np.int64),
        "none": np.zeros((0, 4), np.float32),
        "across": np.asfortranarray(rng.standard_normal((40, 30), np.float32)),
        "big-endian": rng.integers(0, 100, 9).astype(">i4"),
    }


def empty_like(full: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.full_like(array, 1) for name, array in full.items()}


def assert_same(found, expected) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=False)


@pytest.mark.parametrize("max_shard", [5_000_000_000, 1000])
async def test_what_is_published_is_loaded(tmp_path: Path, max_shard: int):
    expected = state()
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publish_state_dict(publisher, expected, directory, max_shard=max_shard)
            [publication] = publisher.catalog
            assert "config.json" in {file.path for file in publication.manifest.files}
            into = empty_like(expected)
            memory = {name: array.ctypes.data for name, array in into.items()}
            loaded = await load_state_dict(client, ticket, into, options=QUICK)
    assert_same(into, expected)
    assert {name: array.ctypes.data for name, array in into.items()} == memory
    assert loaded.bytes_loaded == sum(array.nbytes for array in expected.values())
    # As the library reads it.
    found: dict[str, np.ndarray] = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    assert_same(found, expected)
    index = directory / "model.safetensors.index.json"
    assert index.exists() == (max_shard == 1000)
    if index.exists():
        shards = json.loads(index.read_text())["weight_map"]
        assert {name: name in load_file(directory / file) for name, file in shards.items()} == (
            dict.fromkeys(expected, True)
        )


async def test_a_new_state_takes_the_place_of_the_former(tmp_path: Path):
    async with memory_net() as net, Publisher(net.host()) as publisher:
        await publish_state_dict(publisher, state(), tmp_path, max_shard=1000)
        first = await publish_state_dict(publisher, state(), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
        shuffled = dict(reversed(state().items()))
        assert (await publish_state_dict(publisher, shuffled, tmp_path)).cid == first.cid
        assert (await publish_state_dict(publisher, state(1), tmp_path)).cid != first.cid


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"more": np.zeros(3, np.float32)}, "missing more"),
        ({"w": None}, "unexpected w"),
        ({"w": np.zeros((512, 600), np.float32)}, "shape"),
        ({"w": np.zeros((600, 512), np.int32)}, "F32 of shape"),
        ({"w": "text"}, "no array"),
        ({"w": np.zeros((600, 512), np.complex128)}, "complex128"),
    ],
)
async def test_what_does_not_fit_is_said_before_anything_is_fetched(tmp_path, change, why):
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publish_state_dict(publisher, state(), tmp_path)
            into = {**empty_like(state()), **change}
            into = {name: array for name, array in into.items() if array is not None}
            with pytest.raises(LocalProtocolError, match=why):
                await load_state_dict(client, ticket, into, options=QUICK)
    assert (into["half"] == 1).all()


async def test_raw_tensors_are_published_and_loaded_into(tmp_path: Path):
    """Of types that numpy lacks; and looking for one in a mapped file needs no library for it."""
    raw = RawTensor("F8_E8M0", (2, 3), memoryview(b"abcdef"))
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publish_state_dict(publisher, {"w": raw}, tmp_path)
            into = RawTensor("F8_E8M0", (2, 3), memoryview(bytearray(6)))
            await load_state_dict(client, ticket, {"w": into}, options=QUICK)
            fixed = RawTensor("F8_E8M0", (2, 3), memoryview(bytes(6)))
            with pytest.raises(LocalProtocolError, match="read only"):
                await load_state_dict(client, ticket, {"w": fixed}, options=QUICK)
    assert into == raw
    mapped = MappedTensors(tmp_path / "model.safetensors")
    assert "w" in mapped
    assert "v" not in mapped


async def test_not_strict_what_both_have_is_loaded(tmp_path: Path):
    expected = state()
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publish_state_dict(publisher, expected, tmp_path)
            into = {"half": np.zeros((3, 5), np.float16), "more": np.ones(2)}
            loaded = await load_state_dict(client, ticket, into, strict=False, options=QUICK)
    assert loaded.missing == ("more",)
    assert set(loaded.unexpected) == set(expected) - {"half"}
    np.testing.assert_array_equal(into["half"], expected["half"])
    np.testing.assert_array_equal(into["more"], [1, 1])


@pytest.mark.parametrize("bad", [{}, {"w": [1, 2]}, {"w": np.array(["text"])}])
async def test_what_is_no_state(tmp_path, bad):
    async with memory_net() as net, Publisher(net.host()) as publisher:
        with pytest.raises(LocalProtocolError):
            await publish_state_dict(publisher, bad, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_file_as_a_memory_map(tmp_path: Path):
    expected = {name: array for name, array in state().items() if name not in ("big-endian",)}
    expected = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in expected.items()}
    save_file(expected, tmp_path / "m.safetensors", {"format": "pt"})
    mapped = MappedTensors(tmp_path / "m.safetensors")
    assert len(mapped) == len(expected)
    assert_same(mapped, expected)
    assert mapped.metadata == {"format": "pt"}
    assert not mapped["w"].flags.writeable
    array = mapped["w"]
    del mapped
    np.testing.assert_array_equal(array, expected["w"])


@pytest.mark.parametrize("data", [b"", b"x" * 20, b"\xff" * 8])
def test_what_is_no_safetensors_file(tmp_path, data):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(ContentError):
        MappedTensors(path)
    with pytest.raises(ContentError):
        MappedTensors(tmp_path / "none")


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float16", "int64", "bool"])
async def test_tensors_of_torch(tmp_path: Path, kind: str):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, kind)
    made = torch.arange(6000).reshape(60, 100).remainder(7).to(dtype)
    expected = {"w": made, "t": made.t(), "s": made[0, 1], "p": torch.nn.Parameter(torch.ones(3))}
    async with memory_net() as net:
        server, client = net.host(), net.host()
        async with Publisher(server) as publisher:
            ticket = await publish_state_dict(publisher, expected, tmp_path)
            into = {
                "w": torch.zeros(60, 100, dtype=dtype),
                "t": torch.zeros(60, 100, dtype=dtype).t(),
                "s": torch.zeros((), dtype=dtype),
                "p": torch.nn.Parameter(torch.zeros(3)),
            }
            await load_state_dict(client, ticket, into, options=QUICK)
    for name, tensor in expected.items():
        assert torch.equal(into[name].float(), tensor.float()), name
    mapped = MappedTensors(tmp_path / "model.safetensors")
    assert torch.equal(mapped.torch("w").float(), made.float())
