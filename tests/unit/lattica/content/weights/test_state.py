"""State dicts: what is written is what the safetensors library reads, and comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lattica.content import Cid, MappedTensors, RawTensor, WeightVersion
from lattica.content.manifest.chunking import cut_file
from lattica.content.manifest.tensor_files.safetensors_header import TensorLayout
from lattica.content.weights.state import element_bytes, write_state
from lattica.errors import LocalProtocolError

STATE: dict[str, Any] = {
    "scalar": np.float64(3.5),
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column-major": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "strided": np.arange(20, dtype=np.uint8)[::2],
    "big endian": np.arange(4, dtype=">i8"),
    "none": np.empty((0, 3), np.float16),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j], np.complex64),
}


def written(tmp_path, state):
    path = tmp_path / "weights.safetensors"
    write_state(path, state)
    layout = cut_file(path).layout
    assert isinstance(layout, TensorLayout)
    version = WeightVersion(1, Cid.of(b""), path, 0, 0, 0.0, layout, MappedTensors(path))
    return path, version, layout


def test_arrays_come_back_and_are_what_the_library_reads(tmp_path):
    path, mapped, _ = written(tmp_path, STATE)
    theirs, ours = load_file(path), mapped.numpy()
    assert ours.keys() == theirs.keys() == STATE.keys()
    for name, array in STATE.items():
        assert ours[name].dtype == theirs[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(theirs[name], array)
        assert ours[name].size == 0 or not ours[name].flags.writeable


def test_the_same_state_makes_the_same_file_with_every_tensor_aligned(tmp_path):
    path, _, layout = written(tmp_path, STATE)
    other = tmp_path / "other"
    write_state(other, dict(reversed(STATE.items())))
    assert other.read_bytes() == path.read_bytes()
    units = element_bytes(layout, [tensor.offset for tensor in layout.tensors])
    assert all(t.offset % unit == 0 for t, unit in zip(layout.tensors, units, strict=True))


def test_raw_tensors_of_types_that_numpy_lacks(tmp_path):
    data = bytes(range(12))
    raw = RawTensor("BF16", (2, 3), memoryview(data))
    _, mapped, _ = written(tmp_path, {"w": raw})
    assert mapped.raw() == {"w": raw}
    target = RawTensor("BF16", (2, 3), memoryview(bytearray(12)))
    mapped.load_into({"w": target})
    assert bytes(target.data) == data


def test_loading_into_what_is_there(tmp_path):
    _, mapped, _ = written(tmp_path, STATE)
    mine: dict[str, Any] = {"a": np.zeros((2, 3), np.float32), "none": np.empty((0, 3), np.float16)}
    memory = mine["a"].ctypes.data
    mapped.load_into(mine)
    assert mine["a"].ctypes.data == memory
    np.testing.assert_array_equal(mine["a"], STATE["a"])
    # Not as it lies in the file: between other elements, and the other way round.
    strided = np.zeros((2, 6), np.float32)
    mapped.load_into({"a": strided[:, ::2], "big endian": (swapped := np.zeros(4, ">i8"))})
    np.testing.assert_array_equal(strided[:, ::2], STATE["a"])
    assert not strided[:, 1::2].any()
    np.testing.assert_array_equal(swapped, STATE["big endian"])
    for wrong in (
        {"b": mine["a"]},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"a": RawTensor("F32", (2, 3), memoryview(bytes(24)))},
        {"a": np.frombuffer(bytes(24), np.float32).reshape(2, 3)},
        {"a": [1, 2]},
    ):
        with pytest.raises(LocalProtocolError, match=r"'[ab]'"):
            mapped.load_into(wrong)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"a": [1.0]},
        {"a": np.array(["text"])},
        {"a": np.array([1], np.complex128)},
        {"a": RawTensor("BF16", (3,), memoryview(bytes(5)))},
        {"a": RawTensor("B16", (3,), memoryview(bytes(6)))},
    ],
)
def test_what_is_no_state_leaves_no_file(tmp_path, state):
    path = tmp_path / "w"
    with pytest.raises(LocalProtocolError):
        write_state(path, state)
    assert not path.exists()


def test_a_tensor_that_is_a_conjugate_view_gets_what_it_shows(tmp_path):
    torch = pytest.importorskip("torch")
    _, mapped, _ = written(tmp_path, STATE)
    memory = torch.zeros(1, dtype=torch.complex64)
    mapped.load_into({"complex": memory.conj()})
    assert memory.tolist() == [1 - 2j]


def test_a_file_that_is_removed_stays_readable(tmp_path):
    path, mapped, _ = written(tmp_path, STATE)
    arrays = mapped.numpy()
    path.unlink()
    np.testing.assert_array_equal(arrays["a"], STATE["a"])
