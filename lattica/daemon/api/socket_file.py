"""The file of the API's socket: only its user can open it, and a client looks whose it is."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lattica.daemon.errors import DaemonError
from lattica.daemon.node.config import MAX_SOCKET_PATH
from lattica.nat.base.errors import ConfigError
from lattica.nat.base.printable import is_encodable

_TEMPORARY = ".s"
"""What begins the name of the folder in which a socket is made; short, as paths of sockets are."""
_FOLDER = re.compile(re.escape(_TEMPORARY) + "[a-z0-9_]{8}")
"""What :func:`tempfile.mkdtemp` makes of it."""


@contextmanager
def held(path: Path) -> Iterator[Path]:
    """Hold a place for a socket in this block: where to bind it, before :func:`publish` gives it
    its name. When the block ends, the socket is gone.

    It is bound in a folder that nobody else can enter, so that it never has another mode than 0600
    under a name that others can reach. The lock's file names that folder: what a killed daemon has
    left is found by it, and nothing else beside the socket is touched.

    Raises:
        DaemonError: another program listens there.
        ConfigError: the path is too long, or nothing can be made there, or the file of the lock is
            another user's.
    """
    if not is_encodable(str(path)):  # gRPC takes no other
        raise ConfigError(f"the path of a socket is UTF-8, not {path}; name another as node.socket")
    # The name for binding is longer.
    longest = len(os.fsencode(path.parent)) + len("/") + len(_TEMPORARY) + 8 + len("/s")
    if max(longest, len(os.fsencode(path))) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the path of a socket has at most {MAX_SOCKET_PATH} bytes: {path} is too long; name "
            "another one as node.socket"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        lock = os.open(path.with_name(path.name + ".lock"), flags, 0o600)
    except OSError as error:
        raise ConfigError(f"no socket can be made at {path}: {error.strerror}") from None
    try:
        status = os.fstat(lock)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise ConfigError(f"{path}.lock is no file of this user's, so that {path} is not used")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonError(f"another daemon listens at {path}") from None
        _remove_left(lock, path.parent)
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
        try:
            os.pwrite(lock, folder.name.encode(), 0)
            yield folder / "s"
        finally:
            with suppress(OSError):
                path.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def _remove_left(lock: int, parent: Path) -> None:
    """Remove the folder that is named in the lock's file."""
    name = os.pread(lock, 64, 0).decode("ascii", "replace")
    if _FOLDER.fullmatch(name):
        folder = parent / name
        with suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)


def publish(bound: Path, path: Path) -> None:
    """Give a socket its name; what a killed daemon has left there is replaced."""
    bound.chmod(0o600)
    bound.replace(path)


def is_there(path: Path) -> bool:
    """Whether a daemon listens there that this user may trust: the socket is this user's, and
    nobody else could have put it there or can open it.

    False where nothing is, or nobody listens any more.

    Raises:
        DaemonError: there is something that cannot be trusted.
    """
    try:
        status, folder = path.lstat(), path.parent.stat()
    except OSError:
        return False
    if not stat.S_ISSOCK(status.st_mode):
        raise DaemonError(f"{path} is no socket")
    if status.st_uid != os.getuid():
        raise DaemonError(f"{path} is the socket of another user ({status.st_uid})")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise DaemonError(f"{path} can be opened by others: its mode is not 0600")
    others_write = folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
    if folder.st_uid not in (os.getuid(), 0) or others_write:
        raise DaemonError(f"others can put a socket into {path.parent}, so that it is not used")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
