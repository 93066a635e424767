"""The unfinished files of a fetch: what is written there, and what becomes of it.

They lie in `OUT/.lattica-KEY/`, where only this user's files count (see
:mod:`~lattica.content.download.partial.private_directory`): file number n of the plan as `n`, and
`journal` (:mod:`~lattica.content.download.partial.journal`), by which a fetch is taken up again.

Others may do to these files what they like: remove, cut or overwrite them, or be a second fetch
on a file system without locks, which writes the same bytes to the same places. Nothing that was
written counts until :meth:`PartialFiles.finish` has read it back from the very file (inode) that
then has the final name: neither a torn write nor a power cut nor a full disk can let wrong bytes
pass.

All methods block and may be called from worker threads; those that write, from several at once.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType

from lattica.content.disk import (
    ATTEMPTS,
    NotRegularError,
    begin_writing_out,
    mark_unmodified,
    open_regular,
    read_exactly,
    set_executable,
    set_mode,
    storage_error,
    write_all,
)
from lattica.content.download.local.former import Chosen, OtherFile, is_directory, make_root, mark
from lattica.content.download.partial.final_names import FinalNames
from lattica.content.download.partial.holes import (
    Hole,
    allocate_around,
    digests_of_holes,
    is_hole,
    is_zeros,
    joined,
    known_holes,
    make_hole,
)
from lattica.content.download.partial.journal import Journal
from lattica.content.download.partial.private_directory import PrivateDirectory
from lattica.content.download.partial.read_back import WRITTEN_OUT_FROM, Written, go_on, has
from lattica.content.download.partial.space import check_entries, check_room
from lattica.content.download.plan import Placement, Plan
from lattica.content.errors import StorageError
from lattica.content.manifest.chunking import FileState
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES
from lattica.content.manifest.paths import RESERVED_PREFIX
from lattica.content.manifest.verifying import verified_chunks

logger = logging.getLogger(__name__)

_MAX_DISTURBANCES = 10
"""Times that a file may be found removed or changed by others before that is an error."""


class PartialFiles:
    """The unfinished files of one plan in one directory, locked against other fetches.

    `verified` has the outputs that lie under their names, and what those files looked like when
    they had been verified; nothing is written for them. What lies where an output, or its
    directory, belongs is removed if `may_go` says so of all of it; `removed` has what was.
    """

    def __init__(self, plan: Plan, out_dir: Path, may_go: Chosen | None = None) -> None:
        self._plan = plan
        self._out_dir = out_dir
        self._directory = out_dir / f"{RESERVED_PREFIX}{plan.key}"
        self._unfinished = PrivateDirectory(self._directory)
        self._journal = Journal(self._unfinished)
        self._root = b""
        self._written = Written(plan)
        self._disturbances: Counter[int] = Counter()
        self._names = FinalNames(plan, out_dir, self._unfinished, may_go)
        self.verified: dict[int, FileState] = {}

    def __enter__(self) -> PartialFiles:
        """Make the directory and lock it; raises :class:`StorageError`."""
        self._journal.open()
        if is_directory(self._plan) or not self._plan.is_whole:
            self._root = make_root(self._out_dir)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go; what was written stays for the next attempt, and nothing where nothing was."""
        with suppress(OSError):
            if exc is not None and self._journal.is_empty:
                self.remove()
        self._journal.close()

    def remove(self) -> None:
        """Delete journal and directory, when every file has been finished, and its name synced."""
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def removed(self) -> list[OtherFile]:
        """What lay where an output, or its directory, belongs."""
        return self._names.removed

    def target(self, output: int) -> Path:
        """Where an output lies when it is complete."""
        return self._out_dir / self._plan.outputs[output].path

    # --- taking up again ---

    def journaled(self) -> list[int]:
        """Chunks of the plan that an earlier run wrote, ascending. Not verified."""
        named = self._journal.numbers()
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
            self._written.seal(number, piece)
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
                self._written.seal(number, piece)
            parts = [(p, piece[p.start : p.start + p.length]) for p in places]
            for place, part in parts:
                if place.length != len(piece):
                    self._written.keep_part(place, part)
            if is_zeros(piece):
                for hole in joined(places):
                    with self._writable(hole.output) as descriptor:
                        make_hole(descriptor, hole)
                continue
            for place, part in parts:
                self._write_at(place, part)
        self._journal.append(range(first, first + count))

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

    def finish(self, output: int, checkpoint: Callable[[], None] = go_on) -> list[int] | None:
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
        self._names.sync()
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
                descriptor = self._names.open(output)
            except OSError:
                return self._numbers(output)
        try:
            if not has_name:
                if os.fstat(descriptor).st_size != item.size:
                    os.ftruncate(descriptor, item.size)
                for at, data in item.made:
                    if not has(descriptor, at, data):
                        write_all(descriptor, memoryview(data), at)
            set_executable(descriptor, item.executable)
            status = mark_unmodified(descriptor)
            if status.st_size != item.size:
                return self._numbers(output)
            if not has_name and is_directory(self._plan):
                mark(descriptor, FileState.of(status), self._root, item.path)
            lost = self._written.sync_and_compare(descriptor, output, checkpoint)
            if lost and has_name:
                return self._numbers(output)  # it is not ours to mend
            if lost:
                return lost
            if not has_name and not self._names.give(output, descriptor):
                return self._numbers(output)
            if item.mode is not None:
                set_mode(descriptor, item.mode)
            return self._look_at_name(output, status)
        finally:
            os.close(descriptor)

    def _numbers(self, output: int) -> list[int]:
        return [piece.number for piece in self._plan.pieces(output)]

    def _look_at_name(self, output: int, verified: os.stat_result) -> list[int] | None:
        """Whether the file of that name is the one that was read back, as it was then."""
        found = self._names.status(output)
        if found is None:
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
            if self._plan.outputs[place.output].size >= WRITTEN_OUT_FROM:
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
