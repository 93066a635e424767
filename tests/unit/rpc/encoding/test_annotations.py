"""What values must be by an annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional

import numpy as np
import pytest

from lattica.rpc.encoding.annotations import checker_of
from lattica.rpc.encoding.arrays import RefusedValueError
from tests.support.rpc.types import Colour, Point


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (int, [1, True], ["1", 1.0, None]),
        (float, [1.0, 1], ["1"]),
        (str, ["a"], [b"a"]),
        (None, [None], [0]),
        (int | None, [1, None], ["a"]),
        (Optional[str], ["a", None], [1]),  # noqa: UP045
        (list[int], [[], [1, 2]], [(1, "a"), ["a"], "ab", {1}]),
        (Sequence[str], [["a"], ("a",)], ["ab", [1]]),
        (list[list[int]], [[[1]]], [[["a"]], [1]]),
        (dict[str, int], [{"a": 1}], [{1: 1}, {"a": "b"}, []]),
        (Mapping[str, list[int]], [{"a": [1]}], [{"a": [None]}]),
        (dict, [{1: 2}], [[]]),
        (tuple[int, str], [(1, "a")], [(1,), [1, "a"], ("a", 1)]),
        (tuple[int, ...], [(), (1, 2)], [("a",), [1]]),
        (set[int], [{1}, frozenset({1})], [{"a"}, [1]]),
        (frozenset[int], [frozenset({1})], [{1}]),
        (Literal["a", 1], ["a", 1], ["b", True, [1]]),
        (Colour, [Colour.RED], ["RED", 1]),
        (Point, [Point(1, 2)], [(1, 2)]),
        (np.ndarray, [np.zeros(1)], [[1]]),
        (list[Point | None], [[Point(1, 2), None]], [[1]]),
        (Any, [1, "a", None], []),
        (object, [1, "a", None], []),
    ],
)
def test_checks(annotation: Any, right: list[Any], wrong: list[Any]) -> None:
    check = checker_of(annotation)
    for value in right:
        assert check is None or check(value) is value or check(value) == value
    for value in wrong:
        assert check is not None
        with pytest.raises(RefusedValueError, match="expected"):
            check(value)


def test_bytes_are_taken_from_other_memory() -> None:
    check = checker_of(bytes)
    assert check is not None
    assert check(memoryview(b"a")) == b"a"
    assert type(check(bytearray(b"a"))) is bytes
