"""Long work in turns of some milliseconds, so that whoever has it done can do other things between.

It is a generator that yields after each turn. What it reads of a document may be another one
after that; what it has made by itself is not seen by others until it returns.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Turns: TypeAlias = Generator[None, None, T]


def finish(turns: Turns[T]) -> T:
    """Do all of it at once."""
    with uncollected():
        while True:
            try:
                next(turns)
            except StopIteration as end:
                result: T = end.value
                return result


@contextmanager
def uncollected() -> Iterator[None]:
    """A turn in which Python does not look for cycles of what nobody uses any more.

    What such work makes stays, and is much: looked through again and again as it grew, that took a
    third of the time.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
