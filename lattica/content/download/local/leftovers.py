"""Unfinished files of fetches of something else that were broken off in the same directory: of the
former version of a name, for instance.

What they have is copied where it is of use. They go with what former fetches have written; nobody
else would ever look at them again. All functions block.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from lattica.content.download.partial.journal import held
from lattica.content.download.partial.private_directory import PrivateDirectory
from lattica.content.errors import StorageError
from lattica.content.manifest.chunking import FileState
from lattica.content.manifest.paths import RESERVED_PREFIX


def leftovers(out_dir: Path, key: str) -> list[tuple[Path, FileState]]:
    """The directories of unfinished files in a directory, but for that of the plan with this key.

    Only this user's, and none that a fetch is at work on: where the file system has no locks nobody
    can say, and there are none.
    """
    found = []
    with suppress(OSError):
        for name in sorted(os.listdir(out_dir)):
            path = out_dir / name
            if not name.startswith(RESERVED_PREFIX) or name == f"{RESERVED_PREFIX}{key}":
                continue
            with suppress(OSError, StorageError), held(PrivateDirectory(path)):
                found.append((path, FileState.of(path.lstat())))
    return found


def unfinished_files(out_dir: Path, key: str) -> list[tuple[Path, int]]:
    """The files in :func:`leftovers` that have something, and their sizes; large ones first."""
    found = []
    for directory, _ in leftovers(out_dir, key):
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.name.isdecimal() and status.st_blocks:
                    found.append((directory / entry.name, status.st_size))
    return sorted(found, key=lambda each: -each[1])


def remove_leftover(directory: Path) -> bool:
    """Remove one of :func:`leftovers`, unless a fetch has gone on with it; whether it is gone."""
    with suppress(OSError, StorageError), held(PrivateDirectory(directory)):
        shutil.rmtree(directory, ignore_errors=True)
    return not os.path.lexists(directory)
