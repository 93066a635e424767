"""What content asks of the operating system's files, and what its refusals mean. Blocking."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

from lattica.content.errors import StorageError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OLD_NS = 3_000_000_000
"""Nanoseconds after which a file system's clock has surely ticked."""
_SYNC_FILE_RANGE_WRITE = 2
"""Of `sync_file_range`, in the kernel's uapi/linux/fs.h."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Of `fallocate`, in the kernel's uapi/linux/falloc.h."""
_BEHIND = (1 << 63) - 1
ATTEMPTS = 10
"""At what another program may undo at the same moment."""
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space, or choose another directory with -o",
    errno.EDQUOT: "your disk quota is used up; free some space, or choose another directory",
    errno.EROFS: "the disk is read-only; choose another directory with -o",
    errno.EACCES: "no permission; choose another directory with -o, or change its owner",
    errno.EPERM: "no permission; choose another directory with -o, or change its owner",
    errno.ENOTDIR: "a part of that path is a file, not a directory; move it away",
    errno.EEXIST: "a file is where a directory belongs; move it away",
    errno.EISDIR: "a directory is where a file belongs; move it away",
    errno.EXDEV: "its directory is on another disk than the download; fetch to that disk",
    errno.ENAMETOOLONG: "the disk does not take names this long; choose another directory with -o",
    errno.EFBIG: "the disk does not take files this large; choose another directory with -o",
    errno.EIO: "the disk fails; check it",
}


class NotRegularError(OSError):
    """A directory, pipe or device is where a regular file was expected."""


def storage_error(error: OSError, path: Path) -> StorageError:
    """What an :class:`OSError` means to the user, with advice."""
    if isinstance(error, StorageError):
        return error
    advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    if error.errno == errno.ENOSPC and _lacks_entries(path):
        advice = (
            "the disk has no room for more files, however small; remove some, or choose another "
        )
        advice += "directory with -o"
    named = _named(error, path)
    if error.errno == errno.EEXIST and os.path.islink(named) and not os.path.exists(named):
        advice = "it is a symbolic link to nothing; is a disk that it leads to not mounted?"
    return StorageError(f"cannot write {named}: {advice}")


def _named(error: OSError, path: Path) -> str:
    """The file that an error is about, `path` or a directory above it."""
    where = error.filename2 or error.filename
    if where is None or isinstance(where, int):
        return str(path)
    name = os.fsdecode(where)
    if os.path.basename(name) != name:
        return name
    # It may have been opened relative to a directory's descriptor.
    parts = path.parts
    return str(Path(*parts[: parts.index(name) + 1]) if parts.count(name) == 1 else path)


def _lacks_entries(path: Path) -> bool:
    """Whether the disk has space left, but no room for another file."""
    for place in (path, *path.parents):
        try:
            disk = os.statvfs(place)
        except OSError:
            continue
        # File systems that make them as needed say that there are none.
        return disk.f_files > 0 and disk.f_favail == 0 and disk.f_bavail > 0
    return False


def make_directory(path: Path, mode: int = 0o777) -> None:
    """Make a directory and those above it, also while another program removes them.

    `mode` is that of the last one. Raises :class:`OSError`.
    """
    for _ in range(ATTEMPTS):
        try:
            path.mkdir(mode, parents=True, exist_ok=True)
            return
        except FileExistsError:
            # Was it a directory, which is gone by now?
            if os.path.lexists(path) and not path.is_dir():
                raise
        except FileNotFoundError:  # one above it is
            pass
    path.mkdir(mode, parents=True, exist_ok=True)


def open_below(top: Path, parts: Sequence[str], *, make: bool) -> int:
    """Open the directory `parts` below `top`, and with `make` make what is missing of it.

    Step by step from one descriptor to the next, so that nobody can change the way meanwhile. A
    symbolic link on it is followed if this user or root has made it: in a shared directory one of
    somebody else's would lead to where this user may write and he may not. Raises
    :class:`OSError`, and :class:`StorageError` for such a link.
    """
    if make:
        make_directory(top)
    here = os.open(top, _DIRECTORY)
    for part in parts:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
            there = _open_step(here, part, top)
        finally:
            os.close(here)
        here = there
    return here


def sync_directory(top: Path, parts: Sequence[str]) -> None:
    """Have what was named in the directory `parts` below `top` stay so. Raises :class:`OSError`."""
    place = open_below(top, parts, make=False)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _open_step(here: int, part: str, top: Path) -> int:
    try:
        return os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        found = os.stat(part, dir_fd=here, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            raise
    link = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    try:
        status = os.fstat(link)
        if status.st_uid not in (os.geteuid(), 0):
            raise StorageError(
                f"cannot write to {part!r} in {top}: it is a symbolic link that another user "
                f"(number {status.st_uid}) has made; remove it, or choose another directory with -o"
            )
        return os.open(os.readlink("", dir_fd=link), _DIRECTORY, dir_fd=here)
    finally:
        os.close(link)


def open_regular(path: Path | str, flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> int:
    """Open a regular file; a pipe in its place is not waited for.

    Raises :class:`OSError`, and :class:`NotRegularError` for what is no regular file.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise NotRegularError(errno.EINVAL, "it is not a regular file", str(path))


def format_bytes(count: int) -> str:
    """A size for people, in powers of 1024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def read_exactly(descriptor: int, buffer: memoryview, offset: int) -> bool:
    """Fill `buffer` from a file; False when the file ends before. Raises :class:`OSError`."""
    while buffer:
        count = os.preadv(descriptor, [buffer], offset)
        if count == 0:
            return False
        buffer = buffer[count:]
        offset += count
    return True


def reader_of(descriptor: int) -> Callable[[int, int], bytes]:
    """A function that reads so many bytes at an offset, or fewer where the file ends."""
    return lambda offset, count: os.pread(descriptor, count, offset)


def next_data(descriptor: int, offset: int) -> int:
    """Where the next bytes are, from `offset` on, that are not part of a hole.

    `offset` itself where the file system does not know of holes; a number behind any file, where
    only a hole follows. Raises :class:`OSError`.
    """
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return _BEHIND if os.fstat(descriptor).st_size > offset else offset
        if error.errno == errno.EINVAL:
            return offset
        raise
    except AttributeError:  # not known to this system
        return offset


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data = data[count:]
        offset += count


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name, which is free, of a file to be written in this block: then it takes the place of
    `path`; if the block fails, it is removed. By one writer at a time. Raises :class:`OSError`.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with suppress(FileNotFoundError):
            unfinished.unlink()  # of a run that was killed
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


@cache
def _of_linux(name: str, *arguments: type[Any]) -> Callable[..., int] | None:
    """A function of the C library, by the types of its arguments; None on another system."""
    try:
        function: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = arguments
    return cast("Callable[..., int]", function)


def allocate(descriptor: int, size: int, offset: int = 0) -> None:
    """Reserve the blocks of `size` bytes of a new file, which then has them, of zeros.

    A full disk shows at once, the file is in one piece, and on ext4 writing it costs a
    fraction of the time. Where the file system cannot, nothing happens: `os.posix_fallocate`
    is not used because the C library would then write to every block. Raises
    :class:`OSError`.
    """
    if size:
        _fallocate(descriptor, 0, offset, size)


def punch(descriptor: int, offset: int, size: int) -> bool:
    """Make a hole in a file, which keeps its size; False where the file system cannot.

    Raises :class:`OSError`.
    """
    return _fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, size)


def _fallocate(descriptor: int, mode: int, offset: int, size: int) -> bool:
    int64 = ctypes.c_int64
    function = _of_linux("fallocate", ctypes.c_int, ctypes.c_int, int64, int64)
    if function is None:
        return False
    while function(descriptor, mode, offset, size) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM):
            return False
        raise OSError(number, os.strerror(number))
    return True


def begin_writing_out(descriptor: int, offset: int, size: int) -> None:
    """Have the system write these bytes to the disk now, so that a later sync has little left to
    wait for. Where it cannot, nothing happens: that sync says what is wrong.
    """
    int64 = ctypes.c_int64
    function = _of_linux("sync_file_range", ctypes.c_int, int64, int64, ctypes.c_uint)
    if function is not None:
        function(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)


def set_executable(target: int | Path, executable: bool) -> None:
    """Let whoever may read a file (descriptor or path) execute it, or nobody."""
    mode = os.stat(target).st_mode & 0o7777
    wanted = mode | (mode & 0o444) >> 2 if executable else mode & ~0o111
    if wanted != mode:
        os.chmod(target, wanted)


def _umask() -> int:
    """What the user wants no file of his to allow."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def set_mode(target: int | Path, mode: int) -> None:
    """Give a file or directory (descriptor or path) permissions, but for what the umask denies."""
    os.chmod(target, mode & ~_umask())


def mark_unmodified(descriptor: int) -> os.stat_result:
    """See to it that from now on every write changes a file's time of modification.

    The clock of a file system ticks every few milliseconds (of FAT, every two seconds), so that
    a write right after another may leave that time as it was. So a file that was written to in
    the last seconds is dated back. Returns its status; raises :class:`OSError`.
    """
    then = time.time_ns() - _OLD_NS
    if os.fstat(descriptor).st_mtime_ns > then:
        with suppress(PermissionError):  # on file systems that keep no times
            os.utime(descriptor, ns=(then, then))
    return os.fstat(descriptor)
