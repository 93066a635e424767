"""Bytes of whatever has some: buffers of all shapes and formats, arrays, tensors."""

from __future__ import annotations

import array
import ctypes
import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import LocalProtocolError
from lattica.nat.base.buffers import flat_bytes, writable_view

GRID: Any = np.arange(24, dtype=np.float32).reshape(4, 6)
EMPTY: Any = np.zeros((0, 3))
HALVES: Any = np.array([1.5, 2], np.float16)
OBJECTS: Any = np.array([object()])
RECORDS: Any = np.array([(1, 2.5), (3, -1.0)], dtype=[("a", "u1"), ("b", ">f8")])


def c_order(value: Any) -> bytes:
    return np.asarray(value).tobytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"abc", b"abc"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abcdef")[::2], b"ace"),
        (memoryview(b"abcdef")[::-1], b"fedcba"),
        (memoryview(b"abcdef").cast("B", (2, 3)), b"abcdef"),
        (b"", b""),
        (array.array("H", [1, 2, 3]), array.array("H", [1, 2, 3]).tobytes()),
        ((ctypes.c_int32 * 2)(7, 8), c_order(np.array([7, 8], np.int32))),
        (GRID, c_order(GRID)),
        (GRID.T, c_order(GRID.T)),
        (GRID[:, ::2], c_order(GRID[:, ::2])),
        (GRID[::-1], c_order(GRID[::-1])),
        (np.asfortranarray(GRID), c_order(GRID)),
        (memoryview(GRID), c_order(GRID)),
        (memoryview(GRID.T), c_order(GRID.T)),
        (GRID.astype(">f4"), GRID.astype(">f4").tobytes()),
        (memoryview(GRID.astype(">f4")), GRID.astype(">f4").tobytes()),
        (np.broadcast_to(np.int16(3), (2, 2)), np.full((2, 2), 3, np.int16).tobytes()),
        (np.array(5, np.int64), c_order(np.array(5, np.int64))),
        (np.int64(5), c_order(np.array(5, np.int64))),
        (EMPTY, b""),
        (memoryview(EMPTY), b""),
        (np.array(["2020-01-01"], "datetime64[D]"), c_order(np.array([18262], np.int64))),
        (RECORDS, RECORDS.tobytes()),
        (np.ma.masked_array([1, 2], [True, False], dtype=np.int8), b"\x01\x02"),
        (HALVES, HALVES.tobytes()),
        (np.array([True, False]), b"\x01\x00"),
        (np.array([1 + 2j]), c_order(np.array([1 + 2j]))),
    ],
)
def test_the_bytes_are_those_of_the_elements_in_order(data: Any, expected: bytes) -> None:
    found = flat_bytes(data)
    assert bytes(found) == expected
    assert len(found) == len(expected)


def test_nothing_is_copied_that_lies_in_order() -> None:
    grid: Any = GRID.copy()
    for data in (grid, grid[1:3], memoryview(grid), grid.view("datetime64[s]")):
        before = flat_bytes(data)
        assert type(before) is memoryview
        grid[1, 0] += 1
        assert before == flat_bytes(data)
    whole = b"x" * 10
    assert flat_bytes(whole) is whole


@pytest.mark.parametrize("data", ["text", 7, None, [1, 2], {}, object()])
def test_what_has_no_bytes_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match=type(data).__name__):
        flat_bytes(data)
    with pytest.raises(TypeError, match=type(data).__name__):
        writable_view(data)


@pytest.mark.parametrize(
    "data",
    [
        OBJECTS,
        np.array([(1, None)], dtype=[("a", int), ("b", object)]),
        (ctypes.py_object * 1)(),
        memoryview(OBJECTS),
    ],
)
def test_pointers_to_objects_are_not_sent(data: Any) -> None:
    with pytest.raises(LocalProtocolError, match="Python objects"):
        flat_bytes(data)
    with pytest.raises(LocalProtocolError, match="Python objects"):
        writable_view(data)


def targets() -> list[Any]:
    plain: Any = np.zeros((4, 6), np.float32)
    reverse: Any = np.zeros((4, 6), ">f4")
    return [
        bytearray(24),
        memoryview(bytearray(24)).cast("B", (4, 6)),
        memoryview(bytearray(48))[::2],
        memoryview(array.array("H", range(24)))[::-2],
        array.array("d", range(3)),
        (ctypes.c_int16 * 12)(),
        plain.copy(),
        plain.copy().T,
        plain.copy()[::2, 1:4],
        memoryview(plain.copy().T),
        memoryview(reverse[:, ::3]),
        np.zeros(3, "datetime64[s]"),
        np.zeros(6, "datetime64[s]")[::2],
        np.zeros((), np.complex64),
        RECORDS.copy()[::-1],
    ]


@pytest.mark.parametrize("target", targets(), ids=lambda t: type(t).__name__)
def test_what_is_received_gets_to_where_the_caller_has_it(target: Any) -> None:
    old = bytes(flat_bytes(target))
    new = bytes(range(1, len(old)))  # not all of it
    view, settle = writable_view(target)
    assert view.format == "B"
    assert view.nbytes == len(old)
    view[: len(new)] = new
    if settle is not None:
        settle()
    assert bytes(flat_bytes(target)) == new + old[len(new) :]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (b"abc", "read-only"),
        (memoryview(b"abc"), "read-only"),
        (np.broadcast_to(np.int8(1), (3,)), "read-only"),
        (bytearray(), "empty"),
        (np.zeros((3, 0)), "empty"),
    ],
)
def test_what_cannot_be_received_into_is_refused(target: Any, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        writable_view(target)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from(["u1", "<i2", ">i4", "f8", "c8", "?", "M8[s]", "S3"]),
    st.data(),
)
def test_any_view_of_any_array_goes_there_and_back(
    shape: list[int], dtype: str, data: st.DataObject
) -> None:
    def any_view() -> Any:
        whole = np.frombuffer(bytes(10_000), dtype=dtype, count=8 * 8 * 8).reshape(8, 8, 8).copy()
        steps = data.draw(st.lists(st.sampled_from([1, 2, -1, -2]), min_size=3, max_size=3))
        axes = data.draw(st.permutations(range(3)))
        part = whole[tuple(slice(None, None, step) for step in steps)].transpose(axes)
        return part[tuple(slice(n) for n in shape)]

    source, target = any_view(), any_view()
    source = source[:, : target.shape[1], : target.shape[2]][: target.shape[0]]
    target = target[tuple(slice(n) for n in source.shape)]
    values = np.frombuffer(bytes(range(1, 200)) * 300, dtype, source.size)
    source[...] = values.reshape(source.shape)
    view, settle = writable_view(target)
    view[:] = flat_bytes(source)
    if settle is not None:
        settle()
    assert target.tobytes() == source.tobytes()


def test_it_imports_neither_numpy_nor_torch() -> None:
    program = (
        "import sys; from lattica.nat.base.buffers import flat_bytes, writable_view; "
        "flat_bytes(b'x'); writable_view(bytearray(2)); flat_bytes(memoryview(b'abc')[::2]); "
        "view, settle = writable_view(memoryview(bytearray(9))[::2]); settle(); "
        "print({'numpy', 'torch', 'ctypes'} & sys.modules.keys() or 'none')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "none", result.stderr


# --- tensors ---


class TestTensors:
    @pytest.fixture
    def torch(self) -> Any:
        return pytest.importorskip("torch")

    def test_bytes_of_all_types(self, torch: Any) -> None:
        for name in ("bfloat16", "float16", "float32", "int8", "bool", "complex64", "float8_e5m2"):
            tensor = torch.arange(12).reshape(3, 4).to(getattr(torch, name))
            expected = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
            assert bytes(flat_bytes(tensor)) == expected
            assert bytes(flat_bytes(tensor.T)) == bytes(
                tensor.T.contiguous().reshape(-1).view(torch.uint8).tolist()
            )
            target = torch.zeros(4, 3, dtype=tensor.dtype).T
            view, settle = writable_view(target)
            view[:] = expected
            assert settle is not None
            settle()
            assert bytes(flat_bytes(target)) == expected

    def test_memory_is_shared_and_kept(self, torch: Any) -> None:
        tensor = torch.zeros(100_000, dtype=torch.bfloat16)
        view, settle = writable_view(tensor)
        assert settle is None
        view[:] = b"\x80\x3f" * 100_000
        assert tensor.sum() == 100_000
        data = flat_bytes(tensor)
        tensor[0] = 2
        assert bytes(data[:2]) == b"\x00\x40"
        del tensor, view
        gc.collect()
        torch.full((100_000,), 7.0, dtype=torch.bfloat16)
        assert bytes(data[-2:]) == b"\x80\x3f"

    def test_views_that_show_other_numbers_than_are_in_memory(self, torch: Any) -> None:
        numbers, conjugates = torch.tensor([1 + 2j, 3 - 4j]), torch.tensor([1 - 2j, 3 + 4j])
        assert bytes(flat_bytes(numbers.conj())) == bytes(flat_bytes(conjugates))
        target = torch.zeros(2, dtype=torch.complex64)
        view, settle = writable_view(target.conj())
        view[:] = flat_bytes(numbers)
        assert settle is not None
        settle()
        assert target.tolist() == [1 - 2j, 3 + 4j]

    def test_parameters_and_scalars(self, torch: Any) -> None:
        weight = torch.nn.Parameter(torch.ones(2, 3))
        assert len(flat_bytes(weight)) == 24
        view, settle = writable_view(weight)
        view[:] = bytes(24)
        assert settle is None
        assert weight.sum() == 0
        assert len(flat_bytes(torch.tensor(1.0, dtype=torch.bfloat16))) == 2
        assert bytes(flat_bytes(torch.zeros(0, 3))) == b""
        assert len(flat_bytes(torch.ones(1).expand(5))) == 20

    def test_what_cannot_be_sent_or_received_into(self, torch: Any) -> None:
        for tensor in (torch.eye(3).to_sparse(), torch.zeros(3, device="meta")):
            with pytest.raises(LocalProtocolError, match="do not lie in memory"):
                flat_bytes(tensor)
            with pytest.raises(LocalProtocolError, match="do not lie in memory"):
                writable_view(tensor)
        with pytest.raises(LocalProtocolError, match="expanded"):
            writable_view(torch.ones(1).expand(5))
        with pytest.raises(LocalProtocolError, match="empty"):
            writable_view(torch.zeros(0))
