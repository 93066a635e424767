"""What is at a place in a document."""

from __future__ import annotations

from enum import StrEnum


class PlaceKind(StrEnum):
    """What is at a place, as arguments name it."""

    REGISTER = "register"
    COUNTER = "counter"
    SET = "set"
    CLAIM = "claim"
    TEXT = "text"
    LIST = "list"
