"""Symbolic links of a publication, which all stay inside. Pure.

Links come from a stranger and are made on our disk, so each has to lead to a file or directory of
the same publication, whatever other links it goes through: to nothing outside, to nothing that is
not there, to no directory that contains it, and in no circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lattica.content.manifest.paths import MAX_PATH_BYTES

_MAX_FOLLOWED = 40
"""Links in a row, as in Linux."""


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
