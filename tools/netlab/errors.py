"""What can go wrong in a lab, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lattica.nat.base.concurrency.exception_groups import leaves


class LabError(Exception):
    """A lab that cannot be built, or broke. The message says what to do where that is known."""


class NoPrivilegesError(LabError):
    """Network namespaces cannot be made here."""


class MissingToolError(LabError):
    """A program or package that the lab needs is not installed."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """An exception group that holds a single error, or only errors of the lab (when its forwarder
    dies, all that waits for it fails), is raised as the first of them.

    That there are nurseries inside is nobody's business outside.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        found = leaves(group)
        if len(found) != 1 and not all(isinstance(leaf, LabError) for leaf in found):
            raise
        raise found[0] from None
