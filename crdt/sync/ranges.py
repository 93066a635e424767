"""Range-based set reconciliation: pure. What two replicas have is compared range by range, so that
the cost follows the difference.

One side sends fingerprints of ranges; of those that differ the other sends either fingerprints of
smaller ones, or, where few authors are left, their heads. Whoever gets heads knows what both sides
have there.

Source: A. Meyer, "Range-Based Set Reconciliation" (2023).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lattica.crdt.sync.heads import Head, HeadIndex

LEAF: Final = 16
"""Authors of a range whose heads are sent rather than fingerprints of parts of it."""
FIRST_PIECES: Final = 64
"""Ranges of the first message."""
PIECES: Final = 16
"""Into so many a range is split that differs."""


@dataclass(frozen=True, slots=True)
class Range:
    """What one side has of the authors from `low` up to `high`, which is not in it."""

    low: bytes
    high: bytes | None
    content: bytes | tuple[Head, ...]
    """A fingerprint, or the heads themselves, in order."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An author of whom the two sides have different things."""

    author: bytes
    ours: Head | None
    theirs: Head | None


def first_ranges(index: HeadIndex, nonce: bytes) -> list[Range]:
    """What to begin with: everything that is here."""
    return _described(index, nonce, b"", None, FIRST_PIECES)


def answer_ranges(
    index: HeadIndex, nonce: bytes, ranges: Iterable[Range]
) -> tuple[list[Range], list[Difference]]:
    """What to say to ranges of the other side, and where it is known what differs."""
    unsettled: list[Range] = []
    differences: list[Difference] = []
    for each in ranges:
        if isinstance(each.content, tuple):
            differences += _differing(index.heads(each.low, each.high), each.content)
        elif index.fingerprint(nonce, each.low, each.high) != each.content:
            unsettled += _described(index, nonce, each.low, each.high, PIECES)
    return unsettled, differences


def _described(
    index: HeadIndex, nonce: bytes, low: bytes, high: bytes | None, pieces: int
) -> list[Range]:
    if index.count(low, high) <= LEAF:
        return [Range(low, high, tuple(index.heads(low, high)))]
    return [
        Range(start, end, index.fingerprint(nonce, start, end))
        for start, end in index.split(low, high, pieces)
    ]


def _differing(ours: Iterable[Head], theirs: Iterable[Head]) -> list[Difference]:
    mine = {head.author: head for head in ours}
    other = {head.author: head for head in theirs}
    return [
        Difference(author, mine.get(author), other.get(author))
        for author in sorted(mine.keys() | other.keys())
        if mine.get(author) != other.get(author)
    ]
