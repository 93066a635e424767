"""Symbolic links of a publication, which all stay inside. Pure.

Links come from a stranger and are made on our disk, so each has to lead to a file or directory of
the same publication, whatever other links it goes through: to nothing outside, to nothing that is
not there, to no directory that contains it, and in no circle.

A target goes up first and then down, and never up again. `a/../b` leads inside only as long as `a`
is what it is here: another publication that is fetched to the same place may put a link there, by
which it would lead out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import dropwhile

from lattica.content.manifest.paths import MAX_PATH_BYTES

_MAX_FOLLOWED = 40
"""Links in a row, as in Linux."""
_MAX_STEPS = 1_000_000
"""Parts of all targets together: each costs a look, and a byte or two of a manifest."""


def goes_down_last(target: str) -> bool:
    """Whether there is no `..` behind a name in what a link leads to."""
    return ".." not in dropwhile(lambda part: part in ("", ".", ".."), target.split("/"))


def ups_of(target: str) -> int:
    """How many directories up a target leads; of one that :func:`goes_down_last`."""
    return target.split("/").count("..")


def parents_of(paths: Iterable[str]) -> set[str]:
    """The directories that some paths are in; the top is the empty text."""
    found = {""}
    for path in paths:
        above = path.rpartition("/")[0]
        while above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return found


class _Resolver:
    def __init__(self, links: Mapping[str, str], files: set[str], directories: set[str]) -> None:
        self._links = links
        self._files = files
        self._directories = directories
        self._resolved: dict[str, str] = {}
        self._open: set[str] = set()
        self._left = _MAX_STEPS

    def resolve(self, path: str) -> str:
        """Where a link leads; raises :class:`ValueError`."""
        known = self._resolved.get(path)
        if known is not None:
            return known
        target = self._links[path]
        shown = f"the symbolic link {path!r}"
        if path in self._open or len(self._open) >= _MAX_FOLLOWED:
            raise ValueError(f"{shown} leads in a circle, or through too many others")
        if not target or "\0" in target or len(target.encode(errors="replace")) > MAX_PATH_BYTES:
            raise ValueError(f"{shown} leads to a path that is empty or too long")
        self._open.add(path)
        parts = path.split("/")[:-1]
        if target.startswith("/"):
            raise ValueError(f"{shown} leads out of the publication, to {target!r}")
        if not goes_down_last(target):
            raise ValueError(f"{shown} leads to {target!r}, which goes down and up again")
        self._left -= target.count("/") + 1
        if self._left < 0:
            raise ValueError(f"symbolic links lead through more than {_MAX_STEPS} directories")
        for part in target.split("/"):
            here = "/".join(parts)
            if here not in self._directories:
                raise ValueError(f"{shown} leads to {target!r}, which is not there")
            if part in ("", "."):
                continue
            if part == "..":
                if not parts:
                    raise ValueError(f"{shown} leads out of the publication, to {target!r}")
                parts.pop()
                continue
            there = f"{here}/{part}" if here else part
            if there in self._links:
                there = self.resolve(there)
            parts = there.split("/") if there else []
        found = "/".join(parts)
        if found not in self._files and found not in self._directories:
            raise ValueError(f"{shown} leads to {target!r}, which is not there")
        if found in self._directories and (not found or f"{path}/".startswith(f"{found}/")):
            raise ValueError(f"{shown} leads to a directory that contains it")
        self._open.discard(path)
        self._resolved[path] = found
        return found


def check_links(links: Mapping[str, str], files: Iterable[str], directories: Iterable[str]) -> None:
    """Check where links (target by path) lead; raises :class:`ValueError` with the name of one.

    `files` are all others, and `directories` those that are named beside what files and links are
    in. The paths have been checked.
    """
    if not links:
        return
    names = set(files)
    inside = {*directories}
    resolver = _Resolver(links, names, inside | parents_of([*names, *links, *inside]))
    for path in links:
        resolver.resolve(path)
