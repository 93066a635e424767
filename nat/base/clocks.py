"""Clocks of machines that are not quite the same."""

from __future__ import annotations

from typing import Final

_AGREE: Final = 60.0
"""Seconds."""


def clocks_agree(offset: float) -> bool:
    """Whether clocks that differ by so many seconds count as right."""
    return abs(offset) <= _AGREE
