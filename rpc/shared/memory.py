"""Anonymous memory that can be handed to another process, which cannot take it back or shrink it.

Linux only (memfd_create(2), F_ADD_SEALS in fcntl(2)). It has no name in any file system, so nothing
is left of it when the processes that have it are gone, however they end.
"""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress
from typing import Final

from lattica.nat.base.errors import RemoteProtocolError
from lattica.rpc.shared.slots import SLOT

IS_AVAILABLE: Final = sys.platform == "linux" and hasattr(os, "memfd_create")
MOST_SLOTS: Final = 4096

if sys.platform == "linux":
    import fcntl

    _SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Memory:
    """A mapping of such memory; :attr:`view` is writable in the process that made it only."""

    def __init__(self, descriptor: int, size: int, *, writable: bool) -> None:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(descriptor, size, access=access)
        self.view = memoryview(self._map)
        self.slots = size // SLOT

    def close(self) -> None:
        """Give it back. Idempotent."""
        self.view.release()
        with suppress(BufferError):  # it goes with the last view of it
            self._map.close()


def create(slots: int) -> tuple[Memory, int]:
    """New memory, and a descriptor for the other process, to be closed when it has been sent.

    It takes room only where it is written to. Raises OSError.
    """
    descriptor = os.memfd_create("lattica-rpc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, slots * SLOT)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return Memory(descriptor, slots * SLOT, writable=True), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def adopt(descriptor: int) -> Memory:
    """The memory behind a descriptor that another process has sent; the descriptor is closed.

    Reading what lies in a file that somebody cuts off kills a process (SIGBUS), so it must be
    sealed against that, and in small pages, of which there always are some.

    Raises:
        RemoteProtocolError: it is something else.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        size = os.fstat(descriptor).st_size
        page = os.fstatvfs(descriptor).f_bsize
        if seals & _SEALS != _SEALS or page != mmap.PAGESIZE:
            raise RemoteProtocolError("RPC: shared memory that can be taken away")
        if size % SLOT or not 0 < size <= MOST_SLOTS * SLOT:
            raise RemoteProtocolError(f"RPC: shared memory of {size} bytes")
        return Memory(descriptor, size, writable=False)
    except OSError as error:
        raise RemoteProtocolError(f"RPC: no shared memory: {error}") from None
    finally:
        os.close(descriptor)
