"""Where received buffers lie: writable memory, aligned for vector instructions."""

from __future__ import annotations

import ctypes
import sys

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""


def allocate(size: int) -> memoryview:
    """`size` bytes of writable memory whose address is a multiple of :data:`ALIGNMENT`.

    Not zeroed where numpy is loaded, which has a way to leave that out: whoever asks fills it.
    """
    if not size:
        return memoryview(bytearray())
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "empty"):
        block = numpy.empty(size + ALIGNMENT, dtype=numpy.uint8)
        address = block.__array_interface__["data"][0]
        view = memoryview(block)
    else:
        zeroed = bytearray(size + ALIGNMENT)
        address = ctypes.addressof(ctypes.c_char.from_buffer(zeroed))
        view = memoryview(zeroed)
    start = -address % ALIGNMENT
    return view[start : start + size]


def aligned_copy(data: bytes | bytearray | memoryview) -> memoryview:
    """A writable, aligned copy."""
    target = allocate(len(data))
    target[:] = data
    return target
