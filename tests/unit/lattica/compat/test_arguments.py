"""Arguments of the original's callers: packed into one value, and handed to a method."""

from __future__ import annotations

import threading
from typing import Any, Optional

import numpy as np
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from lattica.compat.calls.arguments import invoke, pack, received, result_class, taken
from lattica.compat.calls.decorators import (
    CallKind,
    kinds_of,
    rpc_method,
    rpc_stream,
    rpc_stream_iter,
)
from lattica.compat.calls.service import chunk


class Handler:
    def nothing(self) -> str:
        return "nothing"

    def one(self, x: Any) -> Any:
        return ("one", x)

    def maybe(self, x: Any = "default") -> Any:
        return ("maybe", x)

    def two(self, a: Any, b: Any = "b") -> Any:
        return (a, b)

    def message(self, value: Value) -> Value:
        assert isinstance(value, Value)
        return value

    def optional(self, value: Optional[Struct]) -> Struct | None:  # noqa: UP045
        return value

    def unresolved(self, x: "NoSuchName") -> Any:  # type: ignore[name-defined] # noqa: F821, UP037
        return x


def call(name: str, *args: Any, **named: Any) -> Any:
    return invoke(getattr(Handler(), name), pack(getattr(Handler, name), args, named))


@pytest.mark.parametrize(
    ("name", "args", "named", "result"),
    [
        ("nothing", (), {}, "nothing"),
        ("one", (5,), {}, ("one", 5)),
        ("one", (None,), {}, ("one", None)),
        ("one", ([1, 2],), {}, ("one", [1, 2])),
        ("one", ((1, 2),), {}, ("one", (1, 2))),
        ("one", ({"x": 1, "y": 2},), {}, ("one", {"x": 1, "y": 2})),
        ("one", (), {"x": 7}, ("one", 7)),
        ("maybe", (), {}, ("maybe", "default")),
        ("maybe", (3,), {}, ("maybe", 3)),
        ("two", (1, 2), {}, (1, 2)),
        ("two", (1,), {}, (1, "b")),
        ("two", (), {"b": 1, "a": 2}, (2, 1)),
        ("two", (1,), {"b": 5}, (1, 5)),
        ("unresolved", (1,), {}, 1),
    ],
)
def test_what_a_method_gets(name: str, args: Any, named: Any, result: Any) -> None:
    assert call(name, *args, **named) == result


def test_both_kinds_of_arguments_need_the_method() -> None:
    with pytest.raises(TypeError, match="by position and by name"):
        pack(None, (1,), {"b": 2})
    with pytest.raises(TypeError, match=r"multiple values|unexpected"):
        pack(Handler.two, (1,), {"a": 2})


def test_messages_travel_as_bytes() -> None:
    value = Value(string_value="x")
    assert pack(Handler.message, (value,), {}) == value.SerializeToString()
    assert call("message", value) == value
    assert call("message", Value()) == Value()
    assert result_class(Handler.message) is Value
    assert result_class(Handler.optional) is Struct
    assert result_class(Handler.two) is None
    assert received(b"", Value) == received(None, Value) == Value()


def test_a_dict_is_a_message_by_its_fields() -> None:
    assert call("message", {"number_value": 2.5}) == Value(number_value=2.5)
    nested = received({"list_value": {"values": [Value(bool_value=True)]}}, Value)
    assert nested == Value(list_value=ListValue(values=[Value(bool_value=True)]))


def test_marks() -> None:
    class Service:
        @rpc_method
        def a(self) -> None: ...

        @rpc_stream
        def b(self) -> None: ...

        @rpc_stream_iter
        def c(self) -> None: ...

        def d(self) -> None: ...

    class Derived(Service):
        @rpc_method
        def e(self) -> None: ...

    expected = {"a": CallKind.UNARY, "b": CallKind.STREAM, "c": CallKind.STREAM_ITER}
    assert kinds_of(Service) == expected
    assert kinds_of(Derived) == {**expected, "e": CallKind.UNARY}


@pytest.mark.parametrize(
    ("item", "expected"),
    [(b"b", b"b"), ("é", "é".encode()), (bytearray(b"ba"), b"ba"), ([1, 255], b"\x01\xff")],
)
def test_chunks(item: Any, expected: bytes) -> None:
    assert chunk(item) == expected


@pytest.mark.parametrize("item", [3, None, {"a": 1}, [1, 256], ["a"], 2.5])
def test_what_is_no_chunk(item: Any) -> None:
    with pytest.raises(TypeError, match="an item of a stream"):
        chunk(item)


@given(st.lists(st.integers() | st.text() | st.none(), min_size=2))
def test_lists_of_arguments_arrive_by_position(values: list[Any]) -> None:
    class Any_:
        def takes(self, first: Any, *rest: Any) -> Any:
            return [first, *rest]

    assert invoke(Any_().takes, pack(Any_.takes, tuple(values), {})) == values


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ({"a": [1]}, lambda value: value["a"].append(2)),
        ([bytearray(b"a")], lambda value: value[0].extend(b"b")),
        (bytearray(b"a"), lambda value: value.extend(b"b")),
        ({1, 2}, lambda value: value.add(3)),
        (np.zeros(4), lambda value: value.fill(1)),
        (memoryview(bytearray(b"aa")), lambda value: value.__setitem__(0, 98)),
    ],
    ids=["dict", "list", "bytearray", "set", "array", "memoryview"],
)
def test_an_argument_is_what_it_was_at_the_call(value: Any, change: Any) -> None:
    """vllm, pull request 50053: a buffer that was used again overwrote a message on its way."""
    kept = taken(value)
    before = repr(bytes(kept)) if isinstance(kept, memoryview) else repr(kept)
    change(value)
    assert before == (repr(bytes(kept)) if isinstance(kept, memoryview) else repr(kept))


def test_what_does_not_change_is_not_copied_nor_what_cannot_be() -> None:
    contained: list[Any] = []
    contained.append(contained)
    for value in (b"x" * 10, "text", None, memoryview(b"x"), Value(), threading.Lock()):
        assert taken(value) is value
    kept = taken(contained)
    assert kept is not contained
    assert kept[0] is kept
