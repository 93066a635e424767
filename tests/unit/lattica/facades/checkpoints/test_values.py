"""Values of a checkpoint that are no tensors: a closed set of types, from strangers, too."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.errors import ContentError, LocalProtocolError
from lattica.facades.checkpoints.values import decode_values, encode_values

_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
_VALUES = st.recursive(
    _PLAIN | st.binary(max_size=5),
    lambda of: (
        st.lists(of, max_size=3)
        | st.lists(of, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), of, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=25)
@given(st.dictionaries(st.text(max_size=5), _VALUES, max_size=3))
def test_they_come_back_as_they_were(values: dict[str, Any]):
    assert repr(decode_values(encode_values(values))) == repr(values)


@pytest.mark.parametrize("value", [object(), {1, 2}, [1, (2, 3j)], {"x": print}])
def test_others_are_refused(value: Any):
    with pytest.raises(LocalProtocolError, match="'lr' has a"):
        encode_values({"lr": value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a": []}',
        '{"a": ["set"]}',
        '{"a": ["bytes", 1]}',
        '{"a": ["bytes", "xy"]}',
        '{"a": ["dict", 1]}',
        '{"a": ["dict", [["list"], 1]]}',
        '{"a": {"b": 1}}',
        '{"a": ' + "[" * 100_000 + "}",
    ],
)
def test_what_a_stranger_has_written_wrong_is_an_error_of_content(text: str):
    with pytest.raises(ContentError):
        decode_values(text)
