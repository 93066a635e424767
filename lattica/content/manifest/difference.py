"""What is new in a publication, beside an older one: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lattica.content.manifest.manifest import FileEntry, Manifest
from lattica.content.manifest.tensor_files.safetensors_header import Tensor


@dataclass(frozen=True, slots=True)
class Changes:
    """Names that only one of the two has, or that mean other bytes in each; sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """What it takes to get from one publication to another."""

    files: Changes
    tensors: Changes
    """By name, in whatever file they are. Tensors below 64 KiB share chunks with their neighbours:
    they count as changed with these, and where the neighbours are others."""
    bytes_total: int
    """Of the new one."""
    bytes_to_fetch: int
    """In chunks that the old one has not: what would travel to who has the old one."""


def compare(old: Manifest, new: Manifest) -> Difference:
    """Compare two manifests; nothing of their files is read."""
    known = {digest for file in old.files for digest in _digests(file)}
    fetched: set[bytes] = set()
    size = 0
    for file in new.files:
        for chunk in file.chunks:
            if chunk.digest not in known and chunk.digest not in fetched:
                fetched.add(chunk.digest)
                size += chunk.length
    return Difference(
        _changes(dict(_files(old)), dict(_files(new))),
        _changes(dict(_tensors(old)), dict(_tensors(new))),
        new.size,
        size,
    )


def _changes(old: dict[str, object], new: dict[str, object]) -> Changes:
    return Changes(
        tuple(sorted(new.keys() - old.keys())),
        tuple(sorted(old.keys() - new.keys())),
        tuple(sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
    )


def _digests(file: FileEntry) -> Iterator[bytes]:
    return (file.chunks.digest(index) for index in range(len(file.chunks)))


def _files(manifest: Manifest) -> Iterator[tuple[str, object]]:
    for file in manifest.files:
        yield file.path, (file.executable, file.mode, file.table.ends, file.table.digests)
    for link in manifest.links:
        yield link.path, link.target


def _tensors(manifest: Manifest) -> Iterator[tuple[str, object]]:
    for file in manifest.files:
        if file.layout is not None:
            for tensor in file.layout.tensors:
                yield tensor.name, _identity(file, tensor)


def _identity(file: FileEntry, tensor: Tensor) -> object:
    """What is the same exactly if the tensor is, or (of small ones) only if it is."""
    if not tensor.length:
        return tensor.dtype, tensor.shape
    first = file.chunks.index_at(tensor.offset)
    last = file.chunks.index_at(tensor.offset + tensor.length - 1)
    within = tensor.offset - file.chunks[first].offset
    digests = tuple(file.chunks.digest(index) for index in range(first, last + 1))
    return tensor.dtype, tensor.shape, within, digests
