"""Has the C library keep the memory of large messages for those that come next.

On the way of a tensor through a program of the original's users are many copies: into a message,
into its bytes, into a ZMQ message, and the same again at the other end. From 32 MiB on glibc asks
the kernel for the memory of each, and gives it back; what the kernel does for its pages takes five
times as long as the copy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from lattica.nat.config import MIB

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGEST: Final = 128 * MIB
"""Bytes of the largest blocks that are kept."""
_KEPT: Final = 256 * MIB
"""Free bytes that are kept at the end of the heap; after connections have ended, few are
(:mod:`lattica.nat.swarm.upkeep.heap`)."""


def keep_large_blocks(environment: Mapping[str, str] = os.environ) -> None:
    """Set that up, once for the process; nothing where the environment says how memory is to be
    had (`MALLOC_…`, `GLIBC_TUNABLES`), or the C library is another.
    """
    if "glibc.malloc." in environment.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in environment
    ):
        return
    import ctypes  # nobody else needs it

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    # Other arenas than the first one have at most 64 MiB, and keep no more than that.
    mallopt(_M_ARENA_MAX, 1)
