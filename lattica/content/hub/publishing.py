"""Publishing a directory as a revision of a repository."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from lattica.content.disk import open_regular
from lattica.content.errors import ContentError
from lattica.content.hub.repository import (
    Description,
    RepositoryFile,
    RevisionRef,
    commit_of,
    encode_description,
)
from lattica.content.manifest.chunking import HASH_THREADS, CutFile, FileState
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import encode_manifest
from lattica.content.manifest.lists import encode_list
from lattica.content.manifest.manifest import ChunkTable, FileEntry, Manifest
from lattica.content.names.record import NameTarget
from lattica.content.names.service import Names
from lattica.content.protocol import MAX_SPAN_BYTES
from lattica.content.publish.catalog import ContentChangedError, Publication, check_span
from lattica.content.publish.service import serving
from lattica.nat.base.exception_groups import single_error
from lattica.nat.swarm.host import Host

_INDEX = ".safetensors.index.json"
_MAX_INDEX = 64 * 1024 * 1024


class InMemory:
    """One small file that is served from memory; see
    :class:`~lattica.content.publish.served.Served`."""

    holdings = None

    def __init__(self, name: str, data: bytes) -> None:
        starts = range(0, len(data), MAX_SPAN_BYTES)
        self._parts = [data[start : start + MAX_SPAN_BYTES] for start in starts]
        digests = b"".join(hashlib.sha256(part).digest() for part in self._parts)
        table = ChunkTable.from_chunks(map(len, self._parts), digests)
        self._manifest = Manifest(name, (FileEntry(name, False, table),))
        self.name = name
        self.encoded = encode_manifest(self._manifest)
        self.cid = Cid.of(self.encoded)
        self.chunk_count = len(self._parts)

    def chunk_list(self, number: int) -> bytes:
        """As for :class:`~lattica.content.publish.served.Served`."""
        return encode_list(self._manifest, number)

    def check_span(self, first: int, count: int, offset: int = 0) -> None:
        """Raise :class:`~lattica.errors.RemoteProtocolError` for a request that asks too much."""
        check_span(self._manifest, first, count, offset)

    def read_span(self, first: int, count: int) -> bytes:
        """The chunks."""
        return b"".join(self._parts[first : first + count])


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision that can be published: its names and its description."""

    ref: RevisionRef
    publication: Publication
    description: InMemory

    @contextmanager
    def published(self, node: Host, names: Names) -> Iterator[None]:
        """Serve the description, and give the revision its names."""
        with serving(node, {self.description.cid: self.description}.get):
            self._name(names)
            yield

    def _name(self, names: Names) -> None:
        target = NameTarget(self.publication.cid, self.description.cid)
        commit = RevisionRef(self.ref.repository, commit_of(self.publication.cid))
        for name in dict.fromkeys((self.ref.name, commit.name, self.ref.repository_name)):
            names.publish(name, target)


async def describe_revision(ref: RevisionRef, publication: Publication) -> Revision:
    """Hash the files of a publication whole, several at once, and describe them.

    Raises:
        ContentError: a file has changed meanwhile, or cannot be read, or the index of a sharded
            checkpoint names a file or tensor that is not there.
    """
    await trio.to_thread.run_sync(check_shards, publication)
    entries = publication.manifest.files
    digests = [b""] * len(entries)
    left = iter(enumerate(zip(entries, publication.files, strict=True)))
    limiter = trio.CapacityLimiter(HASH_THREADS)

    async def work() -> None:
        for index, (entry, file) in left:
            if len(entry.chunks) == 1:
                digests[index] = entry.chunks.digest(0)
            else:
                digests[index] = await trio.to_thread.run_sync(_hash, file, limiter=limiter)

    with single_error():
        async with trio.open_nursery() as nursery:
            for _ in range(HASH_THREADS):
                nursery.start_soon(work)
    files = (
        RepositoryFile(entry.path, entry.size, digest)
        for entry, digest in zip(entries, digests, strict=True)
    )
    description = encode_description(Description(publication.cid, tuple(files)))
    return Revision(ref, publication, InMemory("description", description))


def _hash(file: CutFile) -> bytes:
    try:
        with os.fdopen(open_regular(file.path), "rb", buffering=0) as opened:
            digest = hashlib.file_digest(opened, "sha256").digest()
            state = FileState.of(os.fstat(opened.fileno()))
    except OSError as error:
        raise ContentError(f"cannot read {file.path}: {error.strerror}") from None
    if state != file.state:
        raise ContentChangedError(f"{file.path} was changed while it was published; try again")
    return digest


def check_shards(publication: Publication) -> None:
    """See whether the shards of a checkpoint are what its index says; blocking.

    Raises:
        ContentError: an index (`*.safetensors.index.json`) names a file that is not published, or
            a tensor that is not in its file, or is no such index.
    """
    tensors = {
        file.path: None if file.layout is None else {t.name for t in file.layout.tensors}
        for file in publication.manifest.files
    }
    for entry, file in zip(publication.manifest.files, publication.files, strict=True):
        if not entry.path.endswith(_INDEX):
            continue
        above = entry.path.rpartition("/")[0]
        for tensor, shard in _read_index(file.path, entry.path).items():
            path = f"{above}/{shard}" if above else shard
            if path not in tensors:
                raise ContentError(
                    f"{entry.path} names the shard {shard!r}, which is not there; finish the "
                    "download, or remove the index"
                )
            known = tensors[path]
            if known is not None and tensor not in known:
                raise ContentError(
                    f"{entry.path} says that {tensor!r} is in {shard!r}, which does not have it"
                )


def _read_index(path: Path, shown: str) -> dict[str, str]:
    """Shards by tensor."""
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise ContentError(f"{shown} has more than {_MAX_INDEX} bytes")
        weights = json.loads(path.read_bytes())["weight_map"]
        if isinstance(weights, dict) and all(isinstance(shard, str) for shard in weights.values()):
            return weights
    except OSError as error:
        raise ContentError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ContentError(f"{shown} is no index of a sharded checkpoint: it has no weight_map")
