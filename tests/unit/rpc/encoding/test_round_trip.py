"""Values arrive as they were sent, whatever they are."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value

from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoder
from lattica.rpc.encoding.memory import ALIGNMENT, aligned_copy
from lattica.rpc.encoding.registry import TypeRegistry
from tests.support.rpc.types import Colour, Inner, Outer, Point

LARGE = 100_000
"""Bytes of what is too large for a skeleton."""


def types() -> TypeRegistry:
    known = TypeRegistry()
    for kind in (Outer, Point, BytesValue, Int64Value):
        known.register(kind)
    return known


def sent(value: object) -> Any:
    """The value as it arrives."""
    known = types()
    body = Encoder(known).encode(value)
    buffers = [each if type(each) is bytes else aligned_copy(each) for each in body.buffers]
    return Decoder(known).decode(body.skeleton, buffers)


UTC = datetime.UTC
VALUES: list[Any] = [
    None,
    True,
    -1,
    2**63 - 1,
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    -(2**4000),
    1.5,
    -0.0,
    math.inf,
    "",
    "große Welt \U0001f600",
    b"",
    b"\x00" * LARGE,
    bytearray(b"ab"),
    bytearray(LARGE),
    2 - 3j,
    (),
    (1,),
    (1, (2, [3, (4,)])),
    [],
    [[], [[]]],
    set(),
    {1, "a", (2, 3)},
    frozenset({frozenset({1})}),
    {},
    {"a": {"b": [1, (2, 3)]}},
    {1: 2, None: 3, 1.5: 4, b"k": 5, (1, 2): 6, frozenset({1}): 7, Colour.RED: 8, 2**70: 9},
    [b"x" * LARGE, {"nested": b"y" * LARGE}, (b"z" * LARGE,)],
    datetime.datetime(2026, 11, 28, 1, 2, 3, 4),
    datetime.datetime(2026, 11, 28, tzinfo=UTC),
    datetime.datetime(2026, 11, 28, tzinfo=datetime.timezone(datetime.timedelta(hours=-3))),
    datetime.date(1, 1, 1),
    datetime.time(23, 59, 59, 999999),
    datetime.timedelta(days=-3, microseconds=1),
    datetime.timedelta.max,
    Colour.GREEN,
    Point(1, 2),
    Outer(1, Inner(["a", "b"]), Colour.GREEN),
    [Outer(2**80, Inner([]))],
    Int64Value(value=5),
    Int64Value(),
    BytesValue(value=b"q" * LARGE),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values(value: Any) -> None:
    arrived = sent(value)
    assert arrived == value
    assert type(arrived) is type(value)
    if isinstance(value, (list, tuple)):
        assert [*map(type, arrived)] == [*map(type, value)]
    assert math.copysign(1, arrived) == math.copysign(1, value) if value == 0.0 else True


@pytest.mark.parametrize("size", [0, 3, LARGE])
def test_a_memoryview_arrives_writable_and_aligned(size: int) -> None:
    arrived = sent(memoryview(b"v" * size))
    assert bytes(arrived) == b"v" * size
    assert not arrived.readonly
    if size:
        assert np.frombuffer(arrived, np.uint8).ctypes.data % ALIGNMENT == 0


ARRAYS = [
    np.arange(5),
    np.arange(100_000, dtype=np.float32),
    np.array(5.0),
    np.zeros((0, 3)),
    np.zeros((3, 0), order="F"),
    np.asfortranarray(np.arange(60_000).reshape(200, 300)),
    np.arange(100_000)[::3],
    np.arange(100_000)[::-1],
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    np.broadcast_to(np.arange(3), (4, 3)),
    np.arange(4, dtype=">i4"),
    np.array([True, False]),
    np.array([1 + 2j], np.complex64),
    np.array(["abc", "d"]),
    np.array([b"abc", b"d"]),
    np.array(["2020-01-01", "NaT"], "M8[D]"),
    np.array([1, 2], "m8[ns]"),
    np.array([(1, 2.0)], [("a", "<i4"), ("b", ">f8")]),
    np.zeros(3, [("s", "i4", (2, 3)), ("n", [("q", "u1"), ("r", "S3")])]),
    np.zeros(2, np.dtype([("a", "u1"), ("b", "f8")], align=True)),
    np.zeros(2, "V0"),
    np.zeros(2, "V5"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}"[:40])
def test_arrays(array: np.ndarray) -> None:
    arrived = sent({"weights": [array]})["weights"][0]
    assert type(arrived) is np.ndarray
    assert arrived.dtype == array.dtype
    assert arrived.dtype.fields == array.dtype.fields
    assert arrived.shape == array.shape
    assert arrived.tobytes() == array.tobytes()
    assert arrived.flags.writeable
    assert arrived.flags.f_contiguous or not array.flags.f_contiguous
    if arrived.nbytes:
        assert arrived.ctypes.data % ALIGNMENT == 0


def test_a_large_array_is_sent_from_where_it_lies() -> None:
    array = np.arange(100_000)
    (buffer,) = Encoder(TypeRegistry()).encode([array]).buffers
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)


def test_a_mapped_array_arrives_as_an_array(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "w", np.float32, "w+", shape=(50, 60))
    mapped[:] = 3
    assert (sent(mapped) == 3).all()


@pytest.mark.parametrize(
    "scalar",
    [np.float16(1.5), np.int64(-1), np.bool_(True), np.datetime64("2020-01-01"), np.str_("")],
)
def test_scalars_of_numpy(scalar: np.generic) -> None:
    arrived = sent(scalar)
    assert arrived == scalar
    assert type(arrived) is type(scalar)


def test_a_subclass_of_array_is_refused() -> None:
    with pytest.raises(TypeError, match=r"value\[1\]: .*MaskedArray"):
        sent([1, np.ma.array([1], mask=[True])])


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    kinds = ["float32", "float64", "bfloat16", "float8_e4m3fn", "bool", "int8", "complex64"]
    for name in kinds:
        tensor = torch.arange(12).to(getattr(torch, name)).reshape(3, 4).t()
        arrived = sent([tensor])[0]
        assert arrived.dtype == tensor.dtype
        assert arrived.shape == tensor.shape
        raw = torch.uint8
        assert torch.equal(arrived.contiguous().view(raw), tensor.contiguous().view(raw))
        arrived.fill_(1)
    assert sent(torch.tensor(5.0)).item() == 5.0
    assert sent(torch.zeros(0, 3)).shape == (0, 3)
    assert torch.equal(sent(torch.nn.Parameter(torch.ones(3))), torch.ones(3))


def test_slices_of_safetensors(tmp_path: Any) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    save_file({"w": np.arange(6.0).reshape(2, 3), "s": np.array(4.0)}, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        assert (sent([file.get_slice("w")])[0] == np.arange(6.0).reshape(2, 3)).all()
        assert sent(file.get_slice("s")) == 4.0
