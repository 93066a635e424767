"""What a former fetch has left in a directory: files that the publication has no longer.

A program that loads `*.safetensors` would load the shards of two versions. So a fetch tells which
files are not part of what it has fetched, and removes them where that is asked for: those that a
fetch has written and nobody has changed since, and of the others only what the user names.

By what it is known: the directory that is fetched into, the root, gets an extended attribute with
a random name (:data:`ROOT`, `xattr(7)`), and a finished file of a published directory one with its
size and time, its root and its path there (:data:`MARK`). They go away with the file, and are no
files themselves. Links cannot have one: their directory has (:data:`LINKS`). A file counts as
fetched only at that path below that root: what was fetched into a directory below is of another
fetch, is not entered, and neither told of nor removed. Where the disk keeps no attributes, no file
counts as fetched. All functions block.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath

from lattica.content.download.local.leftovers import leftovers, remove_leftover
from lattica.content.download.plan import Plan
from lattica.content.errors import ContentError
from lattica.content.manifest.chunking import FileState
from lattica.content.manifest.paths import MAX_DEPTH, RESERVED_PREFIX

MARK = b"user.lattica.fetched"
"""The attribute of a file: a byte for its form, its size and time of modification, big-endian, the
root's name, and SHA-256 of its path below the root."""
ROOT = b"user.lattica.root"
"""The attribute of a directory that was fetched into: a random name."""
LINKS = b"user.lattica.links"
"""The attribute of a directory in which a fetch has made symbolic links: the root's name, and of
each link eight bytes of the SHA-256 of its path below the root and its target. Most disks keep some
five hundred of these; further links count as the user's."""
_ROOT_BYTES = 16
_LINK_BYTES = 8
MAX_ENTRIES = 250_000
"""Files and directories that are looked at, beside those of the publication."""
_FORM = struct.Struct(">BQq")


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file in the directory of a fetch that is not part of the publication."""

    path: str
    """Within the directory, with `/` between its parts."""
    state: FileState
    fetched: bool
    """A fetch into this directory has written it, here, and it is as it was then."""
    is_link: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return self.state.size


Chosen = Callable[[OtherFile], bool]
"""Whether a file that is not part of the publication may be removed."""


def make_root(out_dir: Path) -> bytes:
    """Note on a directory that it is fetched into; its name, empty where that cannot be kept."""
    with suppress(OSError, AttributeError):  # only Linux has them
        with suppress(FileExistsError):
            os.setxattr(out_dir, ROOT, os.urandom(_ROOT_BYTES), os.XATTR_CREATE)
        return root_of(out_dir)
    return b""


def root_of(directory: Path | int) -> bytes:
    """The name of a directory that was fetched into; empty where it is none."""
    with suppress(OSError, AttributeError):
        return os.getxattr(directory, ROOT)
    return b""


def _note(state: FileState, root: bytes, path: str) -> bytes:
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return _FORM.pack(2, state.size, state.mtime_ns) + root + digest


def mark(descriptor: int, state: FileState, root: bytes, path: str) -> None:
    """Note on a finished file that a fetch into this root has written it, if that can be kept."""
    if root:
        with suppress(OSError, AttributeError):
            os.setxattr(descriptor, MARK, _note(state, root, path))


def _is_marked(descriptor: int, state: FileState, root: bytes, path: str) -> bool:
    if root:
        with suppress(OSError, AttributeError):
            return os.getxattr(descriptor, MARK) == _note(state, root, path)
    return False


def _note_of_link(path: str, target: str) -> bytes:
    text = os.fsencode(path) + b"\0" + os.fsencode(target)
    return hashlib.sha256(text).digest()[:_LINK_BYTES]


def _links_in(directory: int, root: bytes) -> set[bytes]:
    """What is noted of the links that a fetch into this root has made in a directory."""
    with suppress(OSError, AttributeError):
        data = os.getxattr(directory, LINKS)
        if root and data.startswith(root):
            notes = range(len(root), len(data) - _LINK_BYTES + 1, _LINK_BYTES)
            return {data[start : start + _LINK_BYTES] for start in notes}
    return set()


class LinkNotes:
    """Notes on directories of the links that a fetch into this root makes in them, if they can be
    kept."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._full: set[str] = set()
        """Directories of which links that have gone since were forgotten: all that is noted there
        is there."""

    def add(self, directory: int, path: str, target: str, former: str | None) -> None:
        """A link was made in a directory, in the place of one that led to `former`, if any.

        Where there is no room, links that have gone since are forgotten.
        """
        if not self._root:
            return
        notes = _links_in(directory, self._root)
        if former is not None:
            notes.discard(_note_of_link(path, former))
        notes.add(_note_of_link(path, target))
        above = path.rpartition("/")[0]
        if self._keep(directory, notes) or above in self._full:
            return
        self._full.add(above)
        with suppress(OSError), os.scandir(directory) as entries:
            notes &= {
                _note_of_link(
                    f"{above}/{entry.name}" if above else entry.name,
                    os.readlink(entry.name, dir_fd=directory),
                )
                for entry in entries
                if entry.is_symlink()
            }
        self._keep(directory, notes)

    def _keep(self, directory: int, notes: set[bytes]) -> bool:
        with suppress(OSError, AttributeError):
            os.setxattr(directory, LINKS, self._root + b"".join(sorted(notes)))
            return True
        return False


def is_directory(plan: Plan) -> bool:
    """Whether a whole directory was published, so that the one fetched into is to be like it.

    A single file is one of many beside it, and a selection of tensors is no version of anything.
    """
    return plan.is_whole and not plan.is_single_file


def check_deletion(plan: Plan) -> None:
    """Raise :class:`~lattica.errors.ContentError` where it cannot be known what does not belong."""
    if not is_directory(plan):
        raise ContentError(
            "nothing is deleted beside a single file or a selection of tensors: only of a "
            "published directory that is fetched whole it is known what does not belong to it"
        )


@dataclass(frozen=True, slots=True)
class Beside:
    """Files in the directory of a fetch that are not part of the publication."""

    others: tuple[Path, ...] = ()
    """Of former fetches, or with an ending that files of the publication have."""
    former: tuple[Path, ...] = ()
    """Those of them that former fetches have written, and nobody has changed."""
    removed: tuple[Path, ...] = ()
    cut: bool = False
    """There is more in the directory than was looked at."""


def chosen(delete_former: bool, patterns: Sequence[str]) -> Chosen:
    """The files that are to go: those of former fetches if it is said, and what matches."""
    return lambda other: (delete_former and other.fetched) or matches(other.path, patterns)


def beside(plan: Plan, may_go: Chosen) -> Chosen:
    """The same files without those of the publication."""
    wanted = _wanted(plan)
    return lambda other: other.path not in wanted and may_go(other)


def _wanted(plan: Plan) -> set[str]:
    return {output.path for output in plan.outputs} | {link.path for link in plan.links}


def tidy(plan: Plan, out_dir: Path, may_go: Chosen | None, gone: Iterable[OtherFile]) -> Beside:
    """See what lies beside a publication that is complete, and remove what is to go: unfinished
    files of other fetches, too, if those are to go that a fetch has written; and those of other
    versions of a single file, in whose place this one is now, in any case.

    `gone` was removed before.
    """
    if plan.family:
        same = f"{RESERVED_PREFIX}{plan.family}"
        older = [path for path, _ in leftovers(out_dir, plan.key) if path.name.startswith(same)]
        return Beside(removed=tuple(path for path in older if remove_leftover(path)))
    if not is_directory(plan):
        return Beside()
    removed = [*gone, *(remove(plan, out_dir, may_go) if may_go is not None else [])]
    found = other_files(plan, out_dir)
    broken_off: list[OtherFile] = []
    for path, state in leftovers(out_dir, plan.key):
        other = OtherFile(path.name, state, fetched=True)
        goes = may_go is not None and may_go(other) and remove_leftover(path)
        (removed if goes else broken_off).append(other)
    endings = {PurePosixPath(output.path).suffix for output in plan.outputs} - {""}
    others = [
        other
        for other in found.found
        if other.fetched or PurePosixPath(other.path).suffix in endings
    ]
    others += broken_off

    def paths(files: Iterable[OtherFile]) -> tuple[Path, ...]:
        return tuple(out_dir / path for path in sorted(other.path for other in files))

    former = paths(other for other in others if other.fetched)
    return Beside(paths(others), former, paths(removed), found.cut)


@dataclass(frozen=True, slots=True)
class OtherFiles:
    """What :func:`other_files` has found."""

    found: tuple[OtherFile, ...]
    """In no certain order."""
    cut: bool
    """There is more in the directory than is looked at (:data:`MAX_ENTRIES`)."""


def other_files(plan: Plan, out_dir: Path) -> OtherFiles:
    """The regular files below `out_dir` that are not outputs of the plan, and the links that former
    fetches into it have made and that are none of the plan's.

    Links are not followed, and those of others are left out. Other disks that are mounted below it
    are not entered, nor directories that other fetches were into. What cannot be read is left out.
    """
    found = []
    root = root_of(out_dir)
    wanted = _wanted(plan)
    entries = Walk(out_dir, MAX_ENTRIES + len(wanted) + plan.directories)
    for parent, name, path in entries:
        if path in wanted:
            continue
        other = other_file(parent, name, path, root)
        if other is not None:
            found.append(other)
    return OtherFiles(tuple(found), entries.cut)


def other_file(parent: int, name: str, path: str, root: bytes) -> OtherFile | None:
    """What the file `name` of a directory is; None for pipes, links that no fetch has made, and
    what is unreadable.

    `path` is that within the directory of the fetch, and `root` the latter's name.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except OSError:
        return _fetched_link(parent, name, path, root)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        state = FileState.of(status)
        return OtherFile(path, state, _is_marked(descriptor, state, root, path))
    finally:
        os.close(descriptor)


def _fetched_link(parent: int, name: str, path: str, root: bytes) -> OtherFile | None:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        target = os.readlink(name, dir_fd=parent)
    except OSError:  # it is no link
        return None
    is_ours = _note_of_link(path, target) in _links_in(parent, root)
    return OtherFile(path, FileState.of(status), True, is_link=True) if is_ours else None


class Walk:
    """All that is no directory below `out_dir`: (directory's descriptor, name, path within it).

    Directories that other fetches were into are not entered.
    Of a directory its files come first. A descriptor is good until the next one is asked for. There
    are as many descriptors open as directories lie in each other, however many lie side by side.
    """

    def __init__(self, out_dir: Path, most: int) -> None:
        self._out_dir = out_dir
        self._left = most
        self._disk = 0
        self.cut = False
        """There is more than `most` files and directories; the rest was not looked at."""

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        try:
            top = os.open(self._out_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        self._disk = os.fstat(top).st_dev
        opened = [(top, "", iter(self._entries(top)))]
        try:
            while opened:
                descriptor, prefix, entries = opened[-1]
                is_dir, name = next(entries, (False, ""))
                path = prefix + name
                if not name:
                    os.close(opened.pop()[0])
                elif not prefix and name.startswith(RESERVED_PREFIX):
                    continue  # unfinished files of a fetch
                elif not is_dir:
                    yield descriptor, name, path
                elif len(opened) <= MAX_DEPTH:
                    with suppress(OSError):
                        below = enter_directory(descriptor, name, self._disk)
                        if root_of(below):
                            os.close(below)
                            continue
                        opened.append((below, f"{path}/", iter(self._entries(below))))
        finally:
            for descriptor, _, _ in opened:
                os.close(descriptor)

    def _entries(self, descriptor: int) -> list[tuple[bool, str]]:
        """(is a directory, name) of what is in a directory, in order."""
        try:
            with os.scandir(descriptor) as entries:
                names = [
                    (entry.is_dir(follow_symlinks=False), entry.name)
                    for entry in islice(entries, self._left + 1)
                ]
        except OSError:
            return []
        if len(names) > self._left:
            self.cut = True
            del names[self._left :]
        self._left -= len(names)
        return sorted(names)


def enter_directory(parent: int, name: str, disk: int) -> int:
    """Open a directory that is no link and on this disk. Raises :class:`OSError`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=parent)
    if os.fstat(descriptor).st_dev != disk:
        os.close(descriptor)
        raise OSError("another disk")
    return descriptor


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern names a file: by its path within the directory, or by its name."""
    name = PurePosixPath(path).name
    return any(fnmatchcase(path, one) or fnmatchcase(name, one) for one in patterns)


def remove(plan: Plan, out_dir: Path, may_go: Chosen) -> list[OtherFile]:
    """Remove the chosen of :func:`other_files`, and directories that are empty by that.

    Returns what was removed. A file that is another one by then stays, as does what the system
    does not let go. Where there is more than is looked at, what went makes room to see the rest.
    """
    removed: list[OtherFile] = []
    while True:
        before = len(removed)
        others = other_files(plan, out_dir)
        for other in others.found:
            if may_go(other) and remove_file(out_dir, other):
                removed.append(other)
        if not others.cut or len(removed) == before:
            return removed


def remove_file(out_dir: Path, other: OtherFile) -> bool:
    """Remove a file if it still is what it was, and directories that are empty by that."""
    *folders, name = other.path.split("/")
    opened: list[int] = []
    try:
        opened.append(os.open(out_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        disk = os.fstat(opened[0]).st_dev
        for folder in folders:
            opened.append(enter_directory(opened[-1], folder, disk))
        status = os.stat(name, dir_fd=opened[-1], follow_symlinks=False)
        is_kind = stat.S_ISLNK if other.is_link else stat.S_ISREG
        if not is_kind(status.st_mode) or FileState.of(status) != other.state:
            return False
        os.unlink(name, dir_fd=opened[-1])
        with suppress(OSError):  # not empty
            for parent, folder in zip(reversed(opened[:-1]), reversed(folders), strict=True):
                os.rmdir(folder, dir_fd=parent)
        return True
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)
