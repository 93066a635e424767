"""Random mutation of inputs: seeded, so that a run can be repeated exactly."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1)


class Mutator:
    """Makes inputs from `seeds` and what :meth:`keep` adds to them.

    Args:
        random: the only source of chance.
        tokens: byte strings that are put in whole.
        max_size: longest result, bytes.
    """

    def __init__(
        self,
        chance: random.Random,
        seeds: Sequence[bytes],
        tokens: Sequence[bytes],
        max_size: int,
    ) -> None:
        self._chance = chance
        self._corpus = [seed[:max_size] for seed in seeds] or [b""]
        self._tokens = tuple(tokens)
        self._max_size = max_size
        self._steps: tuple[Callable[[bytearray], None], ...] = (
            self._flip,
            self._set_byte,
            self._set_number,
            self._insert,
            self._delete,
            self._repeat,
            self._splice,
            self._truncate,
            self._token,
        )

    def next(self) -> bytes:
        """A new input."""
        chance = self._chance
        if chance.random() < 0.02:
            return chance.randbytes(chance.randrange(self._max_size + 1))
        data = bytearray(chance.choice(self._corpus))
        # Mostly one or two changes: more of them rarely get past the first check.
        for _ in range(1 + int(chance.expovariate(0.7))):
            chance.choice(self._steps)(data)
        return bytes(data[: self._max_size])

    def _place(self, data: bytearray) -> int:
        return self._chance.randrange(len(data) + 1)

    def _span(self, data: bytearray) -> slice:
        start = self._place(data)
        longest = len(data) - start
        length = min(longest, int(self._chance.expovariate(0.1)) + 1)
        return slice(start, start + length)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)

    def _set_byte(self, data: bytearray) -> None:
        if data:
            value = self._chance.choice((*INTERESTING, self._chance.randrange(256)))
            data[self._chance.randrange(len(data))] = value

    def _set_number(self, data: bytearray) -> None:
        """A length field, in any width and byte order, near one of the usual limits."""
        width = self._chance.choice((2, 4, 8))
        value = self._chance.choice(LENGTHS) + self._chance.randrange(-2, 3)
        number = (value % (1 << 8 * width)).to_bytes(width, "big")
        start = self._place(data)
        data[start : start + width] = number if self._chance.random() < 0.5 else number[::-1]

    def _insert(self, data: bytearray) -> None:
        size = self._chance.choice((1, 2, 4, 12, 64))
        start = self._place(data)
        data[start:start] = self._chance.randbytes(size)

    def _delete(self, data: bytearray) -> None:
        del data[self._span(data)]

    def _repeat(self, data: bytearray) -> None:
        span = self._span(data)
        start = self._place(data)
        data[start:start] = data[span] * self._chance.choice((1, 2, 8, 64))

    def _splice(self, data: bytearray) -> None:
        other = bytearray(self._chance.choice(self._corpus))
        data[self._span(data)] = other[self._span(other)]

    def _truncate(self, data: bytearray) -> None:
        del data[self._place(data) :]

    def _token(self, data: bytearray) -> None:
        if self._tokens:
            data[self._span(data)] = self._chance.choice(self._tokens)
