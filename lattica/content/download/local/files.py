"""What a download directory holds already: complete files, and chunks that can be copied.

A file that lies where the publication has one is hashed. If it is the same, it is done; if it
is another version, its chunks that are still in use are copied instead of fetched. Where that
leaves something to fetch, the other files in the directory are looked at, whatever their names
are: files that former fetches have written are hashed in full, of others, and of unfinished files
of a fetch of something else, a few chunks, and the rest if one of these is wanted. Directories
below that other fetches were into are not entered.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import trio

from lattica.content.disk import (
    open_regular,
    read_exactly,
    set_executable,
    set_mode,
    storage_error,
)
from lattica.content.download.local.former import MAX_ENTRIES, other_files
from lattica.content.download.local.leftovers import unfinished_files
from lattica.content.download.plan import Plan
from lattica.content.errors import ContentError, StorageError
from lattica.content.manifest.chunking import CutFile, FileState, cut_file, hash_files
from lattica.content.manifest.content_defined import AVERAGE_BYTES, cut_content
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES, Chunk, ChunkTable
from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import LatticaError

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
"""To look through a directory in which others remove and replace files."""


@dataclass(frozen=True, slots=True)
class LocalChunk:
    """A chunk of an existing file; `offset` and `length` in bytes."""

    path: Path
    offset: int
    length: int
    flags: int = os.O_RDONLY

    def read(self) -> bytes:
        """The bytes, to be verified; empty when they cannot be read any more. Blocking."""
        try:
            descriptor = open_regular(self.path, self.flags)
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
    found = []
    for index, output in enumerate(plan.outputs):
        path = out_dir / output.path
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISREG(status.st_mode):
            continue  # renaming the finished file will say what is in its way
        file = cut_file(path, warn=False)
        if output.whole and file.state.size == output.size:
            table = plan.published(index).table
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
            tables = await hash_files(files, hashed)
        return await trio.to_thread.run_sync(_compare, plan, candidates, tables)
    except FileNotFoundError:
        raise
    except OSError as error:
        if isinstance(error, LatticaError):
            raise
        raise storage_error(error, out_dir) from None


def _compare(plan: Plan, candidates: list[_Candidate], tables: list[ChunkTable]) -> LocalFiles:
    complete = {}
    chunks: dict[int, LocalChunk] = {}
    for candidate, table in zip(candidates, tables, strict=True):
        if candidate.published is not None and candidate.published.digests == table.digests:
            complete[candidate.output] = candidate.file.state
            output = plan.outputs[candidate.output]
            if output.mode is None:
                set_executable(candidate.file.path, output.executable)
            else:
                set_mode(candidate.file.path, output.mode)
        chunk: Chunk
        for chunk in table:
            number = plan.number_of(chunk.digest)
            if number is not None:
                chunks[number] = LocalChunk(candidate.file.path, chunk.offset, chunk.length)
    return LocalFiles(complete, chunks)


# --- under other names ---

_WITHIN = os.O_RDONLY | os.O_NOFOLLOW
_SAMPLES = 4
"""Chunks of a file of which nothing is known that are hashed to see whether it is of use."""
_MAX_SAMPLED = 256
"""Files of which nothing is known; those with endings of the publication first, then large ones."""
_SAMPLED_BYTES = 4 * 1024 * 1024
"""The same of one that is cut by its content, in two places."""
_UNIT = 16
"""Chunks hashed in one visit to a thread."""


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    path: Path
    size: int
    sampled: bool
    flags: int = _WITHIN


def _in_bases(bases: Iterable[Path]) -> Iterator[_Elsewhere]:
    """The files that the user names, or that lie below directories that he names."""
    left = MAX_ENTRIES
    for base in bases:
        if not base.exists():
            raise ContentError(f"{base} does not exist; check the path of the base")
        if base.is_file():
            found: Iterable[Path] = [base]
        else:
            found = (Path(top, name) for top, _, names in os.walk(base) for name in sorted(names))
        for path in found:
            left -= 1
            if left < 0:
                return
            with suppress(OSError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode) and status.st_size:
                    yield _Elsewhere(path, status.st_size, sampled=False, flags=os.O_RDONLY)


def _elsewhere(
    plan: Plan, out_dir: Path, complete: frozenset[int], bases: Sequence[Path]
) -> list[_Elsewhere]:
    endings = {PurePosixPath(output.path).suffix for output in plan.outputs}
    others = [
        other for other in other_files(plan, out_dir).found if other.size and not other.is_link
    ]
    fetched = [_Elsewhere(out_dir / o.path, o.size, sampled=False) for o in others if o.fetched]
    unknown = sorted(
        (o for o in others if not o.fetched),
        key=lambda o: (PurePosixPath(o.path).suffix not in endings, -o.size),
    )
    # Of the same size as the new version, an old one was cut as the new one is.
    old = []
    for index, output in enumerate(plan.outputs):
        path = out_dir / output.path
        if index not in complete and output.size and path.is_file() and not path.is_symlink():
            old.append(_Elsewhere(path, path.stat().st_size, sampled=True))
    unfinished = unfinished_files(out_dir, plan.key)
    return [
        *_in_bases(bases),
        *fetched,
        *old,
        *(_Elsewhere(path, size, sampled=True) for path, size in unfinished[:_MAX_SAMPLED]),
        *(_Elsewhere(out_dir / o.path, o.size, sampled=True) for o in unknown[:_MAX_SAMPLED]),
    ]


def _hash_some(file: CutFile, indices: Iterable[int], flags: int) -> list[tuple[bytes, Chunk]]:
    """Hash these chunks of a file; those that can be read."""
    assert file.ends is not None
    table = ChunkTable(file.ends, b"")
    found = []
    buffer = memoryview(bytearray(min(MAX_CHUNK_BYTES, file.state.size)))
    descriptor = open_regular(file.path, flags)
    try:
        for index in indices:
            chunk = table[index]
            piece = buffer[: chunk.length]
            if read_exactly(descriptor, piece, chunk.offset):
                found.append((hashlib.sha256(piece).digest(), chunk))
    finally:
        os.close(descriptor)
    return found


def _cut_some(file: CutFile, start: int, stop: int, flags: int) -> list[tuple[bytes, Chunk]]:
    """Cut a file by its content from `start` on, until behind `stop`, and hash the chunks."""
    found = []
    descriptor = open_regular(file.path, flags)
    try:
        for cut in cut_content(descriptor, start, file.state.size):
            found.append((cut.digest, Chunk(start, cut.end - start, cut.digest)))
            start = cut.end
            if start >= stop:
                break
    finally:
        os.close(descriptor)
    return found


@dataclass(frozen=True, slots=True)
class _Hashed:
    """Some chunks of a file, and how much of it has been looked at."""

    chunks: list[tuple[bytes, Chunk]]
    position: int


def _likely(file: CutFile, lengths: set[int], flags: int) -> Iterator[Callable[[], _Hashed]]:
    """What is to be done to see the chunks of a file that may be wanted, a little at a time."""
    if file.ends is None:
        yield from _by_content(file, flags)
        return
    table = ChunkTable(file.ends, b"")
    likely = [index for index in range(len(table)) if table[index].length in lengths]
    for start in range(0, len(likely), _UNIT):
        yield partial(_hash_known, file, likely[start : start + _UNIT], flags)


def _hash_known(file: CutFile, indices: Sequence[int], flags: int) -> _Hashed:
    assert file.ends is not None
    return _Hashed(_hash_some(file, indices, flags), file.ends[indices[-1]])


def _by_content(file: CutFile, flags: int) -> Iterator[Callable[[], _Hashed]]:
    position = 0

    def following() -> _Hashed:
        nonlocal position
        chunks = _cut_some(file, position, position + _UNIT * AVERAGE_BYTES, flags)
        position = chunks[-1][1].offset + chunks[-1][1].length if chunks else file.state.size
        return _Hashed(chunks, position)

    while position < file.state.size:
        yield following


def _samples(file: CutFile, lengths: set[int], flags: int) -> list[tuple[bytes, Chunk]]:
    """A few chunks of a file of which nothing is known; of one cut by content, at its beginning and
    in its middle, where what comes first shows where chunks begin."""
    if file.ends is None:
        half = file.state.size // 2
        return [
            found
            for start in ([0, half] if half > _SAMPLED_BYTES else [0])
            for found in _cut_some(file, start, start + _SAMPLED_BYTES, flags)
        ]
    table = ChunkTable(file.ends, b"")
    likely = [index for index in range(len(table)) if table[index].length in lengths]
    step = max(1, len(likely) // _SAMPLES)
    return _hash_some(file, likely[::step][:_SAMPLES], flags)


async def find_elsewhere(
    plan: Plan,
    out_dir: Path,
    wanted: Iterable[int],
    complete: frozenset[int],
    on_bytes: Callable[[int, int], None],
    bases: Sequence[Path] = (),
) -> dict[int, LocalChunk]:
    """Where bytes of `wanted` chunks lie in `bases`, and in other files below the directory.

    Links are not followed but in bases. Nothing of it is verified for good: a file may change at
    any time. What cannot be read is left out. `on_bytes` as in :func:`find_local_files`. Takes as
    long as bases, and files that former fetches have written, take to hash, and a moment for each
    other one.
    """
    missing = set(wanted)
    lengths = {plan.manifest.chunk(number).length for number in missing}
    found: dict[int, LocalChunk] = {}
    candidates = await trio.to_thread.run_sync(_elsewhere, plan, out_dir, complete, bases)
    total, done = sum(candidate.size for candidate in candidates), 0

    def note(file: CutFile, chunks: Iterable[tuple[bytes, Chunk]], flags: int) -> bool:
        of_use = False
        for digest, chunk in chunks:
            number = plan.number_of(digest)
            if number is not None:
                of_use = True
                if number in missing:
                    missing.discard(number)
                    found[number] = LocalChunk(file.path, chunk.offset, chunk.length, flags)
        return of_use

    for candidate in candidates:
        if not missing:
            break
        flags = candidate.flags
        try:
            file = await trio.to_thread.run_sync(
                partial(cut_file, candidate.path, flags=flags, warn=False)
            )
            if candidate.sampled:
                chunks = await trio.to_thread.run_sync(_samples, file, lengths, flags)
                if not note(file, chunks, flags):
                    continue
            for unit in _likely(file, lengths, flags):
                if not missing:
                    break
                hashed = await trio.to_thread.run_sync(unit)
                note(file, hashed.chunks, flags)
                on_bytes(done + min(hashed.position, candidate.size), total)
        except OSError as error:
            logger.debug("not looked at: %s file=%s", error, candidate.path)
        finally:
            done += candidate.size
            on_bytes(done, total)
    return found
