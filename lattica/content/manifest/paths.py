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

# Characters that make a name display as another (Unicode bidirectional control).
_BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


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
    for character in name:
        if (problem := _problem(character)) is not None:
            raise ValueError(f"the name {name!r} {problem}; rename it")
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
        try:
            check_component(part)
        except ValueError as error:
            if part == path:
                raise
            raise ValueError(f"{error} (of {path!r})") from None
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
