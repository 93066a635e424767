"""Pickles of strangers: plain data is read, and nothing else; no few bytes cost much."""

from __future__ import annotations

import pickle
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.compat.pickles import opcodes as op
from lattica.compat.pickles import reader
from lattica.compat.pickles.reader import read_pickle
from lattica.compat.pickles.writer import write_pickle
from lattica.errors import RemoteProtocolError

SINGLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary(min_size=300, max_size=400)
)
KEYS = SINGLE | st.tuples(SINGLE, SINGLE) | st.frozensets(SINGLE, max_size=3)
VALUES = st.recursive(
    SINGLE | st.binary().map(bytearray) | st.sets(KEYS, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_what_is_written_is_read_by_both(value: Any) -> None:
    data = write_pickle(value)
    assert same(pickle.loads(data), value)  # noqa: S301 - our own
    assert same(read_pickle(data), value)
    assert same(read_pickle(pickle.dumps(value, 5)), value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_can_only_be_refused(data: bytes) -> None:
    for begin in (b"", b"\x80\x04", b"\x80\x05]\x94("):
        with suppress(RemoteProtocolError):
            read_pickle(begin + data)


def test_what_is_one_object_stays_one() -> None:
    shared = [1]
    first, second = read_pickle(pickle.dumps([shared, shared], 4))
    assert first is second


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize(
    ("value", "protocol", "match"),
    [
        (Evil(), 4, r"builtins\.print \(STACK_GLOBAL\)"),
        (complex(1, 2), 5, r"builtins\.complex"),
        (bytearray(b"x"), 4, r"builtins\.bytearray"),
        ([1], 2, "protocol 4 or 5"),
        ([1], 0, "protocol 4 or 5"),
    ],
)
def test_objects_are_refused(
    value: object, protocol: int, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RemoteProtocolError, match=match):
        read_pickle(pickle.dumps(value, protocol))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("code", [*op.OBJECTS])
def test_no_opcode_of_objects_is_known(code: int) -> None:
    with pytest.raises(RemoteProtocolError, match=op.OBJECTS[code]):
        read_pickle(b"\x80\x04N" + bytes([code]) + b"os\nsystem\n.")


def test_what_contains_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    pair: list[Any] = []
    pair.append((pair,))
    names: dict[str, Any] = {}
    names["me"] = [names]
    for value in (ring, pair, names):
        with pytest.raises(RemoteProtocolError, match="itself"):
            read_pickle(pickle.dumps(value, 4))


def test_depth_is_bounded() -> None:
    nested: Any = 1
    for _ in range(reader.MAX_DEPTH):
        nested = [nested]
    assert read_pickle(write_pickle(nested)) == nested
    for deeper in ([nested], (nested,), {"a": nested}):
        with pytest.raises(RemoteProtocolError, match="in each other"):
            read_pickle(pickle.dumps(deeper, 4))
        with pytest.raises(TypeError, match="within more than"):
            write_pickle(deeper)
    with pytest.raises(RemoteProtocolError, match="in each other"):
        read_pickle(b"\x80\x04" + b")" + b"\x85" * 100_000 + b".")


def test_few_bytes_do_not_stand_for_many_values() -> None:
    laughs: Any = [1] * 3
    for _ in range(40):
        laughs = [laughs, laughs]
    with pytest.raises(RemoteProtocolError, match="too many values"):
        read_pickle(pickle.dumps(laughs, 4))
    keys: Any = (1, 1)
    for _ in range(18):
        keys = (keys, keys)
    # The same tuple, of a million values, as a key again and again.
    data = pickle.dumps(keys, 4)[:-1] + b"\x94" + b"}("
    index = data.count(b"\x94") - 1
    again = b"j" + struct.pack("<I", index) + b"N"
    with pytest.raises(RemoteProtocolError, match="values in keys"):
        read_pickle(data + again * 50 + b"u0.")


def test_hashes_that_can_be_chosen_are_bounded() -> None:
    modulus = (1 << 61) - 1
    alike = {number * modulus: None for number in range(1, 200)}
    with pytest.raises(RemoteProtocolError, match="same hash"):
        read_pickle(pickle.dumps(alike, 4))
    with pytest.raises(RemoteProtocolError, match="same hash"):
        read_pickle(pickle.dumps({*alike}, 4))
    different = {number * 7: (number, 1) for number in range(5000)}
    assert read_pickle(pickle.dumps(different, 4)) == different


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b".",
        b"NN.",
        b"(N.",
        b"N.N",
        b"a.",
        b"]a.",
        b"](N0.",
        b"h\0.",
        b"\x94.",
        b"NN\x86",
        b"}(Nu.",
        b"}(]Nu.",
        b"\x8f(]\x90.",
        b"N(Ne.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\x8a\x05\0.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x96\0\0\0\0\0\0\0\x01.",
        b"\x95\xff\0\0\0\0\0\0\0N.",
        b"\x8c\x01\xff.",
        b"G\0.",
        b"e.",
        b"1.",
    ],
)
def test_what_is_no_pickle(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_pickle(b"\x80\x04" + body)


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(TypeError, match=r"the value\['a'\]\[1\] is of type object"):
        write_pickle({"a": [1, object()]})
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(TypeError, match="within itself"):
        write_pickle(ring)
