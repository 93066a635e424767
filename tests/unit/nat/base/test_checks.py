"""What a user gives is checked where it is given, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lattica.content import FetchOptions
from lattica.nat.base.checks import (
    FieldError,
    check_count,
    check_seconds,
    check_several,
    check_timeout,
    check_type,
)
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.config import Limits, QuicConfig, Timeouts
from lattica.nat.traversal.portmap.config import PortMappingConfig


@pytest.mark.parametrize(
    ("config", "field", "value", "expected"),
    [
        (Limits, "max_connections", "3", "a whole number"),
        (Limits, "max_connections", 3.5, "a whole number"),
        (Limits, "max_connections", True, "a whole number"),
        (Limits, "max_connections", None, "a whole number"),
        (Timeouts, "connect", "3", "a number"),
        (Timeouts, "connect", False, "a number"),
        (QuicConfig, "fec", 1, "a text"),
        (PortMappingConfig, "enabled", "no", "True or False"),
        (FetchOptions, "stalled_after", "60", "a number"),
        (FetchOptions, "delete_former", 1, "True or False"),
        (FetchOptions, "delete_matching", "*", "a list of texts"),
        (FetchOptions, "delete_matching", ("",), "globs of names"),
        (FetchOptions, "delete_matching", ("../*",), "globs of names"),
        (FetchOptions, "delete_matching", ("a/../../b",), "globs of names"),
        (FetchOptions, "delete_matching", ("/etc/*",), "globs of names"),
    ],
)
def test_field_of_the_wrong_type(config: Any, field: str, value: object, expected: str) -> None:
    with pytest.raises(FieldError, match=expected) as caught:
        config(**{field: value})
    assert caught.value.field == field


def test_numbers_of_other_libraries_are_numbers() -> None:
    whole: Any = np.int64(7)
    assert Limits(max_connections=whole).max_connections == 7
    half: Any = np.float32(2.5)
    assert Timeouts(connect=half).connect == 2.5
    assert FetchOptions(delete_matching=("*.bin", "old/*")).delete_matching


@pytest.mark.parametrize("given", [0, 1.5, np.float32(3), np.int64(3), Fraction(1, 2), math.inf])
def test_timeout(given: float) -> None:
    assert check_timeout(given) == given


def test_no_timeout() -> None:
    assert check_timeout(None) == math.inf


@pytest.mark.parametrize(
    ("given", "kind"), [("3", TypeError), ((), TypeError), (-1, ValueError), (math.nan, ValueError)]
)
def test_what_is_no_timeout(given: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="a timeout is a number of seconds"):
        check_timeout(given)


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_type("quorum", 5, str, "a text"),
        lambda: check_type("quorum", None, (str, bytes), "text or bytes"),
        *(lambda each=each: check_count("quorum", each) for each in (0, -1, 1.5, "1", None)),
        lambda: check_count("quorum", -1, 0),
        *(lambda each=each: check_seconds("quorum", each) for each in (0, -1, math.nan, "1", None)),
        lambda: check_seconds("quorum", 11, 10),
        *(lambda each=each: check_several("quorum", each, "keys") for each in ("ab", b"ab", 5)),
    ],
)
def test_an_argument_that_is_wrong_is_named(check: Callable[[], None]) -> None:
    with pytest.raises(LocalProtocolError, match=r"quorum: .*, not "):
        check()


def test_arguments_that_are_right() -> None:
    check_type("name", "a", str, "a text")
    check_count("count", np.int64(1))
    check_count("count", 0, 0)
    check_seconds("ttl", np.float32(0.5), 1)
    check_seconds("ttl", math.inf)
    check_several("keys", ("a",), "keys")
    check_several("keys", iter(()), "keys")
