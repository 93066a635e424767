"""Which file names a manifest may carry.

A manifest comes from a stranger and its names become paths on our disk, so they are restricted
to what is a relative path, and the same path, on every system: no `..`, nothing absolute, no
separators of other systems, no control characters, and no two names that a file system without
case or with another Unicode normal form would take for one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MAX_PATH_BYTES = 1024
MAX_COMPONENT_BYTES = 255
MAX_DEPTH = 64

RESERVED_PREFIX = ".lattica-"
"""Names at the top of a download that belong to its journal."""

_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Characters that make a name display as another (Unicode bidirectional control).
_BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def check_component(name: str) -> None:
    """Check one file or directory name.

    Raises:
        ValueError: it cannot be one; says why.
    """
    if not name:
        raise ValueError("a path has an empty part")
    if name in {".", ".."}:
        raise ValueError(f"a path contains {name!r}")
    for character in name:
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES or character in _BIDI_CONTROLS:
            raise ValueError(f"the name {name!r} contains the control character {character!r}")
        if character in "/\\":
            raise ValueError(f"the name {name!r} contains {character!r}")
    if len(name.encode()) > MAX_COMPONENT_BYTES:
        raise ValueError(f"the name {name[:40]!r}… is longer than {MAX_COMPONENT_BYTES} bytes")


def check_path(path: str) -> None:
    """Check one relative path with `/` between its parts; raises :class:`ValueError`."""
    # Characters first: cheap, and bounds what the messages below can quote.
    if len(path) > MAX_PATH_BYTES:
        raise ValueError(f"the path {path[:40]!r}… is longer than {MAX_PATH_BYTES} bytes")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise ValueError(f"the path {path[:40]!r}… is more than {MAX_DEPTH} directories deep")
    for part in parts:
        check_component(part)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"the path {path[:40]!r}… is longer than {MAX_PATH_BYTES} bytes")
    if len(parts[0]) > 1 and parts[0][1] == ":":
        raise ValueError(f"the path {path!r} begins with a drive letter")
    if parts[0].lower().startswith(RESERVED_PREFIX):
        raise ValueError(f"the path {path!r} begins with the reserved name {RESERVED_PREFIX!r}")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def check_paths(paths: Iterable[str]) -> None:
    """Check a whole set of files: every path, and that none collides with another.

    Collisions are equal paths, paths equal but for case or normal form, and a path that is also
    a directory of another. Raises :class:`ValueError`.
    """
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in paths:
        check_path(path)
        folded = _folded(path)
        if folded in files:
            raise ValueError(f"the paths {files[folded]!r} and {path!r} are the same or collide")
        files[folded] = path
        # Directories that differ only in case would silently become one.
        parts, folded_parts = path.split("/"), folded.split("/")
        for depth in range(1, len(parts)):
            directory, key = "/".join(parts[:depth]), "/".join(folded_parts[:depth])
            if directories.setdefault(key, directory) != directory:
                raise ValueError(f"the directories {directories[key]!r} and {directory!r} collide")
    for key in directories:
        if key in files:
            raise ValueError(f"the path {files[key]!r} is both a file and a directory")
