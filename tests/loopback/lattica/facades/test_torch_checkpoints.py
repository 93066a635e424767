"""torch.distributed.checkpoint over a publication: saved and loaded, by any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.checkpoint")

from lattica import Lattica, NodeConfig  # noqa: E402
from lattica.content.publish.service import service_of  # noqa: E402
from lattica.content.tensors.writing import write_tensors  # noqa: E402
from lattica.errors import ContentError, LocalProtocolError  # noqa: E402
from lattica.nat.config import SwarmConfig  # noqa: E402

dcp = torch.distributed.checkpoint
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Lattica, Lattica]]:
    with ExitStack() as stack:
        config = NodeConfig(swarm=SwarmConfig(listen=("/ip4/127.0.0.1/tcp/0",)))
        trainer, other = (stack.enter_context(Lattica(config)) for _ in range(2))
        other.connect(str(trainer.addrs[0]))
        yield trainer, other


def reader(*arguments: Any) -> Any:
    from lattica.facades.checkpoints import LatticaReader

    return LatticaReader(*arguments)


def writer(*arguments: Any) -> Any:
    from lattica.facades.checkpoints import LatticaWriter

    return LatticaWriter(*arguments)


def trained(seed: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(40, 700), torch.nn.Linear(700, 3).bfloat16())
    adam = torch.optim.AdamW(model.parameters(), lr=0.01 * (seed + 1), betas=(0.8, 0.9))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    adam.step()
    return model, adam


def state_of(model: Any, adam: Any) -> dict[str, Any]:
    return {"model": model.state_dict(), "adam": adam.state_dict(), "step": 7 if model else 0}


def test_a_model_and_its_optimizer_are_as_they_were(nodes: Any, tmp_path: Path):
    trainer, other = nodes
    expected = state_of(*trained(0))
    storage = writer(trainer, tmp_path / "step")
    dcp.save(expected, storage_writer=storage, no_dist=True)
    assert [path.name for path in (tmp_path / "step").iterdir()] == ["model.safetensors"]
    into = {**state_of(*trained(1)), "step": 0}
    memory = {name: tensor.data_ptr() for name, tensor in into["model"].items()}
    dcp.load(into, storage_reader=reader(other, storage.ticket), no_dist=True)
    assert into["step"] == 7
    assert into["adam"]["param_groups"] == expected["adam"]["param_groups"]
    for name, tensor in expected["model"].items():
        assert torch.equal(into["model"][name], tensor), name
        assert into["model"][name].data_ptr() == memory[name]
    for number, state in expected["adam"]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(into["adam"]["state"][number][name], tensor)


class _Planner:
    """Has the parts of a rank, as they are."""

    def __init__(self, parts: dict[Any, Any]) -> None:
        self._parts = parts

    def resolve_data(self, item: Any) -> Any:
        return self._parts[item.index]


def save_in_parts(storage: Any, name: str, whole: Any, cuts: list[list[tuple[int, int]]]) -> Any:
    """As so many ranks, of which each has some rows."""
    from torch.distributed.checkpoint import (  # type: ignore[import-not-found,unused-ignore]
        metadata,
        planner,
    )

    plans, planners = [], []
    for ranges in cuts:
        items, parts = [], {}
        for first, last in ranges:
            offsets = torch.Size((first, *[0] * (whole.dim() - 1)))
            index = metadata.MetadataIndex(name, offsets)
            part = whole[first:last]
            data = planner.TensorWriteData(
                metadata.ChunkStorageMetadata(offsets, part.shape),
                metadata.TensorProperties(dtype=whole.dtype),
                whole.shape,
            )
            items.append(planner.WriteItem(index, planner.WriteItemType.SHARD, tensor_data=data))
            parts[index] = part
        plans.append(storage.prepare_local_plan(planner.SavePlan(items)))
        planners.append(_Planner(parts))
    storage.set_up_storage_writer(True)
    results = [
        storage.write_data(plan, planner).wait()
        for plan, planner in zip(storage.prepare_global_plan(plans), planners, strict=True)
    ]
    storage.finish(None, results)
    return storage.ticket


def test_parts_of_several_ranks_are_one_tensor_and_only_the_needed_rows_travel(
    nodes: Any, tmp_path: Path
):
    trainer, other = nodes
    whole = torch.arange(4000 * 1000, dtype=torch.float32).reshape(4000, 1000)
    storage = writer(trainer, tmp_path)
    ticket = save_in_parts(storage, "w", whole, [[(0, 1500), (3900, 4000)], [(1500, 3900)]])
    into = {"w": torch.zeros(4000, 1000)}
    dcp.load(into, checkpoint_id=str(ticket), storage_reader=reader(other), no_dist=True)
    assert torch.equal(into["w"], whole)
    # As torch itself reads it.
    into = {"w": torch.zeros(4000, 1000)}
    own = dcp.HuggingFaceStorageReader(str(tmp_path))
    dcp.load(into, storage_reader=own, no_dist=True)
    assert torch.equal(into["w"], whole)
    # One that holds a few rows of it.
    from torch.distributed.checkpoint import planner

    rows = torch.zeros(200, 1000)
    loading = reader(other, ticket)
    found = loading.read_metadata()
    assert found.state_dict_metadata["w"].size == whole.shape
    part = found.state_dict_metadata["w"].chunks

    class Load:
        def resolve_tensor(self, item: Any) -> Any:
            return rows[item.dest_offsets[0] :][: item.lengths[0]]

        def commit_tensor(self, item: Any, tensor: Any) -> None:
            pass

    items = []
    for first, last, at in ((1400, 1500, 0), (1500, 1600, 100)):
        chunk = next(c for c in part if c.offsets[0] <= first < c.offsets[0] + c.sizes[0])
        index = dcp.metadata.MetadataIndex("w", chunk.offsets)
        offsets = torch.Size((first - chunk.offsets[0], 0))
        lengths = torch.Size((last - first, 1000))
        kind = planner.LoadItemType.TENSOR
        items.append(planner.ReadItem(kind, index, torch.Size((at, 0)), index, offsets, lengths))
    service = service_of(trainer._node)
    before = service.bytes_sent[ticket.cid]
    loading.read_data(planner.LoadPlan(items), Load()).wait()
    assert torch.equal(rows, whole[1400:1600])
    assert service.bytes_sent[ticket.cid] - before < 5 * 1024 * 1024


@pytest.mark.parametrize(
    ("sharding", "why"),
    [
        ('{"w": {"saved_offsets": [0], "size": [9]}}', "3 of 9 elements"),
        ('{"w": {"saved_offsets": [7], "size": [9]}}', "beyond its size"),
        ('{"w": {"saved_offsets": [-1]}}', "does not say where"),
        ('{"w": {"saved_offsets": [0, 0]}}', "does not say where"),
        ("[" * 100_000, "does not say where"),
    ],
)
def test_what_does_not_make_whole_tensors_is_told(
    nodes: Any, tmp_path: Path, sharding: str, why: str
):
    from lattica.content.manifest.tensor_files.safetensors_header import Tensor

    trainer, other = nodes
    tensors = [Tensor("w", "F32", (3,), 0)]
    texts = [("DCP_SHARDING_INFO", sharding)]
    write_tensors(tmp_path / "a.safetensors", tensors, {"w": torch.ones(3)}, texts)
    ticket = trainer.publish(tmp_path, "odd")
    with pytest.raises(ContentError, match=why):
        reader(other, ticket).read_metadata()


def test_what_is_no_plain_value_is_not_pickled(nodes: Any, tmp_path: Path):
    with pytest.raises(dcp.api.CheckpointException) as raised:
        dcp.save({"x": Path("/")}, storage_writer=writer(nodes[0], tmp_path), no_dist=True)
    [(failure, _)] = raised.value.failures.values()
    assert isinstance(failure, LocalProtocolError)
