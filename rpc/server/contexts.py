"""Calls do not see each other's context variables, though they share tasks."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def in_context(context: Context, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Run a coroutine in this task, but in another context: what it sets is gone with that."""
    try:
        wait = context.run(work.send, None)
        while True:
            try:
                answer = yield wait
            except BaseException as error:
                wait = context.run(work.throw, error)
            else:
                wait = context.run(work.send, answer)
    except StopIteration as end:
        result: T = end.value
        return result
