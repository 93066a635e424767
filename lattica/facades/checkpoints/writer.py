"""`torch.distributed.checkpoint.save` that ends with a publication."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch.distributed.checkpoint.planner import (  # type: ignore[import-not-found,unused-ignore]
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import (  # type: ignore[import-not-found,unused-ignore]
    StorageWriter,
    WriteResult,
)
from torch.futures import Future  # type: ignore[import-not-found,unused-ignore]

from lattica.content.disk import replacing, storage_error
from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.tensors.elements import safetensors_dtype
from lattica.content.tensors.writing import file_order, write_tensors
from lattica.content.ticket import Ticket
from lattica.facades.blocking import Lattica
from lattica.facades.checkpoints.values import encode_values
from lattica.nat.base.errors import LocalProtocolError

SHARDING = "DCP_SHARDING_INFO"
"""Key of a file's metadata under which torch's own writer of safetensors says where in the whole
tensors its parts lie; here with the sizes of the whole ones."""
VALUES = "LATTICA_DCP_VALUES"
"""Key under which the values are that are no tensors."""


class LatticaWriter(StorageWriter):  # type: ignore[misc,unused-ignore]
    """Writes a distributed checkpoint as safetensors files, one a rank, and publishes them.

    Every rank has one, with the same directory, which all can write to. The coordinator's has the
    :class:`~lattica.Lattica` that publishes when all have written; others may have None. Then
    :attr:`ticket` is there. Parts of tensors are named as torch's own writer of safetensors files
    names them, so that its `HuggingFaceStorageReader` reads the directory; a checkpoint of one rank
    is an ordinary `model.safetensors`. What is no tensor is written as
    :mod:`~lattica.facades.checkpoints.values` says, never pickled.

    Args:
        lattica: publishes; serves it until it is closed.
        directory: for the files. Those of a former checkpoint of the name are replaced.
        name: of the publication, and of the files.
        sign: as in :meth:`~lattica.Lattica.publish`.

    Raises :class:`~lattica.errors.LocalProtocolError` for what cannot be written, and
    :class:`~lattica.errors.StorageError`.
    """

    def __init__(
        self,
        lattica: Lattica | None,
        directory: Path | str,
        name: str = "model",
        *,
        sign: bool = False,
    ) -> None:
        self._lattica = lattica
        self._directory = Path(directory)
        self._name = name
        self._sign = sign
        self.ticket: Ticket | None = None
        """Of what was published last, at the coordinator."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Whether it may be a directory's name."""
        return "\0" not in str(checkpoint_id)

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """A new checkpoint; its id, if there is one, is the directory to write to."""
        self.ticket = None
        if checkpoint_id is not None:
            self._directory = Path(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """Raises :class:`~lattica.errors.LocalProtocolError`: it could not publish."""
        if is_coordinator and self._lattica is None:
            raise LocalProtocolError("the coordinator's LatticaWriter needs a Lattica to publish")

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Make the directory."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self._directory) from None
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Give each rank its number."""
        return [replace(plan, storage_data=(n, len(plans))) for n, plan in enumerate(plans, 1)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files; one tensor at a time is copied, where it has to be."""
        values: dict[str, Any] = {}
        files: list[dict[str, WriteItem]] = [{}]
        for item in plan.items:
            name = item.index.fqn
            if item.type == WriteItemType.BYTE_IO:
                values[name] = _value(name, planner.resolve_data(item))
                continue
            # A file has each name once: of several parts of one tensor each is in another.
            at = next((n for n, file in enumerate(files) if name not in file), len(files))
            files += [{}] * (at == len(files))
            files[at][name] = item
        number, ranks = plan.storage_data
        results = []
        for at, items in enumerate(files if plan.items else ()):
            path = self._directory / self._file(number, ranks, at, len(files))
            _write(path, items, values if at == 0 else {}, planner)
            results += [
                WriteResult(item.index, torch.Size(item.tensor_data.chunk.sizes).numel(), path.name)
                for item in items.values()
                if item.tensor_data is not None
            ]
            if at == 0:
                results += [
                    WriteResult(item.index, 0, path.name)
                    for item in plan.items
                    if item.type == WriteItemType.BYTE_IO
                ]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def _file(self, number: int, ranks: int, at: int, count: int) -> str:
        if ranks == count == 1:
            return f"{self._name}.safetensors"
        part = f"-{at + 1:05}" if at else ""
        return f"{self._name}-shard-{number:05}-of-{ranks:05}{part}.safetensors"

    def finish(self, metadata: Any, results: Sequence[Sequence[WriteResult]]) -> None:
        """Remove files of a former checkpoint, and publish the directory."""
        assert self._lattica is not None, "set_up_storage_writer has looked"
        written = {result.storage_data for rank in results for result in rank}
        try:
            for path in self._directory.iterdir():
                is_shard = path.name.startswith(f"{self._name}-shard-")
                is_ours = is_shard and path.name.endswith(".safetensors")
                is_whole = path.name == f"{self._name}.safetensors"
                if (is_ours or is_whole) and path.name not in written:
                    path.unlink()
        except OSError as error:
            raise storage_error(error, self._directory) from None
        self.ticket = self._lattica.publish(self._directory, self._name, sign=self._sign)


def _value(name: str, pickled: Any) -> Any:
    try:
        # Our own bytes: the planner has made them just now.
        pickled.seek(0)
        return torch.load(pickled, weights_only=True)
    except Exception as error:
        why = f"{error!r:.200}"
        raise LocalProtocolError(f"{name!r} is no tensor, and no plain value: {why}") from None


def _write(
    path: Path, items: Mapping[str, WriteItem], values: Mapping[str, Any], planner: SavePlanner
) -> None:
    tensors = []
    places = {}
    for name, item in items.items():
        data = item.tensor_data
        assert data is not None, "every item but values has it"
        dtype = safetensors_dtype(name, str(data.properties.dtype))
        tensors.append(Tensor(name, dtype, tuple(data.chunk.sizes), 0))
        places[name] = {"saved_offsets": [*data.chunk.offsets], "size": [*data.size]}
    tensors.sort(key=file_order)
    texts = [("format", "pt"), (SHARDING, json.dumps(places, separators=(",", ":")))]
    if values:
        texts.append((VALUES, encode_values(values)))
    try:
        with replacing(path) as unfinished:
            write_tensors(unfinished, tensors, _Resolved(items, planner), texts)
    except OSError as error:
        raise storage_error(error, path) from None


class _Resolved(Mapping[str, Any]):
    """The tensors of some items, each made when it is asked for: it may be a copy."""

    def __init__(self, items: Mapping[str, WriteItem], planner: SavePlanner) -> None:
        self._items = items
        self._planner = planner

    def __getitem__(self, name: str) -> Any:
        return self._planner.resolve_data(self._items[name]).detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
