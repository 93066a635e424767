"""One plain exception out of a nursery.

A nursery wraps what its tasks raise into an exception group. Callers of an API want the typed
error that it documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lattica.nat.base.errors import LatticaError


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _weight(error: BaseException) -> int:
    """What matters most: a bug or an interruption, then our errors, then the system's."""
    if not isinstance(error, Exception):
        return 0
    if isinstance(error, LatticaError):
        return 2
    return 3 if isinstance(error, OSError) else 1


@contextmanager
def single_error() -> Iterator[None]:
    """Raise the weightiest of a group's exceptions in its place; the first of equals.

    A group that holds nothing but cancellations cannot reach here: trio absorbs them.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        raise min(_leaves(group), key=_weight) from None
