"""The journal of a fetch: which chunks it has verified and written, and that it is going on.

To it four bytes (the chunk's number, big endian) are appended for each. It is only a hint: on
resumption every chunk that it names is hashed again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from lattica.content.disk import ATTEMPTS, read_exactly, storage_error
from lattica.content.download.partial.private_directory import PrivateDirectory
from lattica.content.errors import StorageError

logger = logging.getLogger(__name__)

_NAME = "journal"
_ENTRY_BYTES = 4
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


@contextmanager
def held(unfinished: PrivateDirectory) -> Iterator[None]:
    """Keep fetches from a directory of unfinished files.

    Raises :class:`OSError` where one is at work, or nobody can say, and :class:`StorageError` where
    it is another user's.
    """
    journal = unfinished.open(_NAME, os.O_RDWR)
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(journal)


class Journal:
    """The file `journal` of a directory of unfinished files, which it makes and locks.

    The lock only spares two fetches the double work.
    """

    def __init__(self, unfinished: PrivateDirectory) -> None:
        self._unfinished = unfinished
        self._file = -1

    def open(self) -> None:
        """Make and lock it; raises :class:`StorageError`."""
        try:
            self._file = self._open()
            # After half an entry all later ones would be read wrongly.
            size = os.fstat(self._file).st_size
            os.ftruncate(self._file, size - size % _ENTRY_BYTES)
        except BlockingIOError:
            self.close()
            raise StorageError(
                f"another fetch of the same content into {self._unfinished.path.parent} is going "
                "on; wait for it, or choose another directory"
            ) from None
        except OSError as error:
            self.close()
            raise storage_error(error, self._unfinished.path / _NAME) from None

    def _open(self) -> int:
        """What is returned had a name after it was locked."""
        for _ in range(ATTEMPTS):
            self._unfinished.make()
            with suppress(FileNotFoundError):
                journal = self._unfinished.open(_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                try:
                    self._lock(journal)
                    if os.fstat(journal).st_nlink:
                        return journal
                except OSError:
                    os.close(journal)
                    raise
                os.close(journal)  # the fetch that had the lock has finished and removed it
        path = str(self._unfinished.path)
        raise FileNotFoundError(errno.ENOENT, "removed again and again", path)

    def _lock(self, journal: int) -> None:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.info(
                "%s has no locks; a second fetch into it goes unnoticed",
                self._unfinished.path.parent,
            )

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def is_empty(self) -> bool:
        """Whether it names nothing. Raises :class:`OSError`: it is not open."""
        return not os.fstat(self._file).st_size

    def numbers(self) -> frozenset[int]:
        """The chunks that it names; raises :class:`StorageError`."""
        try:
            data = bytearray(os.fstat(self._file).st_size)
            if not read_exactly(self._file, memoryview(data), 0):
                return frozenset()  # cut by somebody else
        except OSError as error:
            raise storage_error(error, self._unfinished.path) from None
        starts = range(0, len(data), _ENTRY_BYTES)
        return frozenset(int.from_bytes(data[at : at + _ENTRY_BYTES], "big") for at in starts)

    def append(self, numbers: Iterable[int]) -> None:
        """Name these, too; raises :class:`StorageError`."""
        entries = b"".join(number.to_bytes(_ENTRY_BYTES, "big") for number in numbers)
        try:
            os.write(self._file, entries)
        except OSError as error:
            raise storage_error(error, self._unfinished.path) from None
