"""Edits of texts and lists, as entries carry them.

The payload is `[name, [edit, …]]`. An edit is `[left, right, content]`, which puts a text, or a
list of elements, in between two units, or `[place, count]`, which deletes. A place is `[source,
offset]`: the unit with that number of those that an entry has put in. The entry is the one that
`deps[source]` names, or, where `source` is negative, one of the same author: −1 this entry, −2 the
one before, and so on. Units are code points, or elements. So a place names what its author saw by
its hash, and nothing that anybody writes later, on whichever branch of a fork, can stand there
instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from lattica.crdt.base.canonical import Plain
from lattica.crdt.entries.header import MAX_DEPS, MAX_SEQ


@dataclass(frozen=True, slots=True)
class Place:
    """One unit."""

    source: int
    """An index into the entry's dependencies, or −1 and less: this entry and those before it."""
    offset: int
    """Of all that the entry has put in."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Units that are put in behind `left`."""

    left: Place | None
    """None: at the beginning."""
    right: Place | None
    """Before this one of those that were put in behind `left`; None: behind them in the order of
    authors."""
    content: str | Sequence[Plain]
    """A text, or elements of a list; not empty."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Units of one entry that are taken out."""

    place: Place
    """The first."""
    count: int


Edit: TypeAlias = Insert | Delete


def plain_edits(edits: Sequence[Edit]) -> list[Plain]:
    """What of them is encoded."""
    return [
        [_plain_place(edit.left), _plain_place(edit.right), edit.content]
        if isinstance(edit, Insert)
        else [_plain_place(edit.place), edit.count]
        for edit in edits
    ]


def _plain_place(place: Place | None) -> Plain:
    return None if place is None else [place.source, place.offset]


def read_edits(items: Sequence[Plain], content: type[str] | type[list[Plain]]) -> list[Edit] | None:
    """The edits of a payload; None if they are none. `content` is what is put in: str or list."""
    edits: list[Edit] = []
    for item in items:
        match item:
            case [list() | None as left, list() | None as right, body]:
                if type(body) is not content or not body:
                    return None
                before = None if left is None else _place(left)
                after = None if right is None else _place(right)
                if (left is not None and not before) or (right is not None and not after):
                    return None
                edits.append(Insert(before, after, body))
            case [list(first), count] if _is_count(count) and count:
                place = _place(first)
                if place is None:
                    return None
                edits.append(Delete(place, count))
            case _:
                return None
    return edits or None


def _place(pair: Sequence[Plain]) -> Place | None:
    match pair:
        case [source, offset] if type(source) is int and _is_count(offset):
            if -MAX_SEQ - 1 <= source < MAX_DEPS:
                return Place(source, offset)
    return None


def _is_count(value: Plain) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_SEQ  # `true` is an int, too
