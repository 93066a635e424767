"""Checks that configuration dataclasses make of their own fields, and calls of their arguments."""

from __future__ import annotations

import ipaddress
import math

from lattica.nat.base.errors import ConfigError, LocalProtocolError


class FieldError(ConfigError):
    """A field of a configuration dataclass is out of its range."""

    def __init__(self, field: str, expected: str, value: object) -> None:
        self.field = field
        self.problem = f"expected {expected}, not {value!r}"
        super().__init__(f"{field}: {self.problem}")


def require(holds: bool, field: str, expected: str, value: object) -> None:
    if not holds:
        raise FieldError(field, expected, value)


def require_seconds(field: str, value: float) -> None:
    require(0 < value < math.inf, field, "a positive number of seconds", value)


def require_texts(field: str, value: object) -> None:
    # A single text would be taken for a list of its letters.
    holds = isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value)
    require(holds, field, "a list of texts", value)


def is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def check_error_code(code: int) -> None:
    """Raise LocalProtocolError for what cannot be the code of a reset."""
    if not 0 <= code < 2**32:
        raise LocalProtocolError(f"an error code is from 0 to 2**32 - 1, not {code}")
