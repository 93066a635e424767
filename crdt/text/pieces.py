"""Which entry put in which units of a text or list, and where Yjs has them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from lattica.crdt.text.update_v1 import Id


@dataclass(slots=True)
class Piece:
    """What one entry has put in. Yjs has it as contiguous units of one client."""

    entry_id: bytes
    author: bytes
    seq: int
    hlc: int
    client: int
    clock: int
    """Of the first unit."""
    count: int
    """Code points or elements."""
    wide: tuple[int, ...] = ()
    """Which of the code points have two UTF-16 units, ascending."""

    @property
    def length(self) -> int:
        """Units of Yjs."""
        return self.count + len(self.wide)

    def first_unit(self, offset: int) -> int:
        """The clock at which a code point or element begins."""
        wider = bisect_right(self.wide, offset - 1) if self.wide else 0
        return self.clock + offset + wider

    def last_unit(self, offset: int) -> int:
        """The clock of its last unit."""
        return self.first_unit(offset + 1) - 1

    def offset_of(self, clock: int) -> int:
        """The code point or element that has the unit of a clock."""
        if not self.wide:
            return clock - self.clock
        low, high = 0, self.count - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.first_unit(middle) <= clock:
                low = middle
            else:
                high = middle - 1
        return low


class Pieces:
    """All pieces of one text or list, by entry and by where Yjs has them."""

    def __init__(self) -> None:
        self._by_entry: dict[bytes, Piece] = {}
        self._by_client: dict[int, tuple[list[int], list[Piece]]] = {}
        self._lefts: dict[Id, Id | None] = {}
        """Of units that do not stand behind the one with the clock before, what they do."""

    def get(self, entry_id: bytes) -> Piece | None:
        """What an entry has put in."""
        return self._by_entry.get(entry_id)

    def of(self, client: int, seq: int) -> Piece | None:
        """What an author's entry has put in that was not withdrawn."""
        _, pieces = self._by_client.get(client, ((), ()))
        index = bisect_left(pieces, seq, key=lambda piece: piece.seq)
        return pieces[index] if index < len(pieces) and pieces[index].seq == seq else None

    def end(self, client: int) -> int:
        """The next clock of a client."""
        pieces = self._by_client.get(client)
        return pieces[1][-1].clock + pieces[1][-1].length if pieces else 0

    def at(self, client: int, clock: int) -> Piece:
        """The piece with a unit, which has to be there."""
        clocks, pieces = self._by_client[client]
        return pieces[bisect_right(clocks, clock) - 1]

    def within(self, client: int, clock: int, length: int) -> Iterator[tuple[Piece, int, int]]:
        """The pieces with a range of units, and of each the first and the last code point or
        element that is in it.
        """
        end = clock + length
        while clock < end:
            piece = self.at(client, clock)
            last = min(end, piece.clock + piece.length) - 1
            yield piece, piece.offset_of(clock), piece.offset_of(last)
            clock = last + 1

    def left_of(self, unit: Id) -> Id | None:
        """The unit behind which one was put in; None: at the beginning."""
        if unit in self._lefts:
            return self._lefts[unit]
        return unit[0], unit[1] - 1

    def add(self, piece: Piece, lefts: dict[int, Id | None]) -> None:
        """Take a piece, the next of its client; `lefts` has, by clock, where its inserts stand."""
        self._by_entry[piece.entry_id] = piece
        clocks, pieces = self._by_client.setdefault(piece.client, ([], []))
        clocks.append(piece.clock)
        pieces.append(piece)
        for clock, left in lefts.items():
            if left != (piece.client, clock - 1):
                self._lefts[piece.client, clock] = left
