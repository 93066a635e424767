"""What this peer has of a publication that it is fetching, in the order in which it came. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence


class Holdings:
    """Chunks by number. Whoever tells others reads on in :meth:`since` from where it was."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        """How many the publication has."""
        self._bits = bytearray((chunks + 7) // 8)
        self._came = array("I")

    def __contains__(self, number: int) -> bool:
        return bool(self._bits[number >> 3] & (1 << (number & 7)))

    def add(self, numbers: Iterable[int]) -> None:
        """Note that chunks are here; those that were here already count nothing."""
        for number in numbers:
            if number not in self:
                self._bits[number >> 3] |= 1 << (number & 7)
                self._came.append(number)

    @property
    def bits(self) -> int:
        """Bit n is chunk n."""
        return int.from_bytes(self._bits, "little")

    @property
    def position(self) -> int:
        """How many chunks have come."""
        return len(self._came)

    def since(self, position: int, most: int) -> Sequence[int]:
        """At most so many chunks that came after the first `position` of them."""
        return self._came[position : position + most]
