"""Folders for unix sockets that nobody else can enter, and that go away with their process.

A folder whose process was killed is removed by whoever makes the next one: each process holds a
lock on a file in its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

_PREFIX = "lattica-grpc-"
_LOCK = "lock"


class SocketFolder:
    """A new folder of mode 0700; :meth:`remove` it, or it goes with this object or the process."""

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir())
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self.remove = weakref.finalize(self, _remove, self.path, descriptor, os.getpid())
        """Remove it with all that is in it. Idempotent."""

    @property
    def socket(self) -> Path:
        """Where a socket may be: one for each folder."""
        return self.path / "grpc.sock"


def _remove(path: Path, descriptor: int, owner: int) -> None:
    if os.getpid() == owner:  # and not in a child that was forked
        shutil.rmtree(path, ignore_errors=True)
    os.close(descriptor)


def _sweep(base: Path) -> None:
    for path in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if path.lstat().st_uid == os.getuid() and _is_left_behind(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_left_behind(path: Path) -> bool:
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
