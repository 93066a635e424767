"""Files that hold a secret: read only if nobody else can have read or made them, and made so."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

_ROOT = 0


class UnprotectedFileError(Exception):
    """The file is not a secret, or not ours; the message says so of it, and what to do."""


def read_private_file(path: Path, limit: int) -> bytes:
    """Read at most `limit` bytes of a file that nobody else may have access to.

    Raises:
        OSError: it cannot be read.
        UnprotectedFileError: it is not a regular file (opening a named pipe would wait for its
            writer), belongs to somebody else than this process's user and root, or group or
            others have access to it.
    """
    # Links are followed, as the mounts of containers need: what they lead to is looked at.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        check_private(os.fstat(descriptor), path)
        # A regular file gives all there is up to this, unless it is cut at this moment.
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def check_private(status: os.stat_result, path: Path) -> None:
    """Raise :class:`UnprotectedFileError` unless a file with this status can hold a secret.

    Of a directory, :class:`IsADirectoryError`.
    """
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise UnprotectedFileError("is not a regular file; name one that holds the key")
    if os.name != "posix":
        return
    if status.st_uid not in (os.geteuid(), _ROOT):
        whose = f"belongs to another user (number {status.st_uid}), who can read and replace it."
        if os.geteuid() == _ROOT:
            raise UnprotectedFileError(f"{whose} Run this as that user")
        raise UnprotectedFileError(
            f"{whose} If you trust what is in it, run as root: chown {os.geteuid()} {path}"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise UnprotectedFileError(
            f"is accessible to group or others (mode {mode:04o}), and whoever reads it has the "
            f"key. Run: chmod 600 {path}"
        )


def write_private_file(path: Path, data: bytes) -> None:
    """Make a file of mode 0600, and folders above it that are missing; never overwrites one.

    Raises:
        FileExistsError: it is there already.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written aside and linked, so that no reader ever sees half a key.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
