"""Which of the hub's routes a request takes, and which bytes of a file it wants. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from lattica.content.errors import TicketError
from lattica.content.hub.repository import DEFAULT_REVISION, RevisionRef

_KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
_RANGE = re.compile(r"bytes\s*=\s*(\d*)\s*-\s*(\d*)")
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class InfoRoute:
    """`/api/models/REPO`, or `…/revision/REV`: what a revision is."""

    ref: RevisionRef
    with_sizes: bool = False
    """Of the files, too (`?blobs=true`)."""


@dataclass(frozen=True, slots=True)
class TreeRoute:
    """`/api/models/REPO/tree/REV/PATH`: the files below a path."""

    ref: RevisionRef
    path: str = ""
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class FileRoute:
    """`/REPO/resolve/REV/PATH`: the bytes of a file."""

    ref: RevisionRef
    path: str


Route: TypeAlias = InfoRoute | TreeRoute | FileRoute


def find_route(target: str) -> Route | None:
    """The route of a request's target; None: there is none.

    Raises :class:`~lattica.errors.TicketError` for a repository or revision that no hub has.
    """
    split = urlsplit(target)
    # Before anything is unquoted: the slashes of a revision are.
    parts = split.path.lstrip("/").split("/")
    if parts[0] == "api":
        if len(parts) < 3 or parts[1] not in _KINDS:
            return None
        query = parse_qs(split.query)
        return _api_route(_KINDS[parts[1]], parts[2:], query)
    kind = ""
    if parts[0] in _KINDS:
        kind, parts = _KINDS[parts[0]], parts[1:]
    for length in (1, 2):
        if len(parts) > length + 2 and parts[length] == "resolve":
            ref = _ref(kind, parts[:length], parts[length + 1])
            return FileRoute(ref, unquote("/".join(parts[length + 2 :])))
    return None


def _api_route(kind: str, parts: list[str], query: dict[str, list[str]]) -> Route | None:
    for length in (1, 2):
        if len(parts) <= length:
            continue
        word, rest = parts[length], parts[length + 1 :]
        if word == "revision" and len(rest) == 1:
            return InfoRoute(_ref(kind, parts[:length], rest[0]), _is_set(query, "blobs"))
        if word == "tree" and rest:
            path = unquote("/".join(rest[1:])).strip("/")
            ref = _ref(kind, parts[:length], rest[0])
            return TreeRoute(ref, path, _is_set(query, "recursive"))
    if len(parts) <= 2:
        return InfoRoute(_ref(kind, parts, DEFAULT_REVISION), _is_set(query, "blobs"))
    return None


def _ref(kind: str, repository: list[str], revision: str) -> RevisionRef:
    return RevisionRef(kind + unquote("/".join(repository)), unquote(revision))


def _is_set(query: dict[str, list[str]], name: str) -> bool:
    return query.get(name, [""])[-1].lower() in ("true", "1")


class RangeNotSatisfiableError(TicketError):
    """A range that begins behind the end of a file."""


def find_range(header: str, size: int) -> tuple[int, int] | None:
    """The one range of bytes (start, exclusive end) that a `Range` header asks for.

    None: the whole file is sent, as it is where several ranges, other units or nonsense are asked
    for (RFC 9110, section 14.2). Raises :class:`RangeNotSatisfiableError`.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or max(map(len, found.groups())) > _MAX_DIGITS:
        return None
    first, last = found.groups()
    if first:
        start = int(first)
        end = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    elif last:
        start, end = max(0, size - int(last)), size
    else:
        return None
    if start >= size or start >= end:
        raise RangeNotSatisfiableError(f"bytes from {start} on, of {size}")
    return start, end
