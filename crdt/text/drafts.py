"""From what Yjs says of an edit that was made here to the entries that say it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from lattica.crdt.base.canonical import MAX_ITEMS, Plain, decode
from lattica.crdt.entries.genesis import MAX_ENTRY_BYTES
from lattica.crdt.entries.header import MAX_DEPS
from lattica.crdt.text.edits import Delete, Edit, Insert, Place
from lattica.crdt.text.pieces import Piece, Pieces
from lattica.crdt.text.update_v1 import Id, Update

_EDIT_BYTES: Final = 48
"""Of one edit at most, beside what it puts in."""

_Content: TypeAlias = str | tuple[bytes, ...] | int
_At: TypeAlias = tuple[Piece, int]
"""A code point or element of a piece."""


@dataclass(slots=True)
class Draft:
    """The edits of one entry, and the IDs of those of others that it depends on."""

    edits: list[Edit] = field(default_factory=list)
    deps: list[bytes] = field(default_factory=list)
    units: int = 0
    """That its edits put in."""
    size: int = 0


class Drafts:
    """Entries of one author, whose next one has the number `next_seq`.

    Args:
        pieces: what is there, without these edits.
        limit: bytes of one entry's edits.
    """

    def __init__(self, pieces: Pieces, author: bytes, next_seq: int, limit: int) -> None:
        self._pieces = pieces
        self._author = author
        self._next_seq = next_seq
        self._limit = limit
        self._drafts = [Draft()]

    def finished(self) -> list[tuple[tuple[Edit, ...], tuple[bytes, ...]]]:
        """Edits and dependencies of each entry."""
        return [_in_order(draft) for draft in self._drafts if draft.edits]

    def add(self, update: Update) -> None:
        """Take an edit that refers to nothing that came by another call."""
        for each in update.deleted:
            for piece, first, last in self._pieces.within(each.client, each.clock, each.length):
                draft = self._room(_EDIT_BYTES, (piece,))
                place = self._place(draft, (piece, first))
                draft.edits.append(Delete(place, last - first + 1))
        for block in update.blocks:
            head = block.items[0]
            self._insert(head.left, head.right, [item.content for item in block.items])

    def _insert(self, left: Id | None, right: Id | None, contents: Sequence[_Content]) -> None:
        if right is not None and self._pieces.left_of(right) != left:
            right = None  # it stands there anyhow
        before, after = self._at(left), self._at(right)
        is_first = True
        for content, size in _portions(contents, self._limit - 2 * _EDIT_BYTES):
            if not is_first:
                self._drafts.append(Draft())
            others = tuple(each[0] for each in (before, after) if is_first and each is not None)
            draft = self._room(size + 2 * _EDIT_BYTES, others)
            if is_first:
                place = before and self._place(draft, before)
                draft.edits.append(Insert(place, after and self._place(draft, after), content))
            else:
                place = Place(-2, self._drafts[-2].units - 1)
                draft.edits.append(Insert(place, None, content))
            draft.units += len(content)
            is_first = False

    def _at(self, unit: Id | None) -> _At | None:
        if unit is None:
            return None
        piece = self._pieces.at(*unit)
        return piece, piece.offset_of(unit[1])

    def _room(self, size: int, pieces: Sequence[Piece]) -> Draft:
        """The entry that has room for an edit with these references; a new one if need be."""
        draft = self._drafts[-1]
        others = {piece.entry_id for piece in pieces if not self._is_own(piece)}
        if (
            len(others.union(draft.deps)) > MAX_DEPS
            or draft.size + size > self._limit
            or len(draft.edits) == MAX_ITEMS
        ) and draft.edits:
            draft = Draft()
            self._drafts.append(draft)
        draft.size += size
        return draft

    def _is_own(self, piece: Piece) -> bool:
        # What was withdrawn of one's own was another session's.
        return piece.author == self._author

    def _place(self, draft: Draft, at: _At) -> Place:
        """How the newest entry names it."""
        piece, offset = at
        if self._is_own(piece):
            seq = self._next_seq + len(self._drafts) - 1
            return Place(piece.seq - seq - 1, offset)
        if piece.entry_id not in draft.deps:
            draft.deps.append(piece.entry_id)
        return Place(draft.deps.index(piece.entry_id), offset)


def _portions(contents: Sequence[_Content], limit: int) -> Iterator[tuple[str | list[Plain], int]]:
    """What is put in, in portions of so many bytes, and how many each has."""
    elements: list[Plain] = []
    size = 0
    for content in contents:
        if isinstance(content, str):
            yield from _text_portions(content, limit)
        elif isinstance(content, tuple):
            for element in content:
                if elements and (size + len(element) > limit or len(elements) == MAX_ITEMS):
                    yield elements, size
                    elements, size = [], 0
                elements.append(decode(element, MAX_ENTRY_BYTES))
                size += len(element)
    if elements:
        yield elements, size


def _text_portions(text: str, limit: int) -> Iterator[tuple[str, int]]:
    start = 0
    while start < len(text):
        # A code point has at most 4 bytes.
        piece = text[start : start + max(1, limit // (1 if text.isascii() else 4))]
        yield piece, len(piece.encode())
        start += len(piece)


def _in_order(draft: Draft) -> tuple[tuple[Edit, ...], tuple[bytes, ...]]:
    """With the dependencies in their order."""
    deps = tuple(sorted(draft.deps))
    moved = [deps.index(each) for each in draft.deps]

    def place(old: Place | None) -> Place | None:
        if old is None or old.source < 0:
            return old
        return Place(moved[old.source], old.offset)

    edits: list[Edit] = []
    for edit in draft.edits:
        if isinstance(edit, Insert):
            edits.append(Insert(place(edit.left), place(edit.right), edit.content))
        else:
            first = place(edit.place)
            assert first is not None
            edits.append(Delete(first, edit.count))
    return tuple(edits), deps
