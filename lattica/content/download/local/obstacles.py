"""What lies in the way of the files of a fetch: a file where a directory belongs, and the reverse.

A name that was a file in one version may be a directory in the next. That is looked at before
anything is fetched, since the files get their names only at the end. What may be removed is removed
just before the name is given. Links that lead to directories are followed. All functions block.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from lattica.content.disk import open_below, storage_error
from lattica.content.download.local.former import (
    Chosen,
    OtherFile,
    enter_directory,
    other_file,
    remove_file,
    root_of,
)
from lattica.content.download.plan import Plan
from lattica.content.errors import StorageError

_MAX_BELOW = 100_000
"""Files and directories that are looked at in a directory that is in the way."""


def check_obstacles(plan: Plan, out_dir: Path, may_go: Chosen | None) -> None:
    """Raise :class:`StorageError` where something is in the way that is not to be removed."""
    found = []
    for path in _obstacles(plan, out_dir):
        files = _removable(out_dir, path)
        if files is None or may_go is None or not all(map(may_go, files)):
            found.append((path, files))
    if not found:
        return
    path, files = found[0]
    shown = out_dir / path
    if shown.is_dir():
        what, belongs = "directory", "file"
    elif shown.is_symlink():
        what, belongs = "symbolic link that leads to no directory", "directory"
    else:
        what, belongs = "file", "directory"
    more = f" ({len(found) - 1} more names are in the way)" if len(found) > 1 else ""
    advice = "move it away"
    if files and all(file.fetched for file in files):
        advice += ", or give --delete: a former fetch has written it"
    raise StorageError(
        f"cannot write {shown}: it is a {what}, where a {belongs} belongs; {advice}{more}"
    )


def _obstacles(plan: Plan, out_dir: Path) -> Iterator[str]:
    """Paths within the directory at which something is in the way; each once."""
    ways: dict[str, bool] = {"": os.path.isdir(out_dir)}
    """The directories above outputs: whether there is one."""
    for wanted in (*(o.path for o in plan.outputs), *(link.path for link in plan.links)):
        *above, _ = wanted.split("/")
        path, is_there = "", ways[""]
        for number, part in enumerate(above):
            path = f"{path}/{part}" if path else part
            if not is_there:
                break
            if path not in ways:
                ways[path] = _is_directory(out_dir, above[: number + 1])
                if not ways[path] and os.path.lexists(out_dir / path):
                    yield path
            is_there = ways[path]
        if is_there and _mode(out_dir / wanted, stat.S_ISDIR):
            yield wanted


def _mode(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        return is_kind(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(error, path) from None


def _is_directory(out_dir: Path, parts: list[str]) -> bool:
    path = out_dir.joinpath(*parts)
    if not _mode(path, stat.S_ISLNK):
        return _mode(path, stat.S_ISDIR)
    try:
        os.close(open_below(out_dir, parts, make=False))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise storage_error(error, path) from None
    return True


def _removable(out_dir: Path, path: str) -> list[OtherFile] | None:
    """The files at and below a path, which is free when they are removed; None: it is not then."""
    *above, name = path.split("/")
    opened: list[int] = []
    found: list[OtherFile] = []
    left = _MAX_BELOW
    root = root_of(out_dir)
    try:
        opened.append(os.open(out_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        disk = os.fstat(opened[0]).st_dev
        for part in above:
            opened.append(enter_directory(opened[-1], part, disk))
        if stat.S_ISDIR(os.stat(name, dir_fd=opened[-1], follow_symlinks=False).st_mode):
            waiting = [path]
        else:
            one = other_file(opened[-1], name, path, root)
            return None if one is None else [one]
    except OSError:
        return None
    finally:
        for descriptor in opened:
            os.close(descriptor)
    while waiting:
        folder = waiting.pop()
        try:
            descriptor = open_below(out_dir, folder.split("/"), make=False)
        except OSError:
            return None
        before = len(found) + len(waiting)
        try:
            if root_of(descriptor):
                return None  # of another fetch
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    left -= 1
                    inner = f"{folder}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(inner)
                        continue
                    one = other_file(descriptor, entry.name, inner, root)
                    if one is None or left < 0:
                        return None
                    found.append(one)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if len(found) + len(waiting) == before:
            return None  # an empty directory, which no fetch has made
    return found


def remove_obstacles(out_dir: Path, path: str, may_go: Chosen) -> list[OtherFile]:
    """Remove what is in the way of the file `path`, if all of that may go; returns the files.

    Nothing is removed where a part of it has to stay: giving the name says then what is in its way.
    """
    *above, _ = path.split("/")
    for number in range(1, len(above) + 1):
        if not out_dir.joinpath(*above[:number]).is_dir():
            way = "/".join(above[:number])
            break
    else:
        way = path
        if not _mode(out_dir / path, stat.S_ISDIR):
            return []
    files = _removable(out_dir, way)
    if files is None or not all(map(may_go, files)):
        return []
    return [file for file in files if remove_file(out_dir, file)]
