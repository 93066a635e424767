"""`torch.distributed.checkpoint.load` from whoever has the publication."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any, TypeAlias, TypeGuard

import torch  # type: ignore[import-not-found,unused-ignore]
import trio
from torch.distributed.checkpoint.metadata import (  # type: ignore[import-not-found,unused-ignore]
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (  # type: ignore[import-not-found,unused-ignore]
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
)
from torch.distributed.checkpoint.storage import (  # type: ignore[import-not-found,unused-ignore]
    StorageReader,
)
from torch.futures import Future  # type: ignore[import-not-found,unused-ignore]

from lattica.content.download.options import FetchOptions
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.tensor_files.safetensors_header import Tensor, TensorLayout
from lattica.content.tensors.elements import as_torch, torch_dtype
from lattica.content.tensors.placing import Placed, fresh_memory
from lattica.content.tensors.streaming import RemoteTensors
from lattica.content.tensors.targets import is_direct, memory_for
from lattica.content.ticket import Ticket
from lattica.facades.blocking import Lattica
from lattica.facades.checkpoints.values import decode_values
from lattica.facades.checkpoints.writer import SHARDING, VALUES
from lattica.nat.base.errors import LocalProtocolError

Item: TypeAlias = tuple[ReadItem, Any]
"""What is to be read, and the tensor that it is to be read into."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one stored tensor that are needed, as a tensor, and by what."""

    placed: Placed
    first: int
    items: list[Item]

    @property
    def direct(self) -> Any:
        """The tensor whose memory takes the rows as they come, if that can be."""
        item, target = self.items[0]
        tensor = self.placed.tensor
        fits = (
            len(self.items) == 1
            and tuple(item.lengths) == tensor.shape
            and tuple(target.shape) == tensor.shape
            and target.dtype == torch_dtype(tensor)
            and is_direct(target)
        )
        return target if fits else None


class LatticaReader(StorageReader):  # type: ignore[misc,unused-ignore]
    """Reads a distributed checkpoint of the mesh into the tensors of a state dict.

    Every rank has one, with a :class:`~lattica.Lattica` of its own (without `process=True`, since
    this process's memory is written to). It may be what :class:`~.writer.LatticaWriter` has
    published, or any checkpoint of safetensors files, in shards or not, and whatever number of
    ranks wrote it. Each rank fetches the rows that it needs of each tensor, and no more than the
    chunks round them, from all who have some of them; it serves nobody what it has read. A chunk
    is verified, and written to where it belongs: without a copy where a tensor lies in memory as
    it was stored. Nothing is unpickled but what this process has pickled itself.

    Args:
        lattica: fetches.
        ref: a ticket, a content id, or `PEER/NAME`; a `checkpoint_id` of `load` takes its place.
        options: as of a fetch.

    Raises what :meth:`~lattica.Lattica.load_state_dict` does.
    """

    def __init__(
        self,
        lattica: Lattica,
        ref: Ticket | Cid | str | None = None,
        *,
        options: FetchOptions | None = None,
    ) -> None:
        if lattica.process_id is not None:
            raise LocalProtocolError(
                "LatticaReader needs a Lattica() without process=True: it fetches into the memory "
                "of this process"
            )
        self._lattica = lattica
        self._ref = ref
        self._options = options
        self._opened: RemoteTensors | None = None
        self._stored: dict[MetadataIndex, Placed] = {}
        self._values: dict[str, Any] = {}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Whether it may name a publication."""
        return isinstance(checkpoint_id, str)

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """A new load; its id, if there is one, is the ticket, content id or name."""
        if checkpoint_id is not None:
            self._ref = str(checkpoint_id)
        self._opened = None

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Fetch the manifest: what there is, where it lies, and the values that are no tensors."""
        if self._ref is None:
            raise LocalProtocolError("say what to load: a ticket, a content id or PEER/NAME")
        content = self._lattica._content
        opened = self._lattica._bridge.call(
            partial(content.open_tensors, self._ref, self._options), timeout=None
        )
        self._opened, self._stored, self._values = opened, {}, {}
        tensors: dict[str, Any] = {}
        for index, file in enumerate(opened.found.manifest.files):
            if isinstance(file.layout, TensorLayout):
                self._add_file(index, file.path, file.layout, tensors)
        for name, whole in tensors.items():
            there, all_of_it = sum(math.prod(p.sizes) for p in whole.chunks), math.prod(whole.size)
            if there != all_of_it:
                raise ContentError(f"of {name!r} {there} of {all_of_it} elements were published")
        if both := tensors.keys() & self._values.keys():
            raise ContentError(f"{min(both)!r} is a tensor and a value")
        tensors.update((name, BytesStorageMetadata()) for name in self._values)
        return Metadata(tensors, storage_meta=StorageMeta())

    def _add_file(
        self, index: int, path: str, layout: TensorLayout, tensors: dict[str, Any]
    ) -> None:
        texts = dict(layout.metadata)
        places = _places(path, texts[SHARDING]) if SHARDING in texts else {}
        if VALUES in texts:
            self._values.update(decode_values(texts[VALUES]))
        for tensor in layout.tensors:
            offsets, size = _place(path, tensor, places.get(tensor.name))
            where = MetadataIndex(tensor.name, torch.Size(offsets))
            if where in self._stored:
                raise ContentError(f"{tensor.name!r} is published several times, in {path!r} again")
            self._stored[where] = Placed(index, tensor)
            part = ChunkStorageMetadata(torch.Size(offsets), torch.Size(tensor.shape))
            dtype = torch_dtype(tensor)
            # As torch writes it, it is not said: how far the parts reach.
            reach = size or tuple(o + n for o, n in zip(offsets, tensor.shape, strict=True))
            whole = tensors.setdefault(
                tensor.name,
                TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(reach), []),
            )
            if len(whole.size) != len(reach) or dtype != whole.properties.dtype:
                raise ContentError(f"the parts of {tensor.name!r} do not fit together")
            if size is not None and tuple(whole.size) != size:
                raise ContentError(f"{path!r} says another size of {tensor.name!r} than others")
            whole.size = torch.Size(max(a, b) for a, b in zip(whole.size, reach, strict=True))
            whole.chunks.append(part)

    def set_up_storage_reader(self, metadata: Metadata, *_: Any, **__: Any) -> None:
        """Nothing to do: each rank has asked for the manifest."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fetch what the plan needs; returns when all is there."""
        opened = self._opened
        if opened is None:
            raise LocalProtocolError("read_metadata comes first")
        by_tensor: dict[MetadataIndex, list[Item]] = {}
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                pickled = io.BytesIO()
                torch.save(self._values[item.storage_index.fqn], pickled)
                pickled.seek(0)
                planner.load_bytes(item, pickled)
            else:
                target = planner.resolve_tensor(item).detach()
                by_tensor.setdefault(item.storage_index, []).append((item, target))
        rows = [self._rows(index, items) for index, items in by_tensor.items()]
        rows.sort(key=lambda one: (one.placed.file, one.placed.tensor.offset))
        self._lattica._bridge.call(partial(_read, opened, rows, planner), timeout=None)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _rows(self, index: MetadataIndex, items: list[Item]) -> _Rows:
        placed = self._stored[index]
        tensor = placed.tensor
        first, shape, offset = 0, tensor.shape, tensor.offset
        if shape and tensor.length:
            first = min(item.storage_offsets[0] for item, _ in items)
            last = max(item.storage_offsets[0] + item.lengths[0] for item, _ in items)
            offset += first * (tensor.length // shape[0])
            shape = (last - first, *shape[1:])
        # The name tells it from others: of each tensor of a file there is one.
        part = Tensor(f"{placed.file}:{tensor.name}", tensor.dtype, shape, offset)
        return _Rows(Placed(placed.file, part), first, items)


async def _read(opened: RemoteTensors, rows: Sequence[_Rows], planner: LoadPlanner) -> None:
    by_name = {one.placed.tensor.name: one for one in rows}

    def destination(tensor: Tensor) -> memoryview:
        direct = by_name[tensor.name].direct
        return fresh_memory(tensor) if direct is None else memory_for(direct, tensor)

    placed = [one.placed for one in rows]
    async with aclosing(opened.stream(placed, destination)) as tensors:
        async for tensor, data in tensors:
            await trio.to_thread.run_sync(_settle, by_name[tensor.name], tensor, data, planner)


def _settle(rows: _Rows, tensor: Tensor, data: memoryview, planner: LoadPlanner) -> None:
    """The rows are here: bring them to where they belong, if they are not there."""
    if rows.direct is None:
        source = as_torch(tensor, data)
        for item, target in rows.items:
            at = [*item.storage_offsets]
            if at and tensor.length:
                at[0] -= rows.first
            part = source[tuple(slice(a, a + n) for a, n in zip(at, item.lengths, strict=True))]
            if part.shape != target.shape:
                raise LocalProtocolError(f"{tensor.name!r} is {part.shape}, not {target.shape}")
            with torch.no_grad():
                target.copy_(part)
    for item, target in rows.items:
        planner.commit_tensor(item, target)


def _places(path: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ContentError(f"{path!r} does not say where its parts of tensors lie")
    return found


def _place(path: str, tensor: Tensor, said: Any) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Where in the whole a part lies, and how large that is, as far as it is said."""
    shape = tensor.shape
    if said is None:
        return (0,) * len(shape), shape
    offsets = said.get("saved_offsets") if isinstance(said, dict) else None
    size = said.get("size") if isinstance(said, dict) else None
    fits = size is None or _are_sizes(size, len(shape))
    if not _are_sizes(offsets, len(shape)) or not fits:
        raise ContentError(f"{path!r} does not say where its part of {tensor.name!r} lies")
    ends = [offset + length for offset, length in zip(offsets, shape, strict=True)]
    if size is not None and any(end > whole for end, whole in zip(ends, size, strict=True)):
        raise ContentError(f"in {path!r} a part of {tensor.name!r} reaches beyond its size")
    return tuple(offsets), None if size is None else tuple(size)


def _are_sizes(value: Any, count: int) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(one) is int and 0 <= one < 1 << 63 for one in value)
    )
