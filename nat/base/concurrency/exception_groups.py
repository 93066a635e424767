"""Plain exceptions out of the groups that nurseries wrap them in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lattica.nat.base.errors import LatticaError


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group and its groups in their order, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]


def unwrapped(error: BaseException) -> BaseException:
    """The one exception in a group and its groups, or the group if it holds several."""
    found = leaves(error)
    return found[0] if len(found) == 1 else error


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

    For APIs with a nursery inside, whose callers want the typed error that is documented. A group
    that holds nothing but cancellations cannot reach here: trio absorbs them.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        raise min(leaves(group), key=_weight) from None
