"""A directory in which only this user's files count, where others may write beside it.

In a shared directory somebody else can make it first, with symbolic links in it that lead to files
of this user's. So it has to be a directory of this user's and no link to one, is closed to others,
and is never looked up a second time on the way to a file: files are opened relative to the
descriptor that was looked at. What lies in it and is no regular file of this user's, with one name,
was put there before it was closed: it is removed and counts as missing.

Blocking; may be used by several threads.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lattica.content.disk import make_directory
from lattica.content.errors import StorageError

_MODE = 0o700


class PrivateDirectory:
    """The directory `path`; it may be removed by others at any time, and is then made anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make it, and those above it. Raises :class:`OSError`."""
        make_directory(self.path, _MODE)

    @contextmanager
    def entered(self) -> Iterator[int]:
        """A descriptor of it, for `dir_fd`.

        Raises :class:`OSError`, and :class:`StorageError` when it is somebody else's.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and self.path.is_symlink():
                raise self._refusal("is a symbolic link") from None
            raise
        try:
            status = os.fstat(descriptor)
            self._check(status)
            if status.st_mode & 0o777 != _MODE:
                with suppress(PermissionError):  # on file systems that keep no modes
                    os.fchmod(descriptor, _MODE)
            yield descriptor
        finally:
            os.close(descriptor)

    def open(self, name: str, flags: int) -> int:
        """Open a file in it, which is made if `flags` has O_CREAT.

        Raises :class:`OSError`: :class:`FileNotFoundError` also when the directory is missing, or
        something was in the place that is not ours, and has been removed.
        """
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        with self.entered() as directory:
            try:
                descriptor = os.open(name, flags, 0o666, dir_fd=directory)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a pipe nobody reads
                    raise
            else:
                try:
                    status = os.fstat(descriptor)
                    if (
                        stat.S_ISREG(status.st_mode)
                        and status.st_nlink <= 1
                        and status.st_uid == os.fstat(directory).st_uid
                    ):
                        _check_name(name, directory, status)
                        return descriptor
                except OSError:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
            os.unlink(name, dir_fd=directory)
            raise FileNotFoundError(errno.ENOENT, "what was there was not ours", name)

    def _check(self, status: os.stat_result) -> None:
        if status.st_uid != os.geteuid() and status.st_uid != self._owner_of_ours():
            raise self._refusal(f"belongs to another user (number {status.st_uid})")

    def _owner_of_ours(self) -> int:
        """Whom the file system has a file of ours belong to: some know one user, or map them."""
        with tempfile.TemporaryFile(dir=self.path.parent) as file:
            return os.fstat(file.fileno()).st_uid

    def _refusal(self, what: str) -> StorageError:
        return StorageError(
            f"cannot write {self.path}: it {what}, by which somebody else could have files of "
            "yours overwritten; remove it, or choose another directory with -o"
        )


def _check_name(name: str, directory: int, status: os.stat_result) -> None:
    """Raise :class:`FileNotFoundError` when an opened file has not this name any more.

    Another thread may have met it while it had two, and have removed this one: the other one is
    left, somewhere else, and makes it no file of ours. Who has one name now, and is found by this
    one later, has no other.
    """
    if not os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), status):
        raise FileNotFoundError(errno.ENOENT, "another file has its name by now", name)
