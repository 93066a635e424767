"""How a handler on an asyncio loop ends, told to the node's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import outcome

from lattica.nat.base.foreign_code import parted

T = TypeVar("T")


async def captured(coroutine: Coroutine[Any, Any, T]) -> outcome.Outcome[T]:
    """What a handler's coroutine returns or raises, for the other side to unwrap.

    As asyncio has it, a task that calls `sys.exit()` ends its loop, which is the program's and not
    the handler's. Only a Ctrl-C does.
    """
    try:
        return outcome.Value(await coroutine)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if parted(error)[0] is not None:
            raise
        return outcome.Error(error)
