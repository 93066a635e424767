"""Where received buffers lie: writable memory, aligned for vector instructions."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Final

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""
_MAPPED: Final = 1024 * 1024
"""Bytes from which memory comes from the system, which hands it out page by page as it is filled:
a peer that says that much will come, and sends nothing, takes none."""


def allocate(size: int) -> memoryview:
    """`size` bytes of writable memory whose address is a multiple of :data:`ALIGNMENT`.

    It takes room as it is filled, and need not be zero: whoever asks fills it.

    Raises:
        MemoryError: there is not so much.
    """
    if not size:
        return memoryview(bytearray())
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "empty"):
        block = numpy.empty(size + ALIGNMENT, dtype=numpy.uint8)
        address = block.__array_interface__["data"][0]
        view = memoryview(block)
    elif size >= _MAPPED:
        return _mapped(size)
    else:
        zeroed = bytearray(size + ALIGNMENT)
        address = ctypes.addressof(ctypes.c_char.from_buffer(zeroed))
        view = memoryview(zeroed)
    start = -address % ALIGNMENT
    return view[start : start + size]


def _mapped(size: int) -> memoryview:
    try:
        if sys.platform == "win32":
            return memoryview(mmap.mmap(-1, size))
        return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:
        raise MemoryError(f"no {size} bytes: {error.strerror}") from None


def aligned_copy(data: bytes | bytearray | memoryview) -> memoryview:
    """A writable, aligned copy."""
    target = allocate(len(data))
    target[:] = data
    return target
