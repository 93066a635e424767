"""Documents of a test, in files that it need not name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.crdt.entries.genesis import Genesis
from tests.support.crdt.chains import DOC
from tests.support.crdt.documents import Clock, Make, making


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def default() -> Genesis:
    """What is opened unless a test says what; modules have their own."""
    return DOC


@pytest.fixture
def make(tmp_path: Path, clock: Clock, default: Genesis) -> Iterator[Make]:
    with making(tmp_path, clock, default) as make:
        yield make
