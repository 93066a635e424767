"""What a publication has beside files: directories with permissions, and symbolic links. Blocking.

They are made when all files have their names. The manifest was checked: links stay inside, and no
file lies behind one. Where a directory above a link turns out to be a link itself, of the user's or
of what was fetched here before, the link may lead no further up than to there: it would mean
another place than in the publication, and perhaps one outside.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from lattica.content.disk import open_below, set_mode, storage_error
from lattica.content.download.local.former import LinkNotes, make_root
from lattica.content.download.plan import Plan
from lattica.content.errors import StorageError
from lattica.content.manifest.links import ups_of

_OWNER = 0o700
"""What the owner of a directory can do in any case, or the next version could not be fetched."""


def make_entries(plan: Plan, out_dir: Path) -> None:
    """Make them. Raises :class:`~lattica.errors.StorageError`."""
    notes = LinkNotes(make_root(out_dir) if plan.links else b"")
    for link in plan.links:
        try:
            _make_link(out_dir, notes, link.path.split("/"), link.target)
        except OSError as error:
            raise storage_error(error, out_dir / link.path) from None
    for directory in sorted(plan.named_directories, key=lambda d: d.path, reverse=True):
        parts = directory.path.split("/")
        try:
            descriptor = open_below(out_dir, parts, make=True)
            try:
                if not _is_link(out_dir, parts):  # else who may enter is the user's to say
                    set_mode(descriptor, directory.mode | _OWNER)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, out_dir / directory.path) from None


def _make_link(out_dir: Path, notes: LinkNotes, parts: list[str], target: str) -> None:
    *above, name = parts
    for depth in range(len(above) - ups_of(target), len(above)):
        if _is_link(out_dir, above[: depth + 1]):
            raise StorageError(
                f"{'/'.join(above[: depth + 1])!r} in {out_dir} is a symbolic link, behind which a "
                "link of the publication would lead elsewhere; remove it, or choose another "
                "directory with -o"
            )
    place = open_below(out_dir, above, make=True)
    former: str | None = None
    try:
        with suppress(OSError):
            former = os.readlink(name, dir_fd=place)
        if former == target:
            return
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        unfinished = f".lattica-link-{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=place)
        os.symlink(target, unfinished, dir_fd=place)
        try:
            os.replace(unfinished, name, src_dir_fd=place, dst_dir_fd=place)
        except OSError:
            os.unlink(unfinished, dir_fd=place)
            raise
        notes.add(place, "/".join(parts), target, former)
        os.fsync(place)
    finally:
        os.close(place)


def _is_link(out_dir: Path, parts: list[str]) -> bool:
    *above, name = parts
    place = open_below(out_dir, above, make=True)
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
    finally:
        os.close(place)
