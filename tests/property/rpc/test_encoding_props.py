"""Whatever can be encoded arrives; whatever arrives is a value or one of two errors."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lattica.errors import RemoteProtocolError
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoder
from lattica.rpc.encoding.memory import aligned_copy
from lattica.rpc.encoding.registry import TypeRegistry
from tests.support.rpc.types import Colour, Inner, Outer

TYPES = TypeRegistry()
TYPES.register(Outer)
ENCODER, DECODER = Encoder(TYPES), Decoder(TYPES)

KEYS = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.sampled_from(Colour) | st.dates(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
VALUES = st.recursive(
    KEYS
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.complex_numbers(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.timedeltas()
    | st.binary(min_size=900, max_size=1200).map(lambda data: data * 60)
    | st.binary().map(bytearray)
    | st.builds(Outer, st.integers(), st.builds(Inner, st.lists(st.text(), max_size=3))),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def arrived(value: Any) -> Any:
    body = ENCODER.encode(value)
    buffers = [each if type(each) is bytes else aligned_copy(each) for each in body.buffers]
    return DECODER.decode(body.skeleton, buffers)


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@given(VALUES)
def test_round_trip(value: Any) -> None:
    assert same(arrived(value), value)


@given(npst.arrays(npst.array_dtypes() | npst.scalar_dtypes(), npst.array_shapes(min_dims=0)))
def test_arrays(array: np.ndarray) -> None:
    for each in (array, array.T, array[..., ::2] if array.ndim else array):
        got = arrived(each)
        assert got.dtype == each.dtype
        assert got.shape == each.shape
        assert got.tobytes() == each.tobytes()


@given(VALUES, st.data())
def test_damage_is_one_of_two_errors(value: Any, data: st.DataObject) -> None:
    skeleton = bytearray(ENCODER.encode(value).skeleton)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(skeleton) - 1))
        skeleton[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError, RefusedValueError):
        DECODER.decode(bytes(skeleton), [b"x", aligned_copy(b"y")])


@given(st.binary(max_size=200))
def test_bytes_are_one_of_two_errors_or_a_value(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError, RefusedValueError):
        DECODER.decode(data)
