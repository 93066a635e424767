"""The repositories of some publishers: which revision is meant, and the bytes of its files."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from lattica.content.download.finding import FoundManifest, find_manifest
from lattica.content.download.local.files import LocalChunk
from lattica.content.download.mirror import Mirror
from lattica.content.download.options import FetchOptions
from lattica.content.download.providers.contact import Contact
from lattica.content.errors import (
    ContentError,
    ContentNotFoundError,
    IntegrityError,
    NameNotFoundError,
)
from lattica.content.hub.published_here import PublishedHere
from lattica.content.hub.remembered import RememberedNames, keep_small, read_small
from lattica.content.hub.repository import (
    MAX_DESCRIPTION,
    Description,
    RepositoryFile,
    RevisionRef,
    decode_description,
)
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest
from lattica.content.manifest.lists import all_lists, split_lists, with_lists
from lattica.content.manifest.manifest import Manifest
from lattica.content.names.record import NameRecord, NameRef
from lattica.content.names.resolver import NameResolver
from lattica.content.publish.service import served_here
from lattica.content.swarm.dht_finder import dht_finder
from lattica.content.swarm.messages import Member
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.in_process import InProcess
from lattica.nat.base.keys.identity import PeerId

if TYPE_CHECKING:
    from lattica.node import Node

logger = logging.getLogger(__name__)

_FRESH = 10.0
"""Seconds for which a revision is what it was when its publisher was last asked."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DESCRIPTION = "description"
_LOOKED_AT = 16
"""Publications that were read last, in which chunks of another one are looked for."""


class UnknownRepositoryError(ContentNotFoundError):
    """None of the publishers has the repository."""


class UnknownRevisionError(ContentNotFoundError):
    """The repository is there, and has no such revision."""


@dataclass(frozen=True, slots=True)
class Revision:
    """What a revision is, and who says so."""

    publisher: PeerId
    description: Description


class Library(InProcess):
    """Repositories that some publishers have, for whoever reads them: `async with Library(…)`.

    Only these peers say what a repository consists of; the bytes come from whoever has them, and
    every one is compared with its hash. What was read is kept in a directory, served to other peers
    as long as the library is open, and there when it is opened again.

    Args:
        directory: for this library alone; made if necessary.
    """

    def __init__(
        self,
        node: Node,
        publishers: Sequence[Member],
        directory: Path,
        options: FetchOptions | None = None,
    ) -> None:
        self._node = node
        self._publishers = {member.peer_id: member for member in publishers}
        self._directory = directory
        self._options = options or FetchOptions()
        self._resolver = NameResolver(node)
        self._finder = dht_finder(node)
        self._locks: defaultdict[Hashable, trio.Lock] = defaultdict(trio.Lock)
        self._mirrors: dict[Cid, Mirror] = {}
        self._own: dict[Cid, PublishedHere] = {}
        self._revisions: dict[RevisionRef, tuple[float, Revision]] = {}
        """With the time when the publisher was asked."""
        self._commits: dict[RevisionRef, Revision] = {}
        self._remembered = RememberedNames(directory / "names.json")
        self._nursery: trio.Nursery
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Library:
        await trio.to_thread.run_sync(self._remembered.load)
        async with AsyncExitStack() as stack:
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(self._nursery.cancel_scope.cancel)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit.__aexit__(exc_type, exc, traceback)

    # --- what there is ---

    async def find(self, ref: RevisionRef) -> Revision:
        """What a revision is: a name that its publisher is asked for anew after ten seconds, or a
        commit.

        Where no publisher can be asked, it is what was known before.

        Raises:
            UnknownRepositoryError: all publishers say that they do not have the repository.
            UnknownRevisionError: they do not have this revision of it.
            ContentError: nobody can be asked.
        """
        async with self._locks[ref]:
            known = self._commits.get(ref)
            if known is not None:
                return known
            asked = self._revisions.get(ref)
            if asked is not None and trio.current_time() - asked[0] < _FRESH:
                return asked[1]
            record = await self._resolve(ref)
            revision = Revision(record.owner, await self._describe(record))
            self._revisions[ref] = trio.current_time(), revision
            self._commits[RevisionRef(ref.repository, revision.description.commit)] = revision
            if _COMMIT.fullmatch(ref.revision) and ref.revision != revision.description.commit:
                raise IntegrityError(
                    f"peer {record.owner} says that the commit {ref.revision} of {ref.repository} "
                    f"is what is {revision.description.commit}"
                )
            return revision

    async def _resolve(self, ref: RevisionRef) -> NameRecord:
        failed: LatticaError | None = None
        for peer, member in self._publishers.items():
            name = NameRef(peer, ref.name, member.addrs)
            remembered = self._remembered.get(name)
            try:
                record = await self._resolver.resolve(name)
            except NameNotFoundError as error:
                if not error.is_denied:
                    failed = error
                    if remembered is not None:
                        logger.warning("%s is what it was: %s", ref, error)
                        return remembered
                continue
            if remembered is not None and remembered.sequence > record.sequence:
                return remembered
            await trio.to_thread.run_sync(self._remembered.put, record)
            return record
        if failed is not None:
            raise failed
        for peer, member in self._publishers.items():
            try:
                await self._resolver.resolve(NameRef(peer, ref.repository_name, member.addrs))
            except NameNotFoundError:
                continue
            raise UnknownRevisionError(f"{ref.repository} has no revision {ref.revision!r}")
        raise UnknownRepositoryError(f"none of the publishers has {ref.repository}")

    async def _describe(self, record: NameRecord) -> Description:
        cid = record.target.description
        if cid is None:
            raise ContentError(f"the name {record.name!r} of {record.owner} is no repository's")
        mirror = await self._open(cid, record.owner)
        size = mirror.size(_DESCRIPTION)
        if size > MAX_DESCRIPTION:
            raise IntegrityError(f"peer {record.owner} has described {record.name} in {size} bytes")
        data = bytearray()
        async with aclosing(mirror.read(_DESCRIPTION, 0, size)) as parts:
            async for part in parts:
                data += part
        description = await trio.to_thread.run_sync(decode_description, bytes(data))
        if description.cid != record.target.cid:
            raise IntegrityError(f"{record.owner} has described other content as {record.name}")
        return description

    # --- bytes ---

    async def read(
        self, revision: Revision, file: RepositoryFile, start: int, end: int
    ) -> AsyncGenerator[memoryview, None]:
        """Bytes of a file of a revision; see :meth:`Mirror.read`."""
        while True:
            source = await self._open(revision.description.cid, revision.publisher)
            size = source.size(file.path)
            if size != file.size:
                raise IntegrityError(
                    f"peer {revision.publisher} has described {file.path!r} as {file.size} bytes "
                    f"long, and it has {size}"
                )
            try:
                async with aclosing(source.read(file.path, start, end)) as parts:
                    async for part in parts:
                        yield part
                        start += len(part)
                return
            except ContentError as error:
                if isinstance(source, Mirror):
                    raise
                logger.warning("%s is fetched from others: %s", file.path, error)

    async def _open(self, cid: Cid, publisher: PeerId) -> Mirror | PublishedHere:
        async with self._locks[cid]:
            own = await self._published_here(cid)
            if own is not None and own.failure is None:
                return own
            mirror = self._mirrors.get(cid)
            if mirror is None or mirror.failure is not None:
                found = await self._manifest(cid, publisher)
                elsewhere = await trio.to_thread.run_sync(
                    _find_kept, self._directory, cid, found.manifest
                )
                mirror = Mirror(
                    self._node,
                    cid,
                    found.manifest,
                    found.encoded,
                    self._directory / "content" / str(cid),
                    found.contacts,
                    self._options,
                    self._finder,
                    elsewhere,
                )
                if cid not in self._mirrors and self._finder is not None:
                    self._nursery.start_soon(self._finder.provide, cid)
                self._mirrors[cid] = mirror
                self._nursery.start_soon(mirror.run)
            return mirror

    async def _published_here(self, cid: Cid) -> PublishedHere | None:
        served = served_here(self._node, cid)
        if served is None:
            return None
        own = self._own.get(cid)
        if own is None or own.served is not served:
            own = await trio.to_thread.run_sync(PublishedHere, served)
            self._own[cid] = own
        return own

    async def _manifest(self, cid: Cid, publisher: PeerId) -> FoundManifest:
        named = [self._publishers[publisher]] if publisher != self._node.peer_id else []
        kept = await trio.to_thread.run_sync(_kept_manifest, self._directory, str(cid))
        if kept is not None:
            contacts = (Contact(self._node, each.peer_id, each.addrs) for each in named)
            return FoundManifest(*kept, tuple(contacts))
        found = await find_manifest(
            self._node, cid, named, options=self._options, finder=self._finder
        )
        await trio.to_thread.run_sync(_keep_manifest, self._directory, cid, found)
        return found


def _keep_manifest(directory: Path, cid: Cid, found: FoundManifest) -> None:
    lists = b"".join(all_lists(found.manifest))
    if lists:
        keep_small(directory / "lists" / str(cid), lists)
    keep_small(directory / "manifests" / str(cid), found.encoded)


def _kept_manifest(directory: Path, name: str) -> tuple[Manifest, bytes] | None:
    """A manifest with all its lists of chunks, and its bytes; None where that is not here."""
    encoded = read_small(directory / "manifests" / name)
    if encoded is None or str(Cid.of(encoded)) != name:
        return None
    try:
        manifest = decode_manifest(encoded)
        wanted = manifest.list_count
        if wanted:
            lists = split_lists(manifest, read_small(directory / "lists" / name) or b"")
            if len(lists) != wanted:
                return None
            manifest = with_lists(manifest, lists)
    except LatticaError:
        return None  # of an earlier version of this program, for one
    return manifest, encoded


def _find_kept(directory: Path, cid: Cid, manifest: Manifest) -> dict[bytes, LocalChunk]:
    """Where chunks of a publication lie that were read of others: of a former revision, for
    instance. Blocking."""
    wanted = {chunk.digest for file in manifest.files for chunk in file.chunks}
    found: dict[bytes, LocalChunk] = {}
    try:
        kept = sorted((directory / "manifests").iterdir(), key=lambda path: -path.stat().st_mtime)
    except OSError:
        return found
    for path in [path for path in kept if path.name != str(cid)][:_LOOKED_AT]:
        other = _kept_manifest(directory, path.name)
        if other is None:
            continue  # not of ours, or removed meanwhile
        for file in other[0].files:
            where = directory / "content" / path.name / file.path
            if where.is_file():
                for chunk in file.chunks:
                    if chunk.digest in wanted:
                        local = LocalChunk(where, chunk.offset, chunk.length)
                        found.setdefault(chunk.digest, local)
    return found
