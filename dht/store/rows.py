"""What is kept, as rows that a file can hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import msgpack


class Kind(IntEnum):
    """What a row is; the numbers are in files."""

    VALUE = 1
    PLAIN = 2
    PROVIDER = 3
    ADDRESSES = 4
    """Of a peer that provides something."""
    CONTACT = 5
    """A peer of the routing table."""
    OWN_VALUE = 6
    """A value that this node has put, and puts again."""
    OWN_PROVIDED = 7
    """What this node provides, and when it last said so."""
    STATE = 8
    """Positions and estimates, by their names."""


class RowId(NamedTuple):
    """Which row."""

    kind: Kind
    id: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A row, as it is in a file."""

    row_id: RowId
    data: bytes


class RowSource(Protocol):
    """Has what rows are made of."""

    def row(self, row_id: RowId, /) -> Row | None:
        """A row as it is now; None: there is none."""
        ...

    def row_ids(self) -> Iterator[RowId]:
        """All rows that there are now."""
        ...


class Journal(Protocol):
    """Takes note of rows that have changed, and writes them some time soon."""

    def changed(self, row_id: RowId) -> None:
        """The row is another one now, or gone: what it is then is asked for when it is written."""
        ...


class NoJournal:
    """Of a node that keeps its records in memory alone."""

    def changed(self, row_id: RowId) -> None:
        """Nothing is written."""


def pack(*fields: object) -> bytes:
    """The content of a row."""
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack(data: bytes, count: int) -> list[object] | None:
    """What :func:`pack` made of so many fields; None: the file was written by something else."""
    try:
        fields = msgpack.unpackb(data, strict_map_key=False)
    except Exception:  # msgpack's own
        return None
    return fields if isinstance(fields, list) and len(fields) == count else None
