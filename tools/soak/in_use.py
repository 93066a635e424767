"""What of a process's memory is in use, by its own word: what resident memory is beyond that are
holes in the heap, which grow until they hold whatever comes, and are no leak."""

from __future__ import annotations

import ctypes
import sys

MIB = 1 << 20


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2`, mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    )  # fmt: skip


def in_use() -> dict[str, float]:
    """By figure: thousands of small objects, which Python allocates itself, and MiB of what is
    larger or a library's, where the C library tells (glibc 2.33)."""
    found = {"objects": sys.getallocatedblocks() / 1000}
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return found
    mallinfo.restype = _MallInfo
    info = mallinfo()
    return found | {"heap": (info.uordblks + info.hblkhd) / MIB}
