"""The unfinished files of a fetch, and the journal from which it can be taken up again.

They lie in `OUT/.lattica-KEY/`: file number n of the plan as `n`, and `journal`, to which four
bytes (the chunk's number, big endian) are appended after a chunk has been verified and written.
The journal is only a hint: on resumption every chunk that it names is hashed again, so that
neither a torn write nor a power cut nor a full disk can let wrong bytes pass. A file that is
complete is synced to disk and renamed to its place.

All methods block and may be called from worker threads; those that write, from several at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Container, Sequence
from pathlib import Path
from types import TracebackType

from lattica.content.disk import (
    allocate,
    format_bytes,
    read_exactly,
    set_executable,
    storage_error,
    sync_directory,
    write_all,
)
from lattica.content.download.plan import Placement, Plan
from lattica.content.errors import IntegrityError, StorageError
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES
from lattica.content.manifest.paths import RESERVED_PREFIX
from lattica.nat.base.errors import LocalProtocolError

_ENTRY_BYTES = 4
_SPARE_BYTES = 4 * 1024 * 1024
"""For directories and the journal, on top of the files."""


class PartialFiles:
    """The unfinished files of one plan in one directory, locked against other fetches.

    `skip` holds the outputs that are complete already; nothing is written for them.
    """

    def __init__(self, plan: Plan, out_dir: Path) -> None:
        self._plan = plan
        self._out_dir = out_dir
        self._directory = out_dir / f"{RESERVED_PREFIX}{plan.key}"
        self._journal = -1
        self.skip: Container[int] = ()

    def __enter__(self) -> PartialFiles:
        """Make the directory and lock it; raises :class:`StorageError`."""
        path = self._directory / "journal"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._journal = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go; what was written stays for the next attempt."""
        self._close()

    def _close(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def remove(self) -> None:
        """Delete journal and directory, when every file has been finished."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def target(self, output: int) -> Path:
        """Where an output lies when it is complete."""
        return self._out_dir / self._plan.outputs[output].path

    # --- taking up again ---

    def journaled(self) -> list[int]:
        """Chunks of the plan that an earlier run wrote, ascending. Not verified."""
        try:
            with open(self._directory / "journal", "rb") as file:
                data = file.read()
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
        chunk = self._plan.manifest.chunk(number)
        for place in self._places(number):
            if place.length != chunk.length:
                return False
            piece = buffer[: chunk.length]
            try:
                descriptor = os.open(self._path(place.output), os.O_RDONLY | os.O_CLOEXEC)
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
        return True

    def check_space(self) -> None:
        """Raise :class:`StorageError` when the disk cannot take what is still to come."""
        needed = _SPARE_BYTES
        for index, output in enumerate(self._plan.outputs):
            if index in self.skip:
                continue
            try:
                present = self._path(index).stat().st_blocks * 512
            except OSError:
                present = 0
            needed += max(0, output.size - present)
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            raise storage_error(error, self._directory) from None
        if free < needed:
            raise StorageError(
                f"{self._out_dir} has {format_bytes(free)} free, and {format_bytes(needed)} are "
                "needed; free some space, or choose another directory with -o"
            )

    # --- writing ---

    def write(self, first: int, count: int, data: bytes | memoryview, source: str) -> None:
        """Verify consecutive chunks, write them to their places, and note it in the journal.

        Raises :class:`IntegrityError` that names `source` before anything of a wrong chunk
        is written, and :class:`StorageError`.
        """
        view = memoryview(data)
        start = 0
        for number in range(first, first + count):
            chunk = self._plan.manifest.chunk(number)
            piece = view[start : start + chunk.length]
            start += chunk.length
            if hashlib.sha256(piece).digest() != chunk.digest:
                path = self._plan.manifest.files[self._plan.manifest.locate(number)[0]].path
                raise IntegrityError(
                    f"{source} has sent wrong bytes for {path!r} (chunk {number}); they were "
                    "discarded. Fetch from another provider, or have this one publish again"
                )
            for place in self._places(number):
                self._write_at(place, piece[place.start : place.start + place.length])
        if start != len(view):
            raise LocalProtocolError(f"{len(view)} bytes for chunks of {start}")
        entries = b"".join(n.to_bytes(_ENTRY_BYTES, "big") for n in range(first, first + count))
        try:
            os.write(self._journal, entries)
        except OSError as error:
            raise storage_error(error, self._directory) from None

    def finish(self, output: int) -> Path:
        """Sync a file of which all chunks are written, and rename it to its place."""
        item = self._plan.outputs[output]
        target = self.target(output)
        path = self._path(output)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.ftruncate(descriptor, item.size)
                if item.prefix:
                    write_all(descriptor, memoryview(item.prefix), 0)
                set_executable(descriptor, item.executable)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            sync_directory(target.parent)
        except OSError as error:
            raise storage_error(error, target) from None
        return target

    def _path(self, output: int) -> Path:
        # Numbers: a name that a peer chose is used only for the finished file.
        return self._directory / str(output)

    def _places(self, number: int) -> list[Placement]:
        return [p for p in self._plan.placements(number) if p.output not in self.skip]

    def _write_at(self, place: Placement, data: memoryview) -> None:
        path = self._path(place.output)
        try:
            # Opened anew each time: no table of descriptors to bound, lock and close.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if os.fstat(descriptor).st_size == 0:
                    allocate(descriptor, self._plan.outputs[place.output].size)
                write_all(descriptor, data, place.offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, path) from None
