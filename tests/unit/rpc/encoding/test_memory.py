"""Memory for what is to come."""

from __future__ import annotations

import ctypes
import sys

import pytest

from lattica.nat.config import MIB
from lattica.nat.swarm.upkeep.heap import resident
from lattica.rpc.encoding.memory import ALIGNMENT, allocate


@pytest.mark.parametrize("size", [1, 1000, MIB - 1, MIB, 3 * MIB + 1])
@pytest.mark.parametrize("has_numpy", [True, False])
def test_it_is_writable_and_aligned(
    size: int, has_numpy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_numpy:
        monkeypatch.delitem(sys.modules, "numpy", raising=False)
    memory = allocate(size)
    assert len(memory) == size
    assert not memory.readonly
    memory[-1] = 7
    assert ctypes.addressof(ctypes.c_char.from_buffer(memory)) % ALIGNMENT == 0


@pytest.mark.skipif(not resident(), reason="the system does not say how much a process takes")
def test_what_nobody_fills_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    before = resident()
    memory = [allocate(256 * MIB) for _ in range(2)]
    assert resident() - before < 64 * MIB
    del memory


def test_there_is_an_end_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    with pytest.raises(MemoryError):
        allocate(2**62)
