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
from lattica.rpc.data_plane.shared.slots import SLOT

IS_AVAILABLE: Final = sys.platform == "linux" and hasattr(os, "memfd_create")
MOST_SLOTS: Final = 4096

if sys.platform == "linux":
    import fcntl

    _SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Memory:
    """A mapping of such memory; :attr:`view` is writable in the process that made it only.

    Args:
        kept: the descriptor of another process's memory, closed with it.
    """

    def __init__(self, descriptor: int, size: int, *, writable: bool, kept: bool = False) -> None:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(descriptor, size, access=access)
        self._descriptor = descriptor if kept else None
        self._filled: dict[int, int] = {}
        """How many bytes of each slot, by its beginning, have been written."""
        self.view = memoryview(self._map)
        self.slots = size // SLOT

    def filled(self, start: int, size: int) -> memoryview:
        """What another process has written from the beginning of a slot on.

        That is looked up the first time only, as it is work; whoever makes a hole later fills no
        more than this memory.

        Raises:
            RemoteProtocolError: it has not written all of that. Reading a hole fills it with pages,
                which count as this process's.
        """
        if size > self._filled.get(start, 0):
            try:
                if self._descriptor is None:
                    raise RemoteProtocolError("RPC: the memory that was shared is gone")
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as error:  # ENXIO: beyond its end
                raise RemoteProtocolError(f"RPC: no shared memory there: {error}") from None
            if end < start + size:
                raise RemoteProtocolError("RPC: nothing was written to that shared memory")
            self._filled[start] = min(end - start, SLOT)
        return self.view[start : start + size]

    def close(self) -> None:
        """Give it back. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
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


def adopt(descriptor: int, most_slots: int = MOST_SLOTS) -> Memory:
    """The memory behind a descriptor that another process has sent, which is closed with it.

    Nothing else is asked of a descriptor than what the kernel answers itself, until it is known to
    be of memory.

    Reading what lies in a file that somebody cuts off kills a process (SIGBUS), so it must be
    sealed against that, and in small pages, of which there always are some. Its size is read when
    it can change no more.

    Args:
        most_slots: how many this node takes; pages of holes that are read are this process's, and
            whoever made the memory can make holes in it at any time.

    Raises:
        RemoteProtocolError: it is something else, or larger. The descriptor is left to the caller:
            whoever closes it may have to wait (:mod:`lattica.rpc.data_plane.shared.closing`).
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        size = os.fstat(descriptor).st_size
        page = os.fstatvfs(descriptor).f_bsize
        if seals & _SEALS != _SEALS or page != mmap.PAGESIZE:
            raise RemoteProtocolError("RPC: shared memory that can be taken away")
        if size % SLOT or not 0 < size <= most_slots * SLOT:
            raise RemoteProtocolError(f"RPC: shared memory of {size} bytes")
        return Memory(descriptor, size, writable=False, kept=True)
    except OSError as error:
        raise RemoteProtocolError(f"RPC: no shared memory: {error}") from None
