"""One key, one node: a key file is locked for as long as a node uses it.

Two nodes with one key are one peer at two places: whoever asks for it reaches now the one, now
the other. The lock is `flock(2)` on the key file itself, so it holds for every name of that file,
ends with the program however that ends, and leaves nothing on disk.

For copies of the file on this machine, also one that took its name meanwhile, there is a second
lock on Linux: a socket with an abstract name (`unix(7)`), which ends with the program as well. The
name is made of the secret key, so that nobody can tell it from the peer ID; and since it can be
seen while it is in use, only a program of this user or of root counts. A network namespace, as a
container has one, is another machine here.

Of a copy on another machine, peers take notice (:mod:`lattica.nat.swarm.upkeep.same_key`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import logging
import os
import socket
import struct
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lattica.nat.base.errors import IdentityError, KeyInUseError
from lattica.nat.base.keys.identity import Identity

logger = logging.getLogger(__name__)

_NO_LOCKS = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EACCES}
)
"""What file systems say that have no such locks, and NFS of a file that may only be read."""
_LOCKS = Path("/proc/locks")
_CREDENTIALS = struct.Struct("iII")
"""`struct ucred` of SO_PEERCRED: process, user, group."""
_MAX_COMMAND = 200
"""Characters of a command line that are shown."""


class KeyLock:
    """Holds a key file, and the key that was read from it, for one node.

    `with KeyLock(path, identity): …`. Entering does not wait.

    Raises:
        KeyInUseError: another node holds it, of this program or of another one, which is named
            where the system tells.
        IdentityError: the file cannot be opened.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self._path = path
        self._identity = identity
        self._descriptor = -1
        self._name: socket.socket | None = None

    def __enter__(self) -> KeyLock:
        self._lock_file()
        try:
            self._lock_name()
        except KeyInUseError:
            self.__exit__(None, None, None)
            raise
        _held.add(self)
        return self

    def _lock_name(self) -> None:
        if sys.platform != "linux":
            return
        name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            name.bind(_abstract_name(self._identity))
            # What programs that were refused leave in the queue stays there.
            name.listen(socket.SOMAXCONN)
        except OSError as error:
            name.close()
            if error.errno != errno.EADDRINUSE:
                logger.debug("no second lock for the key: %s file=%s", error, self._path)
                return
        else:
            self._name = name
            return
        owner = _owner_of_name(self._identity)
        if owner is None:
            return
        process, user = owner
        if user in (os.geteuid(), 0):
            raise KeyInUseError(_refusal(self._path, process or None))
        logger.warning(
            "a program of another user, or one that does not answer, has the lock of this key: "
            "that nobody else uses the key at the same time is left to you file=%s",
            self._path,
        )

    def _lock_file(self) -> None:
        try:
            descriptor = _open(self._path)
        except OSError as error:
            raise IdentityError(
                f"cannot open the key file {self._path}: {error.strerror}"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(os.fstat(descriptor))
            os.close(descriptor)
            if holder is None:  # on overlayfs and btrfs, locks are listed under another device
                process, _ = _owner_of_name(self._identity) or (-1, -1)
                holder = process if process > 0 else None
            raise KeyInUseError(_refusal(self._path, holder)) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise IdentityError(
                    f"cannot lock the key file {self._path}: {error.strerror}"
                ) from None
            logger.warning(
                "the key file cannot be locked: %s; that nobody else uses it at the same time "
                "is left to you file=%s",
                error.strerror,
                self._path,
            )
            return
        self._descriptor = descriptor

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._name is not None:
            # A child that was forked meanwhile may have it, too: it answers nobody from now on.
            with suppress(OSError):
                self._name.shutdown(socket.SHUT_RDWR)
            self._close_name()
        descriptor, self._descriptor = self._descriptor, -1
        _held.discard(self)
        if descriptor >= 0:
            # A child that was forked meanwhile may have the descriptor, too.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _forget(self) -> None:
        """In a forked child, which is no node: or the lock would live as long as the child."""
        self._close_name()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _close_name(self) -> None:
        name, self._name = self._name, None
        if name is not None:
            name.close()


_held: weakref.WeakSet[KeyLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in tuple(_held):
        lock._forget()
    _held.clear()


os.register_at_fork(after_in_child=_forget_all)


def _open(path: Path) -> int:
    # NFS locks exclusively only what may be written; elsewhere a key that may only be read will do.
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY):
            raise
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _abstract_name(identity: Identity) -> bytes:
    digest = hmac.new(identity.seed, b"lattica key lock", hashlib.sha256).hexdigest()
    return b"\0lattica-key-" + digest[:32].encode()


def _owner_of_name(identity: Identity) -> tuple[int, int] | None:
    """(process, user) that has the name; -1 where it cannot be told, None where it was let go."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
        asker.setblocking(False)
        try:
            asker.connect(_abstract_name(identity))
            raw = asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except ConnectionRefusedError:
            return None
        except OSError:
            return -1, -1
    process, user, _ = _CREDENTIALS.unpack(raw)
    return process, user


def _holder(status: os.stat_result) -> int | None:
    """The process that holds a lock on a file; None where the system does not tell (proc(5))."""
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError, ValueError):
        for line in _LOCKS.read_text().splitlines():
            match line.split():
                case [_, "FLOCK", _, _, pid, where, *_] if where == file and int(pid) > 0:
                    return int(pid)
    return None


def _refusal(path: Path, holder: int | None) -> str:
    if holder == os.getpid():
        who = "a node of this program"
        end = "leave that one first"
    else:
        who = "another program" if holder is None else _described(holder)
        end = "join that one (it can be connected to like any peer), or end it"
    return (
        f"the key in {path} is in use by {who}: one key is one peer, and cannot be at two places; "
        f"{end}, or give this one a key of its own: --ephemeral (identity_path = None) for one "
        "that lives as long as it runs, --identity FILE (identity_path) for one that stays"
    )


def _described(pid: int) -> str:
    command = ""
    with suppress(OSError):
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        words = raw.decode("utf-8", "backslashreplace").split("\0")
        command = " ".join(words).strip()[:_MAX_COMMAND]
    text = "".join(c if c.isprintable() else "?" for c in command)
    return f"process {pid} ({text})" if text else f"process {pid}"
