"""The file of the API's socket: only its user can open it, and a client looks whose it is."""

from __future__ import annotations

import fcntl
import os
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

_TEMPORARY = ".s"
"""What begins the name of the folder in which a socket is made; short, as paths of sockets are."""


@contextmanager
def held(path: Path) -> Iterator[Path]:
    """Hold a place for a socket in this block: where to bind it, before :func:`publish` gives it
    its name. When the block ends, the socket is gone.

    It is bound in a folder that nobody else can enter, so that it never has another mode than 0600
    under a name that others can reach.

    Raises:
        DaemonError: another program listens there.
        ConfigError: the path is too long, or nothing can be made there.
    """
    # The name for binding is longer.
    longest = len(os.fsencode(path.parent)) + len("/") + len(_TEMPORARY) + 8 + len("/s")
    if max(longest, len(os.fsencode(path))) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the path of a socket has at most {MAX_SOCKET_PATH} bytes: {path} is too long; name "
            "another one as node.socket"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(
            path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise ConfigError(f"no socket can be made at {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonError(f"another daemon listens at {path}") from None
        for left in path.parent.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=path.parent))
        try:
            yield folder / "s"
        finally:
            with suppress(OSError):
                path.unlink()
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


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
