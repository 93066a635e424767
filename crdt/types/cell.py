"""One place that several may write at: the newest write of each author, and which of them are not
yet replaced by one that knew them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lattica.crdt.base.canonical import Plain


@dataclass(frozen=True, slots=True)
class Sibling:
    """A write that nobody who knew it has replaced."""

    hlc: int
    author: bytes
    """The session key."""
    entry_id: bytes
    value: Plain


def _rank(sibling: Sibling) -> tuple[int, bytes]:
    """By which the highest wins."""
    return sibling.hlc, sibling.author


class Cell:
    """Writes in any order across authors, and in their order for each, come to the same."""

    __slots__ = ("_authors", "_latest", "_replaced")

    def __init__(self) -> None:
        self._latest: dict[bytes, Sibling] = {}
        """By author; those that are replaced are taken out."""
        self._authors: dict[bytes, bytes] = {}
        """By the ID of each of these, its author."""
        self._replaced: dict[bytes, int] | None = None
        """By the ID of a write that was replaced before it came, the time of what replaces it; None
        if there is none, as in most of a hundred thousand."""

    def write(self, sibling: Sibling, replaced: tuple[bytes, ...]) -> None:
        """Take a write, the next of its author here, that replaces others.

        It replaces only what is earlier: whoever knows a write is later, and so the latest of all
        writes is never replaced.
        """
        for entry_id in replaced:
            author = self._authors.get(entry_id)
            if author is None:
                early = self._replaced = self._replaced or {}
                early[entry_id] = max(sibling.hlc, early.get(entry_id, 0))
            elif self._latest[author].hlc < sibling.hlc:
                self._take_out(author)
        self._take_out(sibling.author)
        if self._replaced is None or self._replaced.pop(sibling.entry_id, 0) <= sibling.hlc:
            self._latest[sibling.author] = sibling
            self._authors[sibling.entry_id] = sibling.author

    def replace(self, sibling: Sibling) -> None:
        """Have a write not stand any more that was taken just now: something later replaces it."""
        if sibling.entry_id in self._authors:
            self._take_out(sibling.author)

    def _take_out(self, author: bytes) -> None:
        sibling = self._latest.pop(author, None)
        if sibling is not None:
            del self._authors[sibling.entry_id]

    @property
    def siblings(self) -> list[Sibling]:
        """What stands here, the winner first: by time, then by author."""
        if len(self._latest) == 1:
            return [*self._latest.values()]
        return sorted(self._latest.values(), key=_rank, reverse=True)

    @property
    def winner(self) -> Sibling | None:
        """The first of these."""
        latest = self._latest.values()
        if len(latest) == 1:
            return next(iter(latest))
        return max(latest, key=_rank, default=None)

    @property
    def standing(self) -> Collection[bytes]:
        """The IDs of what stands here."""
        return self._authors.keys()
