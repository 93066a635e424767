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
from itertools import islice
from pathlib import Path

import trio

from lattica.content.disk import NotRegularError, open_regular, read_exactly
from lattica.content.errors import ContentError
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
from lattica.content.manifest.lists import encode_list
from lattica.content.manifest.manifest import MAX_FILES, ChunkTable, FileEntry, Manifest
from lattica.content.manifest.paths import RESERVED_PREFIX, check_component, check_paths
from lattica.content.protocol import MAX_SPAN_BYTES
from lattica.nat.base.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.exception_groups import single_error

logger = logging.getLogger(__name__)


class ContentChangedError(ContentError):
    """A published file was written to, moved or removed since it was published."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A manifest, its encoded bytes, and the files on disk in the manifest's order."""

    cid: Cid
    manifest: Manifest
    encoded: bytes = field(repr=False)
    files: tuple[CutFile, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """As in the manifest."""
        return self.manifest.name

    @property
    def chunk_count(self) -> int:
        """How many chunks it has."""
        return self.manifest.chunk_count

    @property
    def holdings(self) -> None:
        """All chunks are here."""

    def chunk_list(self, number: int) -> bytes:
        """A list of its chunks; raises :class:`RemoteProtocolError` for one that there is not."""
        return encode_list(self.manifest, number)

    def check_span(self, first: int, count: int, offset: int = 0) -> None:
        """Check a request.

        Raises:
            RemoteProtocolError: it asks for too much.
        """
        check_span(self.manifest, first, count, offset)

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


def check_span(manifest: Manifest, first: int, count: int, offset: int) -> None:
    """Check a request for chunks of a manifest; raises :class:`RemoteProtocolError`."""
    if first + count > manifest.chunk_count:
        raise RemoteProtocolError(
            f"chunks {first} to {first + count - 1} were asked for, "
            f"of {manifest.chunk_count} that there are"
        )
    size = sum(manifest.chunk(number).length for number in range(first, first + count))
    if count > 1 and size > MAX_SPAN_BYTES:
        raise RemoteProtocolError(f"{size} bytes were asked for at once")
    if offset and offset >= size:
        raise RemoteProtocolError(f"byte {offset} of {size} was asked for")


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


def _walk(
    directory: Path, prefix: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, Path]]:
    """(relative path, path) of the files under a directory, sorted; follows symbolic links."""
    status = directory.stat()
    key = (status.st_dev, status.st_ino)
    if key in above:
        raise ContentError(f"{directory} is a symbolic link to a directory that contains it")
    for path in sorted(directory.iterdir()):
        if not prefix and path.name.startswith(RESERVED_PREFIX):
            continue  # the journal of a download that goes on or was broken off
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(path, f"{prefix}{path.name}/", above | {key})
        elif stat.S_ISREG(mode):
            yield f"{prefix}{path.name}", path
        else:
            logger.warning("%s is neither a file nor a directory; left out", path)


def _find_tree(path: Path, name: str) -> list[tuple[str, Path]]:
    """(relative path, path) of everything to publish, once names and numbers are allowed."""
    try:
        check_component(name)
        if path.is_dir():
            found = list(islice(_walk(path, "", frozenset()), MAX_FILES + 1))
        else:
            if path.exists() and not path.is_file():
                raise ContentError(f"{path} is neither a file nor a directory")
            path.stat()
            found = [(path.name, path)]
        if not found:
            raise ContentError(f"{path} contains no files to publish")
        if len(found) > MAX_FILES:
            raise ValueError(
                f"it has more than {MAX_FILES:,} files; pack them, or publish its parts one by one"
            )
        check_paths(relative for relative, _ in found)
    except ValueError as error:
        if isinstance(error, LatticaError):
            raise
        raise ContentError(f"cannot publish {str(path)!r}: {error}") from None
    return found


def _name_of(path: Path, name: str | None) -> str:
    return name if name is not None else path.name or "root"


async def check_publishable(path: Path, name: str | None = None) -> None:
    """Check what can be checked without reading the files: names, numbers, what is missing.

    Raises:
        ContentError: it cannot be published; names the file and says what to do.
    """
    path = Path(os.path.abspath(path))  # noqa: ASYNC240 - touches no disk
    try:
        await trio.to_thread.run_sync(_find_tree, path, _name_of(path, name))
    except OSError as error:
        if isinstance(error, LatticaError):
            raise
        raise ContentError(_explain(error, path)) from None


def _cut_tree(path: Path, name: str) -> list[tuple[str, bool, CutFile]]:
    """(relative path, executable, file) of everything to publish; blocking."""
    found = _find_tree(path, name)
    tree = [(relative, os.access(file, os.X_OK), cut_file(file)) for relative, file in found]
    # Limits of the manifest, as far as they are known before the files are read.
    encode_manifest(_manifest(name, tree, [_unhashed(file) for *_, file in tree]))
    return tree


def _unhashed(file: CutFile) -> ChunkTable:
    """A table that is as long as it will be, about."""
    if file.ends is not None:
        return ChunkTable(file.ends, bytes(len(file.ends) * DIGEST_SIZE))
    lengths = cut_plain(file.state.size)
    return ChunkTable.from_chunks(lengths, bytes(len(lengths) * DIGEST_SIZE))


def _manifest(
    name: str, tree: list[tuple[str, bool, CutFile]], tables: list[ChunkTable]
) -> Manifest:
    entries = tuple(
        FileEntry(relative, executable, table, file.layout)
        for (relative, executable, file), table in zip(tree, tables, strict=True)
    )
    return Manifest(name, entries)


async def make_publication(
    path: Path, name: str | None = None, progress: HashCallback | None = None
) -> Publication:
    """Hash a file, or a directory with all that is below it, and make its manifest.

    Symbolic links are followed; empty directories are left out. `name` defaults to that of `path`.
    Cancellation: see :func:`~lattica.content.manifest.chunking.hash_files`.

    Raises:
        ContentError: something cannot be read or published; the message says what to do.
    """
    path = Path(os.path.abspath(path))  # noqa: ASYNC240 - touches no disk
    name = _name_of(path, name)
    try:
        tree = await trio.to_thread.run_sync(_cut_tree, path, name)
        files = [file for _, _, file in tree]
        tables = await _hash(files, progress)
    except OSError as error:
        if isinstance(error, LatticaError):
            raise
        raise ContentError(_explain(error, path)) from None
    manifest = _manifest(name, tree, tables)
    encoded = await trio.to_thread.run_sync(encode_manifest, manifest)
    return Publication(Cid.of(encoded), manifest, encoded, tuple(files))


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
