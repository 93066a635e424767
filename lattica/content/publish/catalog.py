"""What this peer publishes: making publications from files, and reading chunks of them.

Nothing is copied: a publication remembers where its files are and what they looked like, and a
chunk is read from them when it is asked for. Of a file that looks otherwise since then, every
chunk is hashed again, and served if it is the same.
The catalog lives in memory.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from lattica.content.disk import NotRegularError, open_regular, read_exactly
from lattica.content.errors import ContentChangedError, ContentError
from lattica.content.events import HashCallback, HashProgress, Throttle
from lattica.content.manifest.chunking import (
    CutFile,
    FileState,
    cut_file,
    cut_plain,
    hash_files,
)
from lattica.content.manifest.cid import DIGEST_SIZE, Cid
from lattica.content.manifest.codec import encode_manifest
from lattica.content.manifest.links import check_links, goes_down_last
from lattica.content.manifest.manifest import (
    MAX_FILES,
    MAX_MODE,
    ChunkTable,
    DirectoryEntry,
    FileEntry,
    LinkEntry,
    Manifest,
)
from lattica.content.manifest.paths import RESERVED_PREFIX, check_component, check_paths
from lattica.content.manifest.signing import sign_manifest
from lattica.content.manifest.tensor_files.shards import check_index, is_index
from lattica.content.publish.served import ServedWhole
from lattica.nat.base.checks import check_type
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import Identity

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication(ServedWhole):
    """A manifest, its encoded bytes, and the files on disk in the manifest's order."""

    cid: Cid
    manifest: Manifest
    encoded: bytes = field(repr=False)
    files: tuple[CutFile, ...] = field(repr=False)

    def read_span(self, first: int, count: int) -> bytes:
        """Read chunks from disk; blocking. Arguments as checked by :meth:`check_span`.

        Raises:
            ContentChangedError: a file is not any more what was published.
            OSError: reading fails.
        """
        parts = []
        while count:
            file_index, index = self.manifest.locate(first)
            table = self.manifest.files[file_index].table
            taken = min(count, len(table) - index)
            start = table.ends[index - 1] if index else 0
            end = table.ends[index + taken - 1]
            file = self.files[file_index]
            data, unchanged = _read(file, start, end - start)
            if not unchanged and not _is_same(table, index, taken, data):
                raise _changed(file)
            parts.append(data)
            first += taken
            count -= taken
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _changed(file: CutFile) -> ContentChangedError:
    return ContentChangedError(
        f"{file.path.name} was changed after it was published; it must be published again"
    )


def _is_same(table: ChunkTable, first: int, count: int, data: bytes) -> bool:
    """Whether `data` are these chunks."""
    view = memoryview(data)
    for index in range(first, first + count):
        length = table[index].length
        if hashlib.sha256(view[:length]).digest() != table.digest(index):
            return False
        view = view[length:]
    return True


def _read(file: CutFile, offset: int, size: int) -> tuple[bytes, bool]:
    """Bytes of a file, and whether it looks as it did when it was hashed."""
    try:
        descriptor = open_regular(file.path)
    except (FileNotFoundError, NotRegularError):
        raise _changed(file) from None
    try:
        data = os.pread(descriptor, size, offset)
        if len(data) < size:  # a short read is rare, so it may cost a copy
            rest = bytearray(size - len(data))
            if not read_exactly(descriptor, memoryview(rest), offset + len(data)):
                raise _changed(file)
            data += rest
        # Looked at after reading: a change before or meanwhile shows.
        state = FileState.of(os.fstat(descriptor))
        if state.size != file.state.size:
            raise _changed(file)
    finally:
        os.close(descriptor)
    return data, state == file.state


_USUAL_FILES = {0o644, 0o664, 0o666, 0o755, 0o775, 0o777}
_USUAL_DIRECTORIES = {0o755, 0o775, 0o777}
"""Permissions that say nothing but what somebody's umask is: not part of a publication."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What is to be published: relative paths, and where it is."""

    files: list[tuple[str, Path]] = field(default_factory=list)
    links: list[LinkEntry] = field(default_factory=list)
    directories: list[DirectoryEntry] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    """Pipes and the like."""

    def __len__(self) -> int:
        return len(self.files) + len(self.links) + len(self.directories)


class _Walk:
    """Looks at a directory with all below it, in order. Links that stay inside are kept.

    With `follow_links` there are none: what they lead to is in their place.
    """

    def __init__(self, top: Path, follow_links: bool) -> None:
        self._top = top
        self._real_top = top.resolve()
        self._follow_links = follow_links
        self.found = _Found()

    def look(self, directory: Path, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        """Find what is in a directory; stops when it is too much."""
        status = directory.stat()
        key = (status.st_dev, status.st_ino)
        if key in above:
            raise ContentError(f"{directory} is a symbolic link to a directory that contains it")
        before = len(self.found)
        for path in sorted(directory.iterdir()):
            if len(self.found) > MAX_FILES:
                return
            if not prefix and path.name.startswith(RESERVED_PREFIX):
                continue  # the journal of a download that goes on or was broken off
            relative = f"{prefix}{path.name}"
            mode = path.stat().st_mode
            if path.is_symlink() and (target := self._kept_link(path)) is not None:
                self.found.links.append(LinkEntry(relative, target))
            elif stat.S_ISDIR(mode):
                self.look(path, f"{relative}/", above | {key})
            elif stat.S_ISREG(mode):
                self.found.files.append((relative, path))
            else:
                self.found.left_out.append(path)
        mode = stat.S_IMODE(status.st_mode) & MAX_MODE
        if prefix and (len(self.found) == before or mode not in _USUAL_DIRECTORIES):
            self.found.directories.append(DirectoryEntry(prefix[:-1], mode))

    def _kept_link(self, path: Path) -> str | None:
        """What a link is to lead to where this is fetched; None: it is followed.

        Raises :class:`ContentError`: it leads out of the directory.
        """
        if self._follow_links:
            return None
        target = os.readlink(path)
        leads_to = path.resolve()
        if leads_to.is_relative_to(self._real_top):
            if os.path.isabs(target) or not goes_down_last(target):
                return os.path.relpath(leads_to, path.parent.resolve())
            return target
        if _is_in_hub_cache(self._real_top, leads_to):
            return None
        raise ContentError(
            f"{path} is a symbolic link that leads out of {self._top}, to {target}; put what it "
            "leads to in its place, or have links followed (--follow-links)"
        )


def _is_in_hub_cache(top: Path, path: Path) -> bool:
    """Whether `top` is a snapshot in the cache of huggingface_hub, and `path` a file of it."""
    model = top.parent.parent
    return top.parent.name == "snapshots" and path.parent == model / "blobs"


def _find_tree(path: Path, name: str, follow_links: bool) -> _Found:
    """Everything to publish, once names and numbers are allowed."""
    try:
        check_component(name)
        if path.is_dir():
            walk = _Walk(path, follow_links)
            walk.look(path, "", frozenset())
            found = walk.found
        else:
            if path.exists() and not path.is_file():
                raise ContentError(f"{path} is neither a file nor a directory")
            path.stat()
            found = _Found([(path.name, path)])
        if len(found) > MAX_FILES:
            raise ValueError(
                f"it has more than {MAX_FILES:,} files; pack them, or publish its parts one by one"
            )
        files = [relative for relative, _ in found.files]
        named = [directory.path for directory in found.directories]
        links = {link.path: link.target for link in found.links}
        check_paths([*files, *links], named)
        check_links(links, files, named)
        if not found.files:
            raise ContentError(f"{path} contains no files to publish")
    except ValueError as error:
        if isinstance(error, LatticaError):
            raise
        raise ContentError(f"cannot publish {str(path)!r}: {error}") from None
    return found


def _name_of(path: Path, name: str | None) -> str:
    check_type("name", name or "", str, "a text")
    return name if name is not None else path.name or "root"


async def check_publishable(
    path: Path, name: str | None = None, *, follow_links: bool = False
) -> None:
    """Check what can be checked without reading the files: names, numbers, what is missing.

    Raises:
        ContentError: it cannot be published; names the file and says what to do.
    """
    path = Path(os.path.abspath(path))  # noqa: ASYNC240 - touches no disk
    try:
        await trio.to_thread.run_sync(_find_tree, path, _name_of(path, name), follow_links)
    except OSError as error:
        if isinstance(error, LatticaError):
            raise
        raise ContentError(_explain(error, path)) from None


@dataclass(frozen=True, slots=True)
class _Tree:
    """Everything to publish, not yet hashed."""

    name: str
    found: _Found
    files: list[CutFile]
    modes: list[int]

    def manifest(self, tables: list[ChunkTable]) -> Manifest:
        """Its manifest, once it is."""
        entries = tuple(
            FileEntry(
                relative,
                bool(mode & 0o111),
                table,
                file.layout,
                None if mode in _USUAL_FILES else mode,
            )
            for (relative, _), mode, file, table in zip(
                self.found.files, self.modes, self.files, tables, strict=True
            )
        )
        return Manifest(self.name, entries, tuple(self.found.links), tuple(self.found.directories))


def _cut_tree(path: Path, name: str, follow_links: bool) -> _Tree:
    """Everything to publish; blocking."""
    found = _find_tree(path, name, follow_links)
    for other in found.left_out:
        logger.warning("%s is neither a file nor a directory; left out", other)
    modes = [stat.S_IMODE(file.stat().st_mode) & MAX_MODE for _, file in found.files]
    tree = _Tree(name, found, [cut_file(file) for _, file in found.files], modes)
    # Limits of the manifest, as far as they are known before the files are read.
    encode_manifest(tree.manifest([_unhashed(file) for file in tree.files]))
    return tree


def _unhashed(file: CutFile) -> ChunkTable:
    """A table that is as long as it will be, about."""
    if file.ends is not None:
        return ChunkTable(file.ends, bytes(len(file.ends) * DIGEST_SIZE))
    lengths = cut_plain(file.state.size)
    return ChunkTable.from_chunks(lengths, bytes(len(lengths) * DIGEST_SIZE))


async def make_publication(
    path: Path,
    name: str | None = None,
    progress: HashCallback | None = None,
    *,
    follow_links: bool = False,
    sign: Identity | None = None,
) -> Publication:
    """Hash a file, or a directory with all that is below it, and make its manifest.

    Symbolic links within a directory are kept if they stay in it, and otherwise an error; with
    `follow_links` what they lead to is published in their place. Snapshots in the cache of
    huggingface_hub are followed in any case. `name` defaults to that of `path`. `sign` is who
    signs the manifest.
    Cancellation: see :func:`~lattica.content.manifest.chunking.hash_files`.

    Raises:
        ContentError: something cannot be read or published; the message says what to do.
    """
    path = Path(os.path.abspath(path))  # noqa: ASYNC240 - touches no disk
    name = _name_of(path, name)
    try:
        tree = await trio.to_thread.run_sync(_cut_tree, path, name, follow_links)
        tables = await _hash(tree.files, progress)
    except OSError as error:
        if isinstance(error, LatticaError):
            raise
        raise ContentError(_explain(error, path)) from None
    manifest = tree.manifest(tables)
    if sign is not None:
        manifest = await trio.to_thread.run_sync(sign_manifest, manifest, sign)
    encoded = await trio.to_thread.run_sync(encode_manifest, manifest)
    return Publication(Cid.of(encoded), manifest, encoded, tuple(tree.files))


def check_shards(publication: Publication) -> None:
    """See whether the shards of a checkpoint in a directory are what its index says; blocking.

    Raises :class:`ContentError` as
    :func:`~lattica.content.manifest.tensor_files.shards.check_index` does.
    """
    manifest = publication.manifest
    for entry, file in zip(manifest.files, publication.files, strict=True):
        if is_index(entry.path) and entry.path != manifest.name:
            check_index(manifest, entry.path, file.path)


async def _hash(files: list[CutFile], progress: HashCallback | None) -> list[ChunkTable]:
    total = sum(file.state.size for file in files)
    done = 0
    throttle = Throttle()

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None and (done == total or throttle.ready(trio.current_time())):
            progress(HashProgress(done, total))

    with single_error():
        return await hash_files(files, on_bytes)


def _explain(error: OSError, path: Path) -> str:
    where = error.filename or path
    if error.errno == errno.ENOENT:
        if os.path.islink(where):
            return f"{where} is a symbolic link to nothing; remove or mend it"
        return f"{where} does not exist; check the path"
    if error.errno == errno.ELOOP:
        return f"{where} is a symbolic link that leads to itself"
    return f"cannot read {where}: {error.strerror}"


class Catalog:
    """The publications of a peer, by content id."""

    def __init__(self) -> None:
        self._publications: dict[Cid, Publication] = {}

    def __iter__(self) -> Iterator[Publication]:
        return iter(self._publications.values())

    def add(self, publication: Publication) -> None:
        """Serve this from now on. The same content again replaces what was there."""
        self._publications[publication.cid] = publication

    def remove(self, cid: Cid) -> None:
        """Serve this no longer; nothing happens when it is not there."""
        self._publications.pop(cid, None)

    def get(self, cid: Cid) -> Publication | None:
        """The publication with this id."""
        return self._publications.get(cid)
