"""A store: blocks by their hash, and publications made of them or of files that lie elsewhere.

In a directory of its own::

    index.sqlite         what there is (:mod:`~lattica.content.store.index`)
    blocks/ab/abcd…      one block each, named by its SHA-256; manifests are blocks, too
    readers/abcd…        a file for each that somebody reads, locked by whoever does
    lock                 shared by those who add, and of one who collects alone

A block's file has its name only when it is whole and synced, before its row is written; its row is
deleted before its file. So whenever the process is killed, what is found is right, and what is left
over is taken away by the next collection. Locks are the kernel's, and end with a process. Every
block is hashed again when it is read. Blocking; for any number of threads and processes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

from lattica.content.disk import format_bytes, open_regular, read_exactly, storage_error
from lattica.content.errors import ContentError, ContentNotFoundError, StorageError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest
from lattica.content.manifest.lists import all_lists, lists_in, with_lists
from lattica.content.manifest.manifest import MAX_MANIFEST_BYTES, Manifest
from lattica.content.publish.catalog import Publication
from lattica.content.publish.served import NotHereError, ServedWhole
from lattica.content.store.index import Index, StoredPublication

_UNFINISHED = ".new-"


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection has removed, or would."""

    publications: tuple[StoredPublication, ...]
    blocks: int
    bytes_freed: int
    in_use: int
    """Publications that were to go, and stay because somebody reads them."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at everything has found."""

    blocks: int
    damaged: tuple[Cid, ...]
    """Blocks whose bytes are wrong, or gone."""
    publications: tuple[Cid, ...]
    """Publications that cannot be served whole."""


class ContentStore:
    """A store in a directory, which is made if necessary. Close it, or use it as `with`.

    Args:
        quota: bytes of blocks at most; what was used longest ago goes first, and never what is
            pinned, tagged or read. Files by reference do not count.
        clock: seconds since 1970.

    Raises :class:`~lattica.errors.StorageError` in all methods when the disk refuses.
    """

    def __init__(
        self,
        directory: Path,
        quota: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._quota = quota
        self._clock = clock
        self._mutex = threading.RLock()
        with self._errors():
            for name in ("blocks", "readers"):
                (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._index = Index(directory / "index.sqlite")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index."""
        self._index.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            raise storage_error(error, self._directory) from None
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"the store in {self._directory} cannot be used: {error}") from None

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        """The lock of the whole store: shared to add, alone to collect."""
        with self._mutex, self._errors():
            descriptor = os.open(
                self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(descriptor, mode)
                yield
            finally:
                os.close(descriptor)

    # --- blocks ---

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._directory / "blocks" / name[:2] / name

    def put(self, block: bytes | memoryview) -> Cid:
        """Keep a block, until the next collection unless it is pinned."""
        with self._locked(fcntl.LOCK_SH):
            cid = Cid.of(block)
            self._write(cid.digest, block)
            with self._index.transaction():
                self._index.add_block(cid.digest, len(block), self._clock())
        return cid

    def _write(self, digest: bytes, block: bytes | memoryview) -> None:
        path = self._path(digest)
        if self._read(digest) is not None:
            return
        path.parent.mkdir(exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise

    def _read(self, digest: bytes) -> bytes | None:
        try:
            block = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        return block if hashlib.sha256(block).digest() == digest else None

    def get_block(self, cid: Cid) -> bytes | None:
        """A block, if it is here and right. With :meth:`has_block`, it is a source for Bitswap."""
        with self._errors():
            return self._read(cid.digest)

    def has_block(self, cid: Cid) -> bool:
        """Whether there is a file of that block."""
        return self._path(cid.digest).is_file()

    # --- publications ---

    def add(self, publication: Publication, *, copy: bool = True) -> StoredPublication:
        """Keep a publication: its bytes, or with `copy=False` only where its files are.

        Raises:
            ContentError: a file is not any more what was published.
            StorageError: the quota is used up by what may not go.
        """
        manifest = publication.manifest
        if self._quota is not None:
            sizes = {
                chunk.digest: chunk.length
                for file in (manifest.files if copy else ())
                for chunk in file.chunks
            }
            for block in chain(all_lists(manifest), [publication.encoded]):
                sizes[hashlib.sha256(block).digest()] = len(block)
            missing = (size for digest, size in sizes.items() if not self.has_block(Cid(digest)))
            self._make_room(self._quota, sum(missing))
        with self._locked(fcntl.LOCK_SH):
            now = self._clock()
            added: dict[bytes, int] = {}
            for number in range(manifest.chunk_count if copy else 0):
                chunk = manifest.chunk(number)
                if chunk.digest not in added:
                    self._write(chunk.digest, publication.read_span(number, 1))
                    added[chunk.digest] = chunk.length
            for block in chain(all_lists(manifest), [publication.encoded]):
                digest = hashlib.sha256(block).digest()
                self._write(digest, block)
                added[digest] = len(block)
            references = [] if copy else [file.path for file in publication.files]
            with self._index.transaction():
                for digest, size in added.items():
                    self._index.add_block(digest, size, now)
                self._index.add_publication(
                    publication.cid, manifest.name, manifest.size, now, references
                )
        return self._find(publication.cid)

    def _make_room(self, quota: int, needed: int) -> None:
        if needed > quota:
            raise StorageError(
                f"{format_bytes(needed)} are more than the store's quota of {format_bytes(quota)}; "
                "give more, or keep only where the files are (`copy=False`)"
            )
        if needed + self.bytes_used() <= quota:
            return
        # Nothing goes for what would not fit even then.
        can_go = self.collect(quota - needed, dry_run=True).bytes_freed
        if needed + self.bytes_used() - can_go <= quota:
            self.collect(quota - needed)
        if needed + self.bytes_used() > quota:
            raise StorageError(
                f"{format_bytes(needed)} more do not fit the store's quota of "
                f"{format_bytes(quota)} beside what is pinned or in use; unpin something, or "
                "give more"
            )

    def _find(self, cid: Cid) -> StoredPublication:
        with self._mutex, self._errors():
            found = self._index.publication(cid, self._clock())
        if found is None:
            raise ContentNotFoundError(f"{cid} is not in the store; see `lattica store ls`")
        return found

    def publications(self) -> list[StoredPublication]:
        """All of them, those that were used last at the end."""
        with self._mutex, self._errors():
            return self._index.publications(self._clock())

    def bytes_used(self) -> int:
        """Bytes of all blocks."""
        with self._mutex, self._errors():
            return self._index.block_bytes()

    @contextmanager
    def reading(self, cid: Cid) -> Iterator[ServedFromStore]:
        """A publication, which no collection removes within the block, in whatever process.

        What it gives can be served (:class:`~lattica.content.publish.served.Served`).

        Raises:
            ContentNotFoundError: it is not here.
            ContentError: its manifest is damaged.
        """
        descriptor = self._open_reader(cid)
        try:
            with self._errors():
                # A collection that has it alone is over soon.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._find(cid)
            encoded = self.get_block(cid)
            if encoded is None or len(encoded) > MAX_MANIFEST_BYTES:
                raise ContentError(f"the manifest of {cid} is damaged; add it again")
            with self._mutex, self._errors():
                self._index.touch(cid, self._clock())
                paths = self._index.references(cid)
            manifest = self._load_lists(cid, decode_manifest(encoded))
            yield ServedFromStore(self, cid, manifest, encoded, paths)
        finally:
            os.close(descriptor)

    def _load_lists(self, cid: Cid, manifest: Manifest) -> Manifest:
        """A manifest with its lists of chunks. Raises :class:`ContentError`: one is damaged."""
        lists = {}
        for one in lists_in(manifest):
            data = self._read(one.ref.digest)
            if data is None:
                raise ContentError(f"the manifest of {cid} is damaged; add it again")
            lists[one.number] = data
        return with_lists(manifest, lists)

    def _open_reader(self, cid: Cid) -> int:
        with self._errors():
            path = self._directory / "readers" / cid.digest.hex()
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    # --- pins ---

    def pin(self, cid: Cid, seconds: float | None = None) -> None:
        """Keep a publication, or a block, whatever happens; or for so many seconds.

        Raises:
            ContentNotFoundError: it is not here.
        """
        with self._locked(fcntl.LOCK_SH):
            if not self.has_block(cid):
                raise ContentNotFoundError(f"{cid} is not in the store; see `lattica store ls`")
            self._index.pin(cid, None if seconds is None else self._clock() + seconds)

    def unpin(self, cid: Cid) -> None:
        """The next collection may remove it. Raises ContentNotFoundError: it is not pinned."""
        with self._locked(fcntl.LOCK_SH):
            if not self._index.unpin(cid):
                raise ContentNotFoundError(f"{cid} is not pinned; see `lattica store ls`")

    # --- collecting ---

    def collect(self, most: int = 0, *, dry_run: bool = False) -> Collected:
        """Remove publications that nobody keeps or reads, until blocks have at most so many bytes.

        Those that were used longest ago go first; by default all go. What no publication has, and
        nobody has pinned, goes in any case, and so do the leftovers of a crash.
        """
        with self._locked(fcntl.LOCK_EX):
            now = self._clock()
            kept = self._index.kept(now)
            blocks = {digest: size for digest, (size, _) in self._index.blocks().items()}
            stored = self._index.publications(now)
            uses = {publication.cid: self._digests(publication) for publication in stored}
            counts = Counter(kept)
            for digests in uses.values():
                counts.update(digests)
            total = sum(size for digest, size in blocks.items() if digest in counts)
            gone: list[StoredPublication] = []
            in_use = 0
            with self._held() as hold:
                for publication in stored:
                    if publication.cid.digest in kept or (total <= most and most > 0):
                        continue
                    if not hold(publication.cid):
                        in_use += 1
                        continue
                    gone.append(publication)
                    for digest in uses[publication.cid]:
                        counts[digest] -= 1
                        if not counts[digest]:
                            total -= blocks.get(digest, 0)
                live = {digest for digest, count in counts.items() if count}
                dead = {digest: size for digest, size in blocks.items() if digest not in live}
                result = Collected(tuple(gone), len(dead), sum(dead.values()), in_use)
                if not dry_run:
                    with self._index.transaction():
                        for publication in gone:
                            self._index.remove_publication(publication.cid)
                        for digest in dead:
                            self._index.remove_block(digest)
                    self._sweep(live)
            return result

    def _digests(self, publication: StoredPublication) -> set[bytes]:
        """The blocks that a publication is made of."""
        encoded = self._read(publication.cid.digest)
        if encoded is None:
            return {publication.cid.digest}
        return self._digests_of(publication, decode_manifest(encoded))

    def _digests_of(self, publication: StoredPublication, manifest: Manifest) -> set[bytes]:
        """The same, of one whose manifest is here, without its lists."""
        found = {publication.cid.digest, *(one.ref.digest for one in lists_in(manifest))}
        if not publication.by_reference:
            with suppress(ContentError):  # what is damaged keeps what it is known to have
                for file in self._load_lists(publication.cid, manifest).files:
                    found.update(chunk.digest for chunk in file.chunks)
        return found

    @contextmanager
    def _held(self) -> Iterator[Callable[[Cid], bool]]:
        """A function that takes publications for itself; False for one that is being read."""
        held: list[int] = []

        def hold(cid: Cid) -> bool:
            descriptor = self._open_reader(cid)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            held.append(descriptor)
            return True

        try:
            yield hold
        finally:
            for descriptor in held:
                os.close(descriptor)

    def _sweep(self, live: set[bytes]) -> None:
        """Remove every file that is not one of these blocks'. Nobody adds meanwhile."""
        names = {digest.hex() for digest in live}
        for directory in (self._directory / "blocks").iterdir():
            for path in directory.iterdir() if directory.is_dir() else ():
                if path.name not in names:
                    path.unlink(missing_ok=True)

    # --- verifying ---

    def verify(self, *, repair: bool = False) -> Verified:
        """Hash everything again. With `repair`, damaged blocks, and publications that lack some,
        are removed, pinned ones too: they can be added again.
        """
        with self._locked(fcntl.LOCK_EX if repair else fcntl.LOCK_SH):
            digests = set(self._index.blocks())
            damaged = {digest for digest in digests if self._read(digest) is None}
            broken = []
            for stored in self._index.publications(self._clock()):
                if not self._is_whole(stored, digests - damaged):
                    broken.append(stored.cid)
            if repair:
                with self._index.transaction():
                    for digest in damaged:
                        self._index.remove_block(digest)
                        self._index.unpin(Cid(digest))
                    for cid in broken:
                        self._index.remove_publication(cid)
                for digest in damaged:
                    self._path(digest).unlink(missing_ok=True)
            return Verified(len(digests), tuple(map(Cid, sorted(damaged))), tuple(broken))

    def _is_whole(self, stored: StoredPublication, right: set[bytes]) -> bool:
        encoded = self._read(stored.cid.digest)
        if encoded is None:
            return False
        manifest = decode_manifest(encoded)
        digests = self._digests_of(stored, manifest)
        if not stored.by_reference or not digests <= right:
            return digests <= right
        paths = self._index.references(stored.cid)
        manifest = self._load_lists(stored.cid, manifest)
        served = ServedFromStore(self, stored.cid, manifest, encoded, paths)
        try:
            for number in range(served.chunk_count):
                served.read_span(number, 1)
        except (NotHereError, OSError):
            return False
        return True


class ServedFromStore(ServedWhole):
    """A publication out of a store; see :class:`~lattica.content.publish.served.Served`."""

    def __init__(
        self,
        store: ContentStore,
        cid: Cid,
        manifest: Manifest,
        encoded: bytes,
        paths: list[Path],
    ) -> None:
        self._store = store
        self.cid = cid
        self.manifest = manifest
        self.encoded = encoded
        self._paths = paths
        """Of its files, where it is kept by reference."""

    def read_span(self, first: int, count: int) -> bytes:
        """Read chunks; each has the right hash. Raises :class:`NotHereError`, and OSError."""
        return b"".join(self._read(number) for number in range(first, first + count))

    def _read(self, number: int) -> bytes:
        file, index = self.manifest.locate(number)
        chunk = self.manifest.files[file].chunks[index]
        data: bytes | None
        if self._paths:
            data = _read_at(self._paths[file], chunk.offset, chunk.length)
            if data is not None and hashlib.sha256(data).digest() != chunk.digest:
                data = None
        else:
            data = self._store.get_block(Cid(chunk.digest))
        if data is None:
            raise NotHereError("a block is damaged, or gone")
        return data


def _read_at(path: Path, offset: int, length: int) -> bytes | None:
    try:
        descriptor = open_regular(path)
    except OSError:
        return None
    try:
        data = bytearray(length)
        return bytes(data) if read_exactly(descriptor, memoryview(data), offset) else None
    finally:
        os.close(descriptor)
