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
    # What comes may be an exception, which leads to this frame: no variable of it may keep it.
    answers: list[Any] = []
    try:
        wait = context.run(work.send, None)
        while True:
            try:
                answers.append((yield wait))
            except BaseException as error:
                wait = context.run(work.throw, error)
            else:
                wait = context.run(work.send, answers.pop())
    except StopIteration as end:
        result: T = end.value
        return result
