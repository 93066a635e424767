"""What a download directory holds already: complete files, and chunks that can be copied.

A file that lies where the publication has one is hashed. If it is the same, it is done; if it
is another version, its chunks that are still in use are copied instead of fetched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from lattica.content.disk import open_regular, read_exactly, set_executable, storage_error
from lattica.content.download.plan import Plan
from lattica.content.errors import ContentError, StorageError
from lattica.content.manifest.chunking import CutFile, FileState, cut_file, hash_files
from lattica.content.manifest.manifest import Chunk, ChunkTable
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.exception_groups import single_error

_ATTEMPTS = 3
"""To look through a directory in which others remove and replace files."""


@dataclass(frozen=True, slots=True)
class LocalChunk:
    """A chunk of an existing file; `offset` and `length` in bytes."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """The bytes, to be verified; empty when they cannot be read any more. Blocking."""
        try:
            descriptor = open_regular(self.path)
        except OSError:
            return b""
        try:
            data = bytearray(self.length)
            return bytes(data) if read_exactly(descriptor, memoryview(data), self.offset) else b""
        except OSError:
            return b""
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """What a directory holds already."""

    complete: dict[int, FileState]
    """Outputs whose files were verified, and what these looked like before and after."""
    chunks: dict[int, LocalChunk]
    """Where else bytes of wanted chunks (by number) lie."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    output: int
    file: CutFile
    published: ChunkTable | None
    """The published file's chunks, when the file on disk may be the same."""


def _candidates(plan: Plan, out_dir: Path) -> list[_Candidate]:
    published = {file.path: file.chunks for file in plan.manifest.files}
    found = []
    for index, output in enumerate(plan.outputs):
        path = out_dir / output.path
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISREG(status.st_mode):
            continue  # renaming the finished file will say what is in its way
        file = cut_file(path)
        table = published[output.path]
        if output.whole and file.state.size == output.size:
            # Cut as the publisher cut it, even if our own rules should differ.
            file = CutFile(path, file.state, table.ends, None)
            found.append(_Candidate(index, file, table))
        else:
            found.append(_Candidate(index, file, None))
    return found


async def find_local_files(
    plan: Plan, out_dir: Path, on_bytes: Callable[[int, int], None]
) -> LocalFiles:
    """Look through the files that lie where outputs belong.

    `on_bytes` is called with (bytes hashed, of how many) as the work goes on. Raises
    :class:`~lattica.errors.StorageError`, and :class:`~lattica.errors.ContentError` when
    somebody else goes on writing to a file.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return await _look(plan, out_dir, on_bytes)
        except StorageError:
            raise
        except (ContentError, FileNotFoundError) as error:
            # Replaced or removed by another program, which may be a fetch like this one.
            if not attempts_left:
                if isinstance(error, ContentError):
                    raise
                raise storage_error(error, out_dir) from None
    raise AssertionError("not reached")


async def _look(plan: Plan, out_dir: Path, on_bytes: Callable[[int, int], None]) -> LocalFiles:
    try:
        candidates = await trio.to_thread.run_sync(_candidates, plan, out_dir)
        files = [candidate.file for candidate in candidates]
        total = sum(file.state.size for file in files)
        done = 0

        def hashed(count: int) -> None:
            nonlocal done
            done += count
            on_bytes(done, total)

        with single_error():
            digests = await hash_files(files, hashed)
        return await trio.to_thread.run_sync(_compare, plan, candidates, digests)
    except FileNotFoundError:
        raise
    except OSError as error:
        if isinstance(error, LatticaError):
            raise
        raise storage_error(error, out_dir) from None


def _compare(plan: Plan, candidates: list[_Candidate], digests: list[bytes]) -> LocalFiles:
    complete = {}
    chunks: dict[int, LocalChunk] = {}
    for candidate, table in zip(candidates, digests, strict=True):
        if candidate.published is not None and candidate.published.digests == table:
            complete[candidate.output] = candidate.file.state
            set_executable(candidate.file.path, plan.outputs[candidate.output].executable)
        chunk: Chunk
        for chunk in ChunkTable(candidate.file.ends, table):
            number = plan.number_of(chunk.digest)
            if number is not None:
                chunks[number] = LocalChunk(candidate.file.path, chunk.offset, chunk.length)
    return LocalFiles(complete, chunks)
