"""How urgent what a stream sends is, beside the other streams of its connection."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    LOW = 0
    """Bulk that may wait: it has what the others leave, and a small share in any case."""
    NORMAL = 1
    """What sends little goes before what sends much, and the latter takes turns."""
    HIGH = 2
    """Control: before all others, of whom a small share still goes out."""
