"""Long work in turns of some milliseconds, so that whoever has it done can do other things between.

It is a generator that yields after each turn. What it reads of a document may be another one
after that; what it has made by itself is not seen by others until it returns.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Turns: TypeAlias = Generator[None, None, T]


def finish(turns: Turns[T]) -> T:
    """Do all of it at once."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            result: T = end.value
            return result
