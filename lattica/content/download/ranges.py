"""Ranges of bytes of published files: how they are written down, and put in order. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lattica.content.errors import ContentError
from lattica.content.manifest.manifest import Manifest
from lattica.nat.base.checks import require, require_types
from lattica.nat.base.errors import ConfigError

_TEXT = re.compile(r"(?:(?P<path>.*):)?(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})", re.DOTALL)
_SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `stop` - 1 of a published file, as a slice of Python's."""

    start: int
    """Negative: so many before the end."""
    stop: int | None = None
    """None: to the end."""
    path: str | None = None
    """The file, as in the manifest; None: the only one."""

    def __post_init__(self) -> None:
        require_types(self)
        stop = self.stop
        fits = stop is None or (self.start >= 0 and stop > self.start)
        require(fits, "stop", "more than a `start` from the beginning, or None", stop)

    @classmethod
    def parse(cls, text: str) -> ByteRange:
        """Read `PATH:FIRST-LAST`, as HTTP counts: the last byte is part of it. Without LAST it goes
        to the end, without FIRST it is so many bytes before that; PATH may be left out.

        Raises:
            ConfigError: it is none.
        """
        found = _TEXT.fullmatch(text)
        if found is None or not (found["first"] or found["last"]):
            raise ConfigError(f"{text!r:.200} is no range: FIRST-LAST, FIRST- or -COUNT, in bytes")
        first, last = found["first"], found["last"]
        path = found["path"] or None
        if not first:
            require(int(last) > 0, "range", "at least one byte", text)
            return cls(-int(last), None, path)
        require(not last or int(first) <= int(last), "range", "FIRST up to LAST", text)
        return cls(int(first), int(last) + 1 if last else None, path)


def ranges_by_file(
    manifest: Manifest, ranges: Iterable[ByteRange]
) -> dict[int, list[tuple[int, int]]]:
    """What is to be had of which file (by index): ascending, apart from each other, not empty.

    Raises:
        ContentError: there is no such file, or it has no such bytes.
    """
    index_of = {file.path: index for index, file in enumerate(manifest.files)}
    found: dict[int, list[tuple[int, int]]] = {}
    for each in ranges:
        if each.path is None and len(manifest.files) != 1:
            raise ContentError(f"name the file of a range, PATH:FIRST-LAST; {_some(manifest)}")
        index = 0 if each.path is None else index_of.get(each.path, -1)
        if index < 0:
            raise ContentError(f"there is no file {each.path!r}; {_some(manifest)}")
        file = manifest.files[index]
        if not file.size:
            raise ContentError(f"{file.path!r} is empty, and has no bytes to fetch a range of")
        start = each.start if each.start >= 0 else max(0, file.size + each.start)
        stop = file.size if each.stop is None else each.stop
        if stop > file.size or start >= stop:
            raise ContentError(
                f"{file.path!r} has {file.size} bytes, and not those from {start} to {stop - 1}"
            )
        found.setdefault(index, []).append((start, stop))
    return {index: _merged(parts) for index, parts in sorted(found.items())}


def _merged(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(parts):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


def _some(manifest: Manifest) -> str:
    names = [repr(file.path) for file in manifest.files[:_SHOWN_NAMES]]
    more = ", …" if len(manifest.files) > _SHOWN_NAMES else ""
    return f"there are {', '.join(names)}{more}"
