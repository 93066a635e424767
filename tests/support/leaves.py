"""`pytest.raises` for what comes out of a nursery."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from lattica.nat.base.concurrency.exception_groups import unwrapped


@contextmanager
def raises_leaf(kind, match=None):
    """Expect an exception, plain or as the only leaf of groups."""
    with pytest.raises(kind, match=match) as info:  # noqa: PT012
        try:
            yield info
        except BaseExceptionGroup as group:
            raise unwrapped(group) from None
