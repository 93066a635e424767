"""Whether the disk has room for what is to come. Blocking."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from lattica.content.disk import format_bytes, storage_error
from lattica.content.download.plan import Plan
from lattica.content.errors import StorageError

_SPARE_ENTRIES = 16
"""Files and directories of a fetch itself."""
_SPARE_BYTES = 4 * 1024 * 1024
"""For directories and the journal, on top of the files."""


def check_room(needed: int, out_dir: Path, directory: Path) -> None:
    """Raise :class:`StorageError` unless so many bytes fit where `directory` is, in `out_dir`."""
    needed += _SPARE_BYTES
    try:
        free = shutil.disk_usage(directory).free
    except FileNotFoundError:
        return  # removed by somebody else; writing makes it anew
    except OSError as error:
        raise storage_error(error, directory) from None
    if free < needed:
        raise StorageError(
            f"{out_dir} has {format_bytes(free)} free, and {format_bytes(needed)} are "
            "needed; free some space, or choose another directory with -o"
        )


def check_entries(plan: Plan, out_dir: Path, directory: Path, present: Collection[int]) -> None:
    """Raise :class:`StorageError` unless there is room for so many files and directories, however
    small they are; `present` are the outputs that are there."""
    needed = len(plan.outputs) - len(present) + plan.directories + _SPARE_ENTRIES
    try:
        disk = os.statvfs(directory)
    except OSError:
        return  # what is the matter shows when the space is looked at
    # File systems that make them as needed say that there are none.
    if disk.f_files and disk.f_favail < needed:
        raise StorageError(
            f"{out_dir} has room for {disk.f_favail} more files and directories, and "
            f"{needed} are needed; remove some, or choose another directory with -o"
        )
