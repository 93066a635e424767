"""How many of those who have only parts have each piece, up to a few. Pure."""

from __future__ import annotations

from collections.abc import Iterable

_PLANES = 4
"""Up to so many holders are told apart."""


class Rarity:
    """Sets of pieces are whole numbers, bit n for piece n."""

    __slots__ = ("_planes",)

    def __init__(self) -> None:
        self._planes = [0] * _PLANES
        """Pieces that at least 1, 2, … have."""

    def count(self, holders: Iterable[int]) -> None:
        """Count anew: what each has."""
        self._planes = [0] * _PLANES
        for carry in holders:
            for level in range(_PLANES):
                self._planes[level], carry = (
                    self._planes[level] | carry,
                    self._planes[level] & carry,
                )

    def add(self, piece: int) -> None:
        """One more has a piece."""
        for level in range(_PLANES):
            if not self._planes[level] >> piece & 1:
                self._planes[level] |= 1 << piece
                return

    def rarest(self, pieces: int, least: int) -> int:
        """Of some pieces, those that the fewest have; no fewer than `least`."""
        for level in range(least, _PLANES):
            rare = pieces & ~self._planes[level]
            if rare:
                return rare
        return pieces
