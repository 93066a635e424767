"""Where tests have files that need no disk."""

from __future__ import annotations

import os


def memory_folder() -> str | None:
    """A folder in memory, if there is one: what is tested is which files there are."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
