"""Checks that configuration dataclasses make of their own fields, and calls of their arguments."""

from __future__ import annotations

import ipaddress
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from lattica.nat.base.errors import ConfigError, LocalProtocolError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class FieldError(ConfigError):
    """A field of a configuration dataclass is out of its range."""

    def __init__(self, field: str, expected: str, value: object) -> None:
        self.field = field
        self.problem = f"expected {expected}, not {value!r}"
        super().__init__(f"{field}: {self.problem}")


_OPTIONAL = ("", "None")

_KINDS: Final[Mapping[str, tuple[type, str]]] = {
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "bool": (bool, "True or False"),
    "str": (str, "a text"),
}


def require_types(config: DataclassInstance) -> None:
    """Raise FieldError for a number, text or flag of a dataclass that is of another type.

    By the annotations as they are written, which needs modules that postpone them; what else there
    is (paths, lists, further dataclasses) is not looked at.
    """
    for member in fields(config):
        kind, _, optional = str(member.type).partition(" | ")
        value = getattr(config, member.name)
        if kind not in _KINDS or optional not in _OPTIONAL or (optional and value is None):
            continue
        wanted, expected = _KINDS[kind]
        # Python takes a flag for a number, too.
        holds = isinstance(value, wanted) and isinstance(value, bool) is (kind == "bool")
        require(holds, member.name, expected, value)


def require(holds: bool, field: str, expected: str, value: object) -> None:
    if not holds:
        raise FieldError(field, expected, value)


def require_seconds(field: str, value: float) -> None:
    require(0 < value < math.inf, field, "a positive number of seconds", value)


def require_texts(field: str, value: object) -> None:
    # A single text would be taken for a list of its letters.
    holds = isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value)
    require(holds, field, "a list of texts", value)


def check_timeout(timeout: float | None) -> float:
    """Seconds that a call may take; None is as long as it takes.

    Raises:
        ValueError: it is negative or nan.
        TypeError: it is no number.
    """
    if timeout is None:
        return math.inf
    given: object = timeout
    if not isinstance(given, numbers.Real):
        raise TypeError(f"a timeout is a number of seconds, or None; not {timeout!r:.100}")
    if not timeout >= 0:
        raise ValueError(f"a timeout is a number of seconds >= 0, or None; not {timeout!r}")
    return float(timeout)


def check_type(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise LocalProtocolError for an argument of a call that is of another type."""
    if not isinstance(value, kind):
        raise LocalProtocolError(f"{name}: {expected}, not {with_type(value)}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise LocalProtocolError for an argument that is no whole number, or too small a one."""
    if not isinstance(value, numbers.Integral) or value < least:
        raise LocalProtocolError(f"{name}: a whole number, at least {least}, not {value!r:.100}")


def check_several(name: str, values: object, expected: str) -> None:
    """Raise LocalProtocolError for an argument that is not several things: a text, or bytes, would
    be taken for a list of its letters.
    """
    if isinstance(values, (str, bytes, bytearray, memoryview)) or not isinstance(values, Iterable):
        raise LocalProtocolError(f"{name}: {expected}, not {with_type(values)}")


def check_seconds(name: str, value: object, most: float = math.inf) -> None:
    """Raise LocalProtocolError for an argument that is no number of seconds, or not above 0."""
    if not isinstance(value, numbers.Real) or not 0 < float(value) <= most:
        limit = "" if most == math.inf else f" up to {most:g}"
        raise LocalProtocolError(f"{name}: a positive number of seconds{limit}, not {value!r:.100}")


def with_type(value: object) -> str:
    """What is of a wrong type, and which that is, for the text of an error."""
    kind = type(value)
    return f"{value!r:.100} of type {kind.__module__}.{kind.__qualname__}"


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
