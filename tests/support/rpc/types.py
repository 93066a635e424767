"""Types that travel in tests of RPC."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Inner:
    names: list[str]


@dataclass(frozen=True)
class Outer:
    size: int
    inner: Inner
    colour: Colour = Colour.RED
    computed: int = field(init=False, default=7)


@dataclass
class Picky:
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("a size is not negative")


@dataclass
class Stranger:
    """Known to nobody but its sender."""

    size: int
