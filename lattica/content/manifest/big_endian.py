"""Many numbers as bytes, in network byte order. Pure."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from typing import Literal, TypeAlias

Width: TypeAlias = Literal["I", "Q"]
"""As of :mod:`array`: 4 bytes a number, or 8."""


def pack_numbers(width: Width, numbers: Iterable[int]) -> bytes:
    """The bytes of numbers that fit; raises :class:`OverflowError` for others."""
    return _swapped(array(width, numbers)).tobytes()


def unpack_numbers(width: Width, data: bytes) -> array[int]:
    """The numbers; raises :class:`ValueError` where the last one is cut off."""
    return _swapped(array(width, data))


def _swapped(numbers: array[int]) -> array[int]:
    """The same array, in the byte order of this machine or the network's: whichever it is not."""
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
