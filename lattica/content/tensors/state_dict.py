"""State dicts: published as a checkpoint, and loaded into memory that is there already."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import trio

from lattica.content.disk import replacing, storage_error
from lattica.content.download.options import FetchOptions
from lattica.content.errors import ContentError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import Manifest
from lattica.content.manifest.paths import check_component
from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.publish.server import Publisher
from lattica.content.swarm.providers import ProviderFinder
from lattica.content.tensors.elements import StateDict, form_of
from lattica.content.tensors.streaming import open_tensors
from lattica.content.tensors.targets import memory_for, settle
from lattica.content.tensors.writing import in_file_order, write_tensors
from lattica.content.ticket import Ticket
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.swarm.host import Host

MAX_SHARD = 5_000_000_000
"""Bytes of the tensors of one file, as usual on the hub; a larger tensor has a file of its own."""
_SHOWN = 3


# --- publishing ---


async def publish_state_dict(
    publisher: Publisher,
    state: StateDict,
    directory: Path | str,
    name: str = "model",
    *,
    max_shard: int = MAX_SHARD,
) -> Ticket:
    """Write a state dict into a directory as a safetensors checkpoint, and publish the directory.

    The files are named as on the Hugging Face hub: `model.safetensors`, or
    `model-00001-of-00003.safetensors` with `model.safetensors.index.json`. What else lies in the
    directory, such as `config.json`, is published with them. Tensors are arrays of numpy, dense
    tensors of torch, or :class:`RawTensor`; those on a GPU are copied one at a time. When this
    returns, the state may change: the files do not. The same state makes the same files, and of one
    that has changed only the tensors that did travel to who has the former. Written in a worker
    thread.

    Raises:
        LocalProtocolError: something in the state is no tensor, or there is none.
        StorageError: the disk refuses.
        ContentError: the directory cannot be published.
    """
    directory = Path(directory)
    try:
        check_component(name)
    except ValueError as error:
        raise LocalProtocolError(str(error)) from None
    await trio.to_thread.run_sync(_write_checkpoint, directory, name, dict(state), max_shard)
    return await publisher.publish(directory, name)


def _write_checkpoint(directory: Path, name: str, state: StateDict, max_shard: int) -> None:
    tensors = in_file_order(state)
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.length > max_shard:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.length
    names = [f"{name}.safetensors"]
    if len(shards) > 1:
        names = [
            f"{name}-{number:05}-of-{len(shards):05}.safetensors"
            for number in range(1, len(shards) + 1)
        ]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, shard in zip(names, shards, strict=True):
            with replacing(directory / file) as unfinished:
                write_tensors(unfinished, shard, state, [("format", "pt")])
        index = directory / f"{name}.safetensors.index.json"
        if len(shards) > 1:
            weights = {t.name: f for f, shard in zip(names, shards, strict=True) for t in shard}
            total = sum(tensor.length for tensor in tensors)
            fields = {"metadata": {"total_size": total}, "weight_map": weights}
            with replacing(index) as unfinished:
                unfinished.write_bytes(json.dumps(fields, indent=2).encode())
        else:
            index.unlink(missing_ok=True)
        for path in directory.glob(f"{_escaped(name)}-?????-of-?????.safetensors"):
            if path.name not in names:
                path.unlink()  # of a former state
        if len(shards) > 1:
            (directory / f"{name}.safetensors").unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, directory) from None


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


# --- loading ---


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading a state dict."""

    cid: Cid
    missing: tuple[str, ...]
    """Names of the state that the publication does not have; these stay as they were."""
    unexpected: tuple[str, ...]
    """Tensors of the publication that the state does not have; these were not fetched."""
    bytes_loaded: int


async def load_state_dict(
    node: Host,
    ref: Ticket | Cid | str,
    state: StateDict,
    *,
    strict: bool = True,
    options: FetchOptions | None = None,
    finder: ProviderFinder | None = None,
) -> Loaded:
    """Fetch a checkpoint into tensors and arrays that exist already.

    Each chunk is verified, and then written to where it belongs: there is no second copy of a
    tensor in memory, and none on disk. Only those on a GPU, or not contiguous, come by memory of
    their own, as much at a time as is under way. If it fails or is cancelled, the state has the
    tensors that had come, and the others as they were; those under way may be partly new.

    Names, types and shapes are compared before anything is fetched. With `strict`, as in torch,
    both sides have to have the same names; without it, what both have is loaded. Memory and what
    is raised besides: as :func:`~lattica.content.tensors.streaming.stream_tensors`.

    Raises:
        LocalProtocolError: a name is missing or unexpected, a type or shape is another, or what is
            to be loaded into is neither tensor nor array.
    """
    opened = await open_tensors(node, ref, options=options, finder=finder)
    there = _tensors_of(opened.found.manifest)
    missing = tuple(sorted(set(state) - set(there)))
    unexpected = tuple(sorted(set(there) - set(state)))
    if strict and (missing or unexpected):
        raise LocalProtocolError(
            f"the state dict does not fit {opened.found.manifest.name!r}: "
            f"missing {_some(missing)}; unexpected {_some(unexpected)}"
        )
    for name in state.keys() & there.keys():
        dtype, shape = form_of(name, state[name])
        tensor = there[name]
        if (dtype, shape) != (tensor.dtype, tensor.shape):
            raise LocalProtocolError(
                f"{name!r} is {tensor.dtype} of shape {tensor.shape} there, and {dtype} of "
                f"{shape} here"
            )
    wanted = [placed for placed in opened.placed() if placed.tensor.name in state]
    total = 0
    async with aclosing(opened.stream(wanted, lambda t: memory_for(state[t.name], t))) as tensors:
        async for tensor, data in tensors:
            settle(state[tensor.name], tensor, data)
            total += tensor.length
    return Loaded(opened.cid, missing, unexpected, total)


def _tensors_of(manifest: Manifest) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in manifest.files:
        for tensor in file.layout.tensors if file.layout else ():
            if tensor.name in found:
                raise ContentError(f"{manifest.name!r} has several tensors called {tensor.name!r}")
            found[tensor.name] = tensor
    return found


def _some(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return "nothing"
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN))
