"""Keys that all have one hash: what takes time in the square of their number is refused."""

from __future__ import annotations

import datetime
import struct
from typing import Any

import msgpack
import pytest

from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.codes import Code
from lattica.rpc.encoding.decoder import MAX_COMPOSITE_KEYS, Decoder
from lattica.rpc.encoding.encoder import Encoder
from lattica.rpc.encoding.registry import TypeRegistry
from tests.support.rpc.types import Point

MODULUS = 2**61 - 1
"""Of the hash of numbers."""


class Watched(int):
    """A number that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Watched.compared += 1
        return int.__eq__(self, other)

    __hash__ = int.__hash__


def ext(code: Code, data: bytes = b"") -> msgpack.ExtType:
    return msgpack.ExtType(code, data)


def integer(number: int) -> msgpack.ExtType:
    value = (number + 8) * MODULUS  # the first eight are within 64 bits
    return ext(Code.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


def timedelta(number: int) -> msgpack.ExtType:
    return ext(Code.TIMEDELTA, number.to_bytes(8, "little", signed=True))


def moment(number: int) -> msgpack.ExtType:
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(number)
    return ext(Code.DATETIME, when.isoformat().encode())


def imaginary(number: int) -> msgpack.ExtType:
    return ext(Code.COMPLEX, struct.pack("<dd", 1000003.0 * number, -float(number)))


def pair(number: int) -> list[Any]:
    return [ext(Code.TUPLE), integer(number)]


def frozen(number: int) -> list[Any]:
    return [ext(Code.FROZENSET), integer(number)]


def scalar(number: int) -> list[Any]:
    return [ext(Code.SCALAR), "<i8", number.to_bytes(8, "little")]


def named(number: int) -> list[Any]:
    return [ext(Code.STRUCT), "Point", {"x": integer(number), "y": 0}]


KEYS = [integer, timedelta, moment, imaginary, pair, frozen, scalar, named]


def packed_map(keys: list[Any]) -> bytes:
    pairs = b"".join(bytes(msgpack.packb(key)) + b"\xc0" for key in keys)
    return b"\xdf" + len(keys).to_bytes(4, "big") + pairs


def packed_set(keys: list[Any], code: Code) -> bytes:
    return bytes(msgpack.packb([ext(code), *keys]))


def decoder() -> Decoder:
    types = TypeRegistry()
    types.register(Point)
    return Decoder(types)


@pytest.mark.parametrize("key", KEYS)
def test_keys_whose_hash_is_their_senders_are_few(key: Any) -> None:
    keys = [key(number) for number in range(1, MAX_COMPOSITE_KEYS + 2)]
    for data in (packed_map(keys), packed_set(keys, Code.SET), packed_set(keys, Code.FROZENSET)):
        with pytest.raises(RefusedValueError, match=f"more than {MAX_COMPOSITE_KEYS} keys"):
            decoder().decode(data)
    few = keys[: MAX_COMPOSITE_KEYS // 2]  # those inside of others count, too
    assert len(decoder().decode(packed_map(few))) == len(few)
    assert len(decoder().decode(packed_set(few, Code.SET))) == len(few)


def test_they_count_over_all_of_a_message() -> None:
    half = [integer(number) for number in range(1, MAX_COMPOSITE_KEYS // 2 + 2)]
    maps = b"\x92" + packed_map(half) * 2
    mixed = b"\x92" + packed_map(half) + packed_set(half, Code.SET)
    for data in (maps, mixed):
        value, refusal = decoder().decode_partly(data)
        assert "keys of dicts" in str(refusal)
        assert len(value[0]) == len(half)
        assert value[1] is None


def test_as_values_they_are_as_many_as_may_be() -> None:
    many = 10 * MAX_COMPOSITE_KEYS
    value = [
        {n: (n, 2**70) for n in range(many)},
        {n - 2**63 for n in range(many)} | {n / 7 for n in range(many)} | {None, True},
        {str(n).encode(): datetime.timedelta(n) for n in range(many)},
        {(n, "a"): n for n in range(10)},
    ]
    types = TypeRegistry()
    assert Decoder(types).decode(Encoder(types).encode(value).skeleton) == value


def test_no_more_comparisons_than_keys_of_one_hash_that_are_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tested = decoder()
    numbers = iter(range(1, 5000))
    monkeypatch.setitem(tested._values, Code.INTEGER, lambda _: Watched(next(numbers) * MODULUS))
    Watched.compared = 0
    tested.decode_partly(packed_set([integer(n) for n in range(1, 2000)], Code.SET))
    assert Watched.compared == 0
