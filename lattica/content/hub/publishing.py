"""Publishing a directory as a revision of a repository."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from lattica.content.disk import open_regular
from lattica.content.errors import ContentChangedError, ContentError
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
from lattica.content.manifest.manifest import ChunkTable, FileEntry, Manifest
from lattica.content.names.record import NameTarget
from lattica.content.names.service import Names
from lattica.content.protocol import MAX_SPAN_BYTES
from lattica.content.publish.catalog import Publication, check_shards
from lattica.content.publish.served import ServedWhole
from lattica.content.publish.service import serving
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.swarm.host import Host


class InMemory(ServedWhole):
    """One small file that is served from memory; see
    :class:`~lattica.content.publish.served.Served`."""

    def __init__(self, name: str, data: bytes) -> None:
        starts = range(0, len(data), MAX_SPAN_BYTES)
        self._parts = [data[start : start + MAX_SPAN_BYTES] for start in starts]
        digests = b"".join(hashlib.sha256(part).digest() for part in self._parts)
        table = ChunkTable.from_chunks(map(len, self._parts), digests)
        self.manifest = Manifest(name, (FileEntry(name, False, table),))
        self.encoded = encode_manifest(self.manifest)
        self.cid = Cid.of(self.encoded)

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
            self.give_names(names)
            yield

    def give_names(self, names: Names) -> None:
        """Have its names lead to it."""
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
