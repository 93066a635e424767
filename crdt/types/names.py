"""Names in order, of which those that begin alike stand together."""

from __future__ import annotations

from bisect import bisect_left


class Names:
    """Of a hundred thousand, some are found in microseconds, also between writes at new ones."""

    __slots__ = ("_new", "_ordered")

    def __init__(self) -> None:
        self._ordered: list[str] = []
        self._new: list[str] = []

    def add(self, name: str) -> None:
        """Have a name that was not there."""
        self._new.append(name)

    def beginning(self, prefix: str) -> list[str]:
        """Those that begin so, in order."""
        if self._new:
            self._ordered += self._new
            self._ordered.sort()  # takes little where most of it is in order
            self._new.clear()
        if not prefix:
            return [*self._ordered]
        start = bisect_left(self._ordered, prefix)
        end = bisect_left(self._ordered, True, start, key=lambda name: not name.startswith(prefix))
        return self._ordered[start:end]
