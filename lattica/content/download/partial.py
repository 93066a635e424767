"""The unfinished files of a fetch, and the journal from which it can be taken up again.

They lie in `OUT/.lattica-KEY/`, where only this user's files count (see
:mod:`~lattica.content.download.local.private_directory`): file number n of the plan as `n`, and
`journal`, to which four bytes (the chunk's number, big endian) are appended after a chunk has been
verified and written. The journal is only a hint: on resumption every chunk that it names is hashed
again, so that neither a torn write nor a power cut nor a full disk can let wrong bytes pass.

Others may do to these files what they like: remove, cut or overwrite them, or be a second fetch
on a file system without locks, which writes the same bytes to the same places. Nothing that was
written counts until :meth:`PartialFiles.finish` has read it back from the very file (inode) that
then has the final name. The lock only spares two fetches the double work.

All methods block and may be called from worker threads; those that write, from several at once.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from types import TracebackType

from lattica.content.disk import (
    ATTEMPTS,
    NotRegularError,
    begin_writing_out,
    mark_unmodified,
    open_below,
    open_regular,
    read_exactly,
    set_executable,
    set_mode,
    storage_error,
    sync_directory,
    write_all,
)
from lattica.content.download.local.former import Chosen, OtherFile, is_directory, make_root, mark
from lattica.content.download.local.holes import (
    Hole,
    allocate_around,
    digests_of_holes,
    is_hole,
    is_zeros,
    joined,
    known_holes,
    make_hole,
)
from lattica.content.download.local.obstacles import remove_obstacles
from lattica.content.download.local.private_directory import PrivateDirectory
from lattica.content.download.local.seals import Seals
from lattica.content.download.local.space import check_entries, check_room
from lattica.content.download.plan import Piece, Placement, Plan
from lattica.content.errors import StorageError
from lattica.content.manifest.chunking import FileState
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES
from lattica.content.manifest.paths import RESERVED_PREFIX
from lattica.content.manifest.verifying import verified_chunks

logger = logging.getLogger(__name__)

_ENTRY_BYTES = 4
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
_MAX_DISTURBANCES = 10
"""Times that a file may be found removed or changed by others before that is an error."""
_THREADS_FROM = 16 * 1024 * 1024
"""Bytes of a file that is written out as it comes, and is at last compared by two threads while a
third one syncs it."""
_BATCH = 16
"""Chunks that such a thread takes at once."""


def _go_on() -> None:
    """The checkpoint of who cannot be cancelled."""


def _has(descriptor: int, at: int, data: bytes) -> bool:
    found = memoryview(bytearray(len(data)))
    return read_exactly(descriptor, found, at) and found == data


class PartialFiles:
    """The unfinished files of one plan in one directory, locked against other fetches.

    `verified` has the outputs that lie under their names, and what those files looked like when
    they had been verified; nothing is written for them. What lies where an output, or its
    directory, belongs is removed if `may_go` says so of all of it; `removed` has what was.
    """

    def __init__(self, plan: Plan, out_dir: Path, may_go: Chosen | None = None) -> None:
        self._plan = plan
        self._may_go = may_go
        self._out_dir = out_dir
        self._directory = out_dir / f"{RESERVED_PREFIX}{plan.key}"
        self._unfinished = PrivateDirectory(self._directory)
        self._journal = -1
        self._root = b""
        self._part_digests: dict[tuple[int, int], bytes] = {}
        """By output and offset: hashes of what is kept of chunks that are not kept whole."""
        self._seals = Seals(plan.manifest.chunk_count)
        self._disturbances: Counter[int] = Counter()
        self._named_in: set[tuple[str, ...]] = set()
        """The directories in which files were given their names, by their parts."""
        self.verified: dict[int, FileState] = {}
        self.removed: list[OtherFile] = []

    def __enter__(self) -> PartialFiles:
        """Make the directory and lock it; raises :class:`StorageError`."""
        path = self._directory / "journal"
        try:
            self._journal = self._open_journal()
            # After half an entry all later ones would be read wrongly.
            size = os.fstat(self._journal).st_size
            os.ftruncate(self._journal, size - size % _ENTRY_BYTES)
        except BlockingIOError:
            self._close()
            raise StorageError(
                f"another fetch of the same content into {self._out_dir} is going on; "
                "wait for it, or choose another directory"
            ) from None
        except OSError as error:
            self._close()
            raise storage_error(error, path) from None
        if is_directory(self._plan) or not self._plan.is_whole:
            self._root = make_root(self._out_dir)
        return self

    def _open_journal(self) -> int:
        """Open and lock the journal. What is returned had a name after it was locked."""
        for _ in range(ATTEMPTS):
            self._unfinished.make()
            with suppress(FileNotFoundError):
                journal = self._unfinished.open("journal", os.O_RDWR | os.O_CREAT | os.O_APPEND)
                try:
                    self._lock(journal)
                    if os.fstat(journal).st_nlink:
                        return journal
                except OSError:
                    os.close(journal)
                    raise
                os.close(journal)  # the fetch that had the lock has finished and removed it
        raise FileNotFoundError(errno.ENOENT, "removed again and again", str(self._directory))

    def _lock(self, journal: int) -> None:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.info("%s has no locks; a second fetch into it goes unnoticed", self._out_dir)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go; what was written stays for the next attempt, and nothing where nothing was."""
        with suppress(OSError):
            if exc is not None and not os.fstat(self._journal).st_size:
                self.remove()
        self._close()

    def _close(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def remove(self) -> None:
        """Delete journal and directory, when every file has been finished, and its name synced."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def target(self, output: int) -> Path:
        """Where an output lies when it is complete."""
        return self._out_dir / self._plan.outputs[output].path

    # --- taking up again ---

    def journaled(self) -> list[int]:
        """Chunks of the plan that an earlier run wrote, ascending. Not verified."""
        try:
            data = bytearray(os.fstat(self._journal).st_size)
            if not read_exactly(self._journal, memoryview(data), 0):
                return []  # cut by somebody else
        except OSError as error:
            raise storage_error(error, self._directory) from None
        named = {
            int.from_bytes(data[i : i + _ENTRY_BYTES], "big")
            for i in range(0, len(data), _ENTRY_BYTES)
        }
        return [number for number in self._plan.chunks if number in named]

    def verify(self, numbers: Sequence[int]) -> list[int]:
        """Those of the chunks that are on disk whole and have the right hash.

        A chunk of which only a part is kept cannot be verified and counts as missing.
        """
        buffer = memoryview(bytearray(MAX_CHUNK_BYTES))
        return [number for number in numbers if self._is_on_disk(number, buffer)]

    def _is_on_disk(self, number: int, buffer: memoryview) -> bool:
        chunk, places = self._plan.manifest.chunk(number), self._places(number)
        if chunk.digest in digests_of_holes() and all(map(self._lacks_data, joined(places))):
            return True
        for place in places:
            if place.length != chunk.length:
                return False
            piece = buffer[: chunk.length]
            try:
                descriptor = self._unfinished.open(str(place.output), os.O_RDONLY)
            except OSError:
                return False
            try:
                if not read_exactly(descriptor, piece, place.offset):
                    return False
            except OSError:
                return False
            finally:
                os.close(descriptor)
            if hashlib.sha256(piece).digest() != chunk.digest:
                return False
            self._seals.seal(number, piece)
        return True

    def _lacks_data(self, hole: Hole) -> bool:
        """Whether there is a hole in an unfinished file."""
        try:
            descriptor = self._unfinished.open(str(hole.output), os.O_RDONLY)
        except OSError:
            return False
        try:
            return is_hole(descriptor, hole)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    @cached_property
    def _holes(self) -> dict[int, list[Hole]]:
        """By output: where there are to be holes, as far as that is known before."""
        return known_holes(self._plan)

    def check_space(self) -> None:
        """Raise :class:`StorageError` when the disk cannot take what is still to come."""
        check_entries(self._plan, self._out_dir, self._directory, self.verified)
        needed = 0
        for index, output in enumerate(self._plan.outputs):
            if index in self.verified:
                continue
            try:
                present = os.lstat(self._path(index)).st_blocks * 512
            except OSError:
                present = 0
            holes = sum(hole.length for hole in self._holes.get(index, ()))
            needed += max(0, output.size - holes - present)
        check_room(needed, self._out_dir, self._directory)

    # --- writing ---

    def write(self, first: int, count: int, data: bytes | memoryview, source: str) -> None:
        """Verify consecutive chunks, write them to their places, and note it in the journal.

        Raises :class:`IntegrityError` that names `source` before anything of a wrong chunk
        is written, and :class:`StorageError`.
        """
        for number, piece in verified_chunks(self._plan.manifest, first, count, data, source):
            places = self._places(number)
            if any(place.length == len(piece) for place in places):
                self._seals.seal(number, piece)
            parts = [(p, piece[p.start : p.start + p.length]) for p in places]
            for place, part in parts:
                if place.length != len(piece):
                    digest = hashlib.sha256(part).digest()
                    self._part_digests[place.output, place.offset] = digest
            if is_zeros(piece):
                for hole in joined(places):
                    with self._writable(hole.output) as descriptor:
                        make_hole(descriptor, hole)
                continue
            for place, part in parts:
                self._write_at(place, part)
        entries = b"".join(n.to_bytes(_ENTRY_BYTES, "big") for n in range(first, first + count))
        try:
            os.write(self._journal, entries)
        except OSError as error:
            raise storage_error(error, self._directory) from None

    def read(self, number: int) -> bytes | None:
        """The bytes of a chunk that was written, as they have the right hash; None: not so.

        It is read from the unfinished file, or the finished one. Raises :class:`OSError` where
        reading fails.
        """
        chunk = self._plan.manifest.chunk(number)
        data = bytearray(chunk.length)
        for place in self._plan.placements(number):
            if place.length != chunk.length:
                continue
            descriptor = self._open_to_read(place.output)
            if descriptor is None:
                continue
            try:
                whole = read_exactly(descriptor, memoryview(data), place.offset)
            finally:
                os.close(descriptor)
            if whole and hashlib.sha256(data).digest() == chunk.digest:
                return bytes(data)
        return None

    def _open_to_read(self, output: int) -> int | None:
        with suppress(FileNotFoundError, NotRegularError):
            return self._unfinished.open(str(output), os.O_RDONLY)
        with suppress(FileNotFoundError, NotRegularError):
            return open_regular(self.target(output))
        return None

    # --- finishing ---

    def finish(self, output: int, checkpoint: Callable[[], None] = _go_on) -> list[int] | None:
        """Read a file back of which all chunks are written, sync it, and give it its name.

        None when that is done: the file of that name is the one that was read back. Otherwise
        somebody else has removed or changed it, and the chunks that are returned have to be
        written before it is tried again. `checkpoint` is called every few MiB; what it raises
        ends the work.

        Raises:
            StorageError: the disk refuses, or the file is disturbed again and again.
        """
        target = self.target(output)
        try:
            lost = self._finish(output, checkpoint)
        except OSError as error:
            raise storage_error(error, target) from None
        if lost is not None:
            self._disturb(output)
        return lost

    def disturbed(self) -> list[int]:
        """Verified outputs that somebody else has touched since; they count no longer.

        What was given a name is synced before: nothing is left to wait for after a last look.

        Raises:
            StorageError: a file is disturbed again and again, or the disk refuses.
        """
        self._sync_names()
        found = [output for output, state in self.verified.items() if self._state(output) != state]
        for output in found:
            del self.verified[output]
            self._disturb(output)
        return found

    def _state(self, output: int) -> FileState | None:
        try:
            return FileState.of(os.stat(self.target(output)))
        except OSError:
            return None

    def _disturb(self, output: int) -> None:
        self._disturbances[output] += 1
        target = self.target(output)
        logger.info("%s was touched by another program while it was fetched", target)
        if self._disturbances[output] > _MAX_DISTURBANCES:
            raise StorageError(
                f"cannot write {target}: another program removes or changes it, or the unfinished "
                f"files in {self._directory}, again and again; stop that program, or choose "
                "another directory with -o"
            )

    def _finish(self, output: int, checkpoint: Callable[[], None]) -> list[int] | None:
        item = self._plan.outputs[output]
        has_name = False
        try:
            # One without chunks has not been made by them.
            descriptor = (
                self._unfinished.open(str(output), os.O_RDWR)
                if item.segments
                else self._create(output)
            )
        except FileNotFoundError:
            # A fetch beside this one, without locks, may have given it its name.
            has_name = True
            try:
                with self._place(output) as (place, name):
                    descriptor = open_regular(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=place)
                self._note_name(output)
            except OSError:
                return self._numbers(output)
        try:
            if not has_name:
                if os.fstat(descriptor).st_size != item.size:
                    os.ftruncate(descriptor, item.size)
                for at, data in item.made:
                    if not _has(descriptor, at, data):
                        write_all(descriptor, memoryview(data), at)
            set_executable(descriptor, item.executable)
            status = mark_unmodified(descriptor)
            if status.st_size != item.size:
                return self._numbers(output)
            if not has_name and is_directory(self._plan):
                mark(descriptor, FileState.of(status), self._root, item.path)
            lost = self._sync_and_compare(descriptor, output, checkpoint)
            if lost and has_name:
                return self._numbers(output)  # it is not ours to mend
            if lost:
                return lost
            if not has_name and not self._give_name(output, descriptor):
                return self._numbers(output)
            if item.mode is not None:
                set_mode(descriptor, item.mode)
            return self._look_at_name(output, status)
        finally:
            os.close(descriptor)

    def _numbers(self, output: int) -> list[int]:
        return [piece.number for piece in self._plan.pieces(output)]

    def _sync_and_compare(
        self, descriptor: int, output: int, checkpoint: Callable[[], None]
    ) -> list[int]:
        """Sync a file; meanwhile hash it, and return the chunks that are not right in it."""
        item = self._plan.outputs[output]
        if not all(_has(descriptor, at, data) for at, data in item.made):
            return self._numbers(output)
        pieces = self._plan.pieces(output)
        if item.size < _THREADS_FROM:
            os.fsync(descriptor)
            return self._compare(descriptor, output, pieces, checkpoint)
        take = threading.Lock()
        stop = threading.Event()

        def batches() -> Iterator[Piece]:
            while not stop.is_set():
                with take:
                    batch = list(islice(pieces, _BATCH))
                if not batch:
                    return
                yield from batch

        with ThreadPoolExecutor(2) as pool:
            syncing = pool.submit(os.fsync, descriptor)
            beside = pool.submit(self._compare, descriptor, output, batches(), _go_on)
            try:
                lost = self._compare(descriptor, output, batches(), checkpoint)
            finally:
                stop.set()
            syncing.result()
            return lost + beside.result()

    def _compare(
        self,
        descriptor: int,
        output: int,
        pieces: Iterable[Piece],
        checkpoint: Callable[[], None],
    ) -> list[int]:
        buffer = memoryview(bytearray(min(MAX_CHUNK_BYTES, self._plan.outputs[output].size)))
        lost = []
        for piece in pieces:
            checkpoint()
            if piece.digest in digests_of_holes() and is_hole(
                descriptor, Hole(output, piece.offset, piece.length)
            ):
                continue
            data = buffer[: piece.length]
            if not read_exactly(descriptor, data, piece.offset) or not self._is(
                output, piece, data
            ):
                lost.append(piece.number)
        return lost

    def _is(self, output: int, piece: Piece, data: memoryview) -> bool:
        """Whether these bytes are a piece of an output."""
        digest = piece.digest
        if digest is None:
            digest = self._part_digests.get((output, piece.offset))
        elif (fits := self._seals.fits(piece.number, data)) is not None:
            return fits
        return hashlib.sha256(data).digest() == digest

    @contextmanager
    def _place(self, output: int, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory where a finished file belongs, as a descriptor, and its name there."""
        *above, name = PurePosixPath(self._plan.outputs[output].path).parts
        place = open_below(self._out_dir, above, make=make)
        try:
            yield place, name
        finally:
            os.close(place)

    def _give_name(self, output: int, descriptor: int) -> bool:
        """Rename an unfinished file; False if it is gone."""
        for _ in range(ATTEMPTS):
            if self._may_go is not None:
                path = self._plan.outputs[output].path
                self.removed += remove_obstacles(self._out_dir, path, self._may_go)
            with (
                suppress(FileNotFoundError),
                self._place(output, make=True) as (place, name),
                self._unfinished.entered() as unfinished,
            ):
                os.replace(str(output), name, src_dir_fd=unfinished, dst_dir_fd=place)
                self._note_name(output)
                break
            if not os.fstat(descriptor).st_nlink:
                return False
        return True

    def _sync_names(self) -> None:
        """Sync the directories in which files were given their names: once each, and not for each
        file. What a crash of the machine takes back before is in the journal.
        """
        named_in, self._named_in = self._named_in, set()
        for above in {parts[:depth] for parts in named_in for depth in range(len(parts) + 1)}:
            try:
                sync_directory(self._out_dir, above)
            except FileNotFoundError:
                pass  # removed by somebody else since
            except OSError as error:
                raise storage_error(error, self._out_dir.joinpath(*above)) from None

    def _note_name(self, output: int) -> None:
        self._named_in.add(PurePosixPath(self._plan.outputs[output].path).parent.parts)

    def _look_at_name(self, output: int, verified: os.stat_result) -> list[int] | None:
        """Whether the file of that name is the one that was read back, as it was then."""
        try:
            with self._place(output) as (place, name):
                found = os.stat(name, dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            return self._numbers(output)
        state = FileState.of(found)
        if not os.path.samestat(found, verified) or state != FileState.of(verified):
            return []  # to be looked at again, whatever it is
        self.verified[output] = state
        return None

    def _path(self, output: int) -> Path:
        # Numbers: a name that a peer chose is used only for the finished file.
        return self._directory / str(output)

    def _places(self, number: int) -> list[Placement]:
        return [p for p in self._plan.placements(number) if p.output not in self.verified]

    def _create(self, output: int) -> int:
        """Open an unfinished file, and make what of it and its directory is missing."""
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError):
                return self._unfinished.open(str(output), os.O_RDWR | os.O_CREAT)
            with suppress(FileNotFoundError):
                self._unfinished.make()
        raise FileNotFoundError(errno.ENOENT, "removed again and again", str(self._directory))

    def _write_at(self, place: Placement, data: memoryview) -> None:
        with self._writable(place.output) as descriptor:
            write_all(descriptor, data, place.offset)
            if self._plan.outputs[place.output].size >= _THREADS_FROM:
                begin_writing_out(descriptor, place.offset, len(data))

    @contextmanager
    def _writable(self, output: int) -> Iterator[int]:
        """An unfinished file, with room for all that is to come."""
        try:
            # Opened anew each time: no table of descriptors to bound, lock and close.
            descriptor = self._create(output)
            try:
                if os.fstat(descriptor).st_size == 0:
                    size = self._plan.outputs[output].size
                    allocate_around(descriptor, size, self._holes.get(output, ()))
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, self._path(output)) from None
