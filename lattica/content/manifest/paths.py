"""Which file names a manifest may carry.

A manifest comes from a stranger and its names become paths on our disk, so they are restricted
to what is a relative path, and the same path, on every system: no `..`, nothing absolute, no
separators of other systems, no control characters, and no two names that a file system without
case or with another Unicode normal form would take for one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

MAX_PATH_BYTES = 1024
MAX_COMPONENT_BYTES = 255
MAX_DEPTH = 64

_SPARE_DIRECTORIES, _DIRECTORIES_PER_FILE = 1024, 4
"""So many directories a publication may have, and for each of its files so many more."""

RESERVED_PREFIX = ".lattica-"
"""Names at the top of a download that belong to its journal."""

# Characters that make a name display as another (Unicode bidirectional control).
_BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


@lru_cache(maxsize=1024)
def _problem(character: str) -> str | None:
    """Why no name may contain this character."""
    category = unicodedata.category(character)
    if category == "Cs":
        byte = ord(character) - 0xDC00  # as Python spells bytes that are no UTF-8
        what = f" (byte 0x{byte:02x})" if 0x80 <= byte <= 0xFF else ""
        return f"is not UTF-8{what}"
    shown = f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
    if character in _BIDI_CONTROLS:
        return f"contains the invisible text direction mark {shown}"
    if category in {"Zl", "Zp"}:
        return f"contains the line break {shown}"
    if category == "Cc":
        return f"contains the control character {shown} ({character!r})"
    return None


def check_component(name: str) -> None:
    """Check one file or directory name.

    Raises:
        ValueError: it cannot be one; says why.
    """
    if not name:
        raise ValueError("a path has an empty part")
    if name in {".", ".."}:
        raise ValueError(f"a path contains {name!r}")
    if not name.isprintable():  # most are, and all that is below is not
        for character in name:
            if (problem := _problem(character)) is not None:
                raise ValueError(f"the name {name!r} {problem}; rename it")
    for character in "/\\":
        if character in name:
            raise ValueError(f"the name {name!r} contains {character!r}")
    if len(name.encode()) > MAX_COMPONENT_BYTES:
        raise ValueError(f"the name {name[:40]!r}… is longer than {MAX_COMPONENT_BYTES} bytes")


def check_path(path: str) -> None:
    """Check one relative path with `/` between its parts; raises :class:`ValueError`."""
    for part in _parts(path):
        _check_part(part, path)


def _parts(path: str) -> list[str]:
    """The parts of a path whose length, depth and beginning are allowed."""
    # Characters first: cheap, and bounds what the messages below can quote.
    if len(path) > MAX_PATH_BYTES or len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        raise ValueError(f"the path {path[:40]!r}… is longer than {MAX_PATH_BYTES} bytes")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise ValueError(f"the path {path[:40]!r}… is more than {MAX_DEPTH} directories deep")
    if len(parts[0]) > 1 and parts[0][1] == ":":
        raise ValueError(f"the path {path!r} begins with a drive letter")
    if parts[0].lower().startswith(RESERVED_PREFIX):
        raise ValueError(f"the path {path!r} begins with the reserved name {RESERVED_PREFIX!r}")
    return parts


def _check_part(part: str, path: str) -> None:
    try:
        check_component(part)
    except ValueError as error:
        if part == path:
            raise
        raise ValueError(f"{error} (of {path!r})") from None


def _collision(one: str, other: str) -> str:
    if one == other:
        return f"the path {one!r} is there twice"
    shown = repr
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        shown = ascii  # they look the same: letters are composed in two ways
    return f"the paths {shown(one)} and {shown(other)} collide: they are one file on some disks"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class _Directories:
    """The directories of a set of paths. Each part of a path is looked at, and kept, once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers: dict[tuple[int, str], int] = {}
        """By the directory above (0: the top) and the folded name."""
        self._names: list[tuple[int, str]] = [(0, "")]
        """By number: the directory above, and the name."""

    def __contains__(self, key: tuple[int, str]) -> bool:
        return key in self._numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def enter(self, key: tuple[int, str], name: str, path: str) -> int:
        """The number of a directory on the way to `path`, which is new or has this very name."""
        number = self._numbers.get(key)
        if number is None:
            _check_part(name, path)
            if len(self) >= self._limit:
                raise ValueError(
                    f"more than {self._limit} directories, where {_DIRECTORIES_PER_FILE} for each "
                    f"file and {_SPARE_DIRECTORIES} more are allowed"
                )
            number = self._numbers[key] = len(self._names)
            self._names.append((key[0], name))
        elif self._names[number][1] != name:
            # Directories that differ only in case would silently become one.
            above = self.path_of(key[0])
            other = "/".join((*above, name))
            first = "/".join(self.path_of(number))
            raise ValueError(f"the directories {first!r} and {other!r} collide")
        return number

    def path_of(self, number: int) -> list[str]:
        """The names of a directory and those above it, from the top on."""
        names: list[str] = []
        while number:
            number, name = self._names[number]
            names.append(name)
        return names[::-1]


def check_paths(paths: Iterable[str], named: Iterable[str] = ()) -> int:
    """Check a whole set of files, and directories that are `named` beside them; return how many
    directories there are.

    That is: every path; that none collides with another; and that there are not many more
    directories than files, since each of them costs who fetches an entry on disk, and who describes
    them next to nothing. Collisions are equal paths, paths equal but for case or normal form, and
    a path that is also a directory of another. Time and memory are bounded by the paths' length.
    Raises :class:`ValueError`.
    """
    paths, named = list(paths), list(named)
    most = _SPARE_DIRECTORIES + _DIRECTORIES_PER_FILE * (len(paths) + len(named))
    directories = _Directories(most)
    files: dict[tuple[int, str], str] = {}
    for path in paths:
        *above, name = _parts(path)
        at = 0
        for part in above:
            key = at, _folded(part)
            if key in files:
                raise ValueError(f"the path {files[key]!r} is both a file and a directory")
            at = directories.enter(key, part, path)
        _check_part(name, path)
        key = at, _folded(name)
        if key in files:
            raise ValueError(_collision(files[key], path))
        if key in directories:
            raise ValueError(f"the path {path!r} is both a file and a directory")
        files[key] = path
    for path in named:
        at = 0
        for part in _parts(path):
            key = at, _folded(part)
            if key in files:
                raise ValueError(f"the path {files[key]!r} is both a file and a directory")
            at = directories.enter(key, part, path)
    return len(directories)
