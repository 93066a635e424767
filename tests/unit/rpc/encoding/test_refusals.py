"""What cannot travel is refused by its path, and what arrives wrong without harm."""

from __future__ import annotations

from dataclasses import make_dataclass
from decimal import Decimal
from typing import Any

import msgpack
import numpy as np
import pytest

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.rpc.encoding.arrays import RefusedValueError, memory_of
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import MAX_BUFFERS, Encoder
from lattica.rpc.encoding.items import MAX_ITEMS
from lattica.rpc.encoding.registry import TypeRegistry
from tests.support.rpc.types import Inner, Outer, Picky, Point, Stranger


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"^text: values of type builtins.object"),
        ({"a": [1, {"b": Decimal(1)}]}, r"^text\['a'\]\[1\]\['b'\]: .*Decimal"),
        ((1, [{2, Text("x")}]), r"^text\[1\]\[0\]\{'x'\}: .*Text"),
        (Outer(1, Inner([Text("x")])), r"^text\.inner\.names\[0\]: "),
        (Point(1, Decimal(1)), r"^text\.y: "),  # type: ignore[arg-type]
        ({(1, Decimal(2)): 1}, r"^text\[key \(1, Decimal\('2'\)\)\]\[1\]: "),
        ([np.array([object()])], r"^text\[0\]: arrays of object hold Python objects"),
        ([memoryview(b"abcd")[::2]], r"^text\[0\]: a memoryview that is not contiguous"),
        (lambda: 0, r"^text: values of type builtins.function"),
    ],
)
def test_an_unknown_type_is_named_by_its_path(value: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Encoder(TypeRegistry()).encode(value, "text")


def test_values_that_have_no_encoding() -> None:
    encoder = Encoder(TypeRegistry())
    with pytest.raises(ValueError, match=r"^value\['k'\]: .*surrogates"):
        encoder.encode({"k": "\ud800"})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="contains itself"):
        encoder.encode(loop)
    with pytest.raises(ValueError, match=f"more than {MAX_BUFFERS} buffers"):
        encoder.encode([bytes(2000)] * (MAX_BUFFERS + 100))
    values: list[Any] = [[[]] * MAX_ITEMS, {n: {} for n in range(MAX_ITEMS)}, [2**70] * MAX_ITEMS]
    for many in values:
        with pytest.raises(ValueError, match=f"^value: more than {MAX_ITEMS} lists"):
            encoder.encode(many)
    assert encoder.encode([[]] * (MAX_ITEMS - 1)).skeleton
    assert encoder.encode(["日本語" * 50_000, [0.5] * 100_000]).skeleton
    assert encoder.encode([1]).skeleton == b"\x91\x01"  # it works on


def marked(code: int, *parts: object) -> bytes:
    return bytes(msgpack.packb([msgpack.ExtType(code, b""), *parts]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        b"\x01\x01",
        b"\xdd\xff\xff\xff\xff" * 400,
        b"\xdd\x00\x00\x0f\xff" * 800,
        b"\x91" * 2000 + b"\xc0",
        b"\x81\x90\x01",
        b"\xd4\x05\x00",
        b"\xc7\x00\x7f",
        msgpack.packb(msgpack.ExtType(1, b"")),
        msgpack.packb([1, msgpack.ExtType(1, b"")]),
        msgpack.packb({"a": msgpack.ExtType(4, b"")}),
        msgpack.packb(msgpack.ExtType(24, b"\x00")),
        msgpack.packb(msgpack.ExtType(26, b"\x05")),
        msgpack.packb(msgpack.ExtType(16, bytes(70_000))),
        msgpack.packb(msgpack.ExtType(17, b"yesterday")),
        msgpack.packb(msgpack.ExtType(21, b"short")),
        b"\xc7\x0c\xff" + b"\xff" * 12,
        marked(4, "Outer"),
        marked(4, 5, {}),
        marked(6, "<i4", [1]),
        marked(6, "<i4", [1], False, 5),
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Decoder(TypeRegistry()).decode(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (marked(4, "os.system", {}), "'os.system' is not known here"),
        (marked(4, "Outer", {"size": 1, "inner": None, "more": 2}), "no field 'more'"),
        (marked(4, "Outer", {"size": 1}), "Outer: .*inner"),
        (marked(4, "Outer", {"size": "1"}), r"Outer\.size: expected int, not str"),
        (marked(4, "Picky", {"size": -1}), "a size is not negative"),
        (marked(5, "Colour", "BLUE"), "no member 'BLUE'"),
        (marked(5, "Outer", "RED"), "no enum"),
        (marked(6, "O", [1], False, b"12345678"), "no element type"),
        (marked(6, "i4,i4", [1], False, b"12345678"), "no element type"),
        (marked(6, {"names": ["a"], "formats": ["O"]}, [1], False, bytes(8)), "no element type"),
        (marked(6, "<i4", [2], False, b"1234"), "no array of shape"),
        (marked(6, "<i4", [-1], False, b"1234"), "no shape"),
        (marked(6, "<i4", [1] * 64, False, b"1234"), "no shape"),
        (marked(9, "Outer", b""), "no protobuf"),
    ],
)
def test_what_cannot_be_had_here(data: bytes, message: str) -> None:
    types = TypeRegistry()
    types.register(Outer)
    types.register(Picky)
    decoder = Decoder(types)
    with pytest.raises(RefusedValueError, match=message):
        decoder.decode(data)
    assert decoder.decode(b"\x01") == 1


def test_the_rest_counts_where_a_part_is_refused() -> None:
    data = b"\x92\x07" + Encoder(TypeRegistry()).encode([Stranger(1)]).skeleton
    value, refusal = Decoder(TypeRegistry()).decode_partly(data)
    assert value == [7, [None]]
    assert "Stranger" in str(refusal)


@pytest.mark.parametrize("item", [b"\x90", b"\x80", b"\xd4\x17x", b"\xd4\x10x", b"\xdc\0\0"])
def test_too_many_items(item: bytes) -> None:
    def data(count: int) -> bytes:
        return b"\xdd" + count.to_bytes(4, "big") + item * count

    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_ITEMS} lists"):
        Decoder(TypeRegistry()).decode(data(MAX_ITEMS))
    assert len(Decoder(TypeRegistry()).decode(data(MAX_ITEMS - 1))) == MAX_ITEMS - 1


def test_two_types_of_one_name_are_refused() -> None:
    types = TypeRegistry()
    types.register(Point)
    types.register(Point)
    other = make_dataclass("Point", ["x"])
    with pytest.raises(LocalProtocolError, match="two types are called 'Point'"):
        types.register(other)
    types.register(other, "OtherPoint")
    assert types.find("OtherPoint") is other
    with pytest.raises(LocalProtocolError, match="no dataclass"):
        types.register(int)


def test_memory_to_receive_into() -> None:
    assert len(memory_of(np.zeros((2, 3), ">f8"))) == 48
    for wrong in (np.zeros((4, 4))[::2], np.broadcast_to(np.zeros(1), (2,)), [1]):
        with pytest.raises(TypeError, match="out="):
            memory_of(wrong)
