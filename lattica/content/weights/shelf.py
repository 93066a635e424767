"""The versions of one channel that a node has on disk, and serves.

A version lies in `<sequence>/weights.safetensors`, what led to it below `<sequence>.delta`.
Removing and listing block.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from lattica.content.disk import make_directory, storage_error
from lattica.content.errors import IntegrityError, StorageError
from lattica.content.manifest.chunking import CutFile, FileState
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import encode_manifest
from lattica.content.manifest.manifest import FileEntry, Manifest
from lattica.content.manifest.tensor_files.safetensors_header import TensorLayout
from lattica.content.publish.catalog import Catalog, Publication

WEIGHTS_NAME = "weights.safetensors"
DELTA_NAME = "weights.delta"
PUBLICATION = "weights"
"""What all publications of channels are called, so that equal weights are one."""
_DELTA = ".delta"
_MOST = 8


class Shelf:
    """Directories by sequence below `top`, and what of them is served."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.catalog = Catalog()
        self._versions: dict[int, Publication] = {}
        self._deltas: dict[int, list[Publication]] = {}

    def directory(self, sequence: int) -> Path:
        """Where a version belongs."""
        return self.top / str(sequence)

    def delta_directory(self, sequence: int) -> Path:
        """Where the deltas that lead to a version belong."""
        return self.top / f"{sequence}{_DELTA}"

    def weights(self, sequence: int) -> Path:
        """The file of a version."""
        return self.directory(sequence) / WEIGHTS_NAME

    def leftovers(self) -> list[Path]:
        """What lies there of an earlier run, or of versions that did not become complete, the
        newest first.
        """
        known = {self.directory(sequence) for sequence in self._versions}
        known |= {self.delta_directory(sequence) for sequence in self._deltas}
        found = [
            path
            for path in self.top.iterdir()
            if path.is_dir() and path.name.removesuffix(_DELTA).isdecimal() and path not in known
        ]
        found.sort(key=lambda path: -int(path.name.removesuffix(_DELTA)))
        return found

    def held(self) -> dict[Cid, int]:
        """Sequences of the complete versions, by their content."""
        return {publication.cid: sequence for sequence, publication in self._versions.items()}

    def add(self, sequence: int, publication: Publication) -> None:
        """A version is complete: serve it."""
        self._versions[sequence] = publication
        self.catalog.add(publication)

    def add_delta(self, sequence: int, publication: Publication) -> None:
        """A delta that leads to a version is here: serve it."""
        self._deltas.setdefault(sequence, []).append(publication)
        self.catalog.add(publication)

    def keep(self, versions: int, deltas: int, after: int | None = None) -> list[Path]:
        """Serve no more than the newest so many, and the deltas that led to so many; what can be
        removed from the disk now.

        Up to eight versions stay that were followed by the next one after the sequence `after`.
        """
        gone: list[Path] = []
        order = sorted(self._versions, reverse=True)
        for place, sequence in enumerate(order):
            if place < versions:
                continue
            if after is not None and place < _MOST and order[place - 1] > after:
                continue
            del self._versions[sequence]
            gone.append(self.directory(sequence))
        for sequence in sorted(self._deltas, reverse=True)[deltas:]:
            del self._deltas[sequence]
            gone.append(self.delta_directory(sequence))
        kept = {publication.cid for publication in self._versions.values()}
        kept |= {publication.cid for line in self._deltas.values() for publication in line}
        for publication in list(self.catalog):
            if publication.cid not in kept:
                self.catalog.remove(publication.cid)
        return gone


@asynccontextmanager
async def open_shelf(directory: Path | None) -> AsyncIterator[Shelf]:
    """An empty shelf in a directory, which is made if necessary; None: in one that goes with it.

    Raises:
        StorageError: the disk refuses, or other users can write there.
    """
    if directory is not None:
        await trio.to_thread.run_sync(_make_own, directory)
        yield Shelf(directory)
        return
    temporary = tempfile.TemporaryDirectory(prefix="lattica-weights-")
    try:
        yield Shelf(Path(temporary.name))
    finally:
        # It may be gigabytes, for which the node's thread has no time.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(temporary.cleanup)


def _make_own(directory: Path) -> None:
    """Who can put a file there can change weights that are in use, or cut it off, and whoever has
    it mapped is killed (SIGBUS)."""
    try:
        make_directory(directory)
        status = directory.stat()
    except OSError as error:
        raise storage_error(error, directory) from None
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"other users can write into {directory}, so that no weights are kept there; choose a "
            f"directory of this user's own, such as {directory / 'weights'}"
        )


def remove(paths: list[Path]) -> None:
    """Remove directories; what somebody has mapped stays readable to him."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def weights_of(manifest: Manifest) -> tuple[FileEntry, TensorLayout]:
    """The file of a version, and its tensors.

    Raises:
        IntegrityError: the manifest is not that of a version.
    """
    match manifest.files:
        case [FileEntry(path=path, layout=TensorLayout() as layout) as entry] if (
            path == WEIGHTS_NAME
        ):
            return entry, layout
    raise IntegrityError(f"what was announced as weights is {manifest.name!r}, and no weights")


def publication_of(manifest: Manifest, directory: Path) -> Publication:
    """Files that have just been fetched and verified, to be served. Blocking."""
    encoded = encode_manifest(manifest)
    files = []
    for entry in manifest.files:
        path = directory / entry.path
        files.append(CutFile(path, FileState.of(os.stat(path)), entry.table.ends, entry.layout))
    return Publication(Cid.of(encoded), manifest, encoded, tuple(files))
