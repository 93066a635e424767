"""Long work of the trio thread, which others have it between its turns."""

from __future__ import annotations

from typing import TypeVar

import trio

from lattica.crdt.base.turns import Turns, uncollected

T = TypeVar("T")


async def in_turns(turns: Turns[T]) -> T:
    """Do it with a checkpoint after each turn. If it is cancelled, the turns that were done
    stay done, and no other is.
    """
    try:
        while True:
            await trio.lowlevel.checkpoint()
            try:
                with uncollected():
                    next(turns)
            except StopIteration as end:
                result: T = end.value
                return result
    finally:
        turns.close()
