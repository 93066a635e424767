"""References that have come: one heartbeat for all of an owner, and the last copy counts."""

from __future__ import annotations

import numpy as np
import pytest

from lattica.nat.base.keys.identity import Identity
from lattica.rpc.errors import InvalidArgumentError, OutOfRangeError
from lattica.rpc.leases import keeping as module
from lattica.rpc.leases.index import decode_index, encode_index, part_of
from lattica.rpc.leases.keeping import LONGEST_PAUSE, Keeping

OWNER, OTHER = (Identity.generate().peer_id for _ in range(2))


def test_copies_are_counted() -> None:
    keeping = Keeping()
    assert keeping.add(OWNER, b"a", 60.0)
    assert not keeping.add(OWNER, b"a", 60.0)
    assert not keeping.add(OWNER, b"b", 3.0)
    assert keeping.add(OTHER, b"a", 60.0)
    assert (keeping.count, keeping.beat(OWNER)) == (3, [b"a", b"b"])
    assert (keeping.pause(OWNER), keeping.pause(OTHER)) == (1.0, LONGEST_PAUSE)
    assert not keeping.drop(OWNER, b"a")
    assert keeping.drop(OWNER, b"a")
    assert not keeping.drop(OTHER, b"a")  # its owner has not heard a heartbeat
    assert keeping.add(OTHER, b"a", 60.0)
    keeping.forget(OWNER, b"b")
    assert not keeping.drop(OWNER, b"b")
    assert (keeping.pause(OWNER), keeping.count) == (None, 1)


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 1)
    keeping = Keeping()
    assert keeping.add(OWNER, b"a", 60.0)
    assert not keeping.add(OTHER, b"a", 60.0)
    assert not keeping.drop(OTHER, b"a")


def test_indices_travel() -> None:
    for index in (3, slice(1, None, 2), ..., (slice(None), -1, ...)):
        steps = index if isinstance(index, tuple) else (index,)
        assert decode_index(encode_index(index)) == steps
    with pytest.raises(TypeError, match="not list"):
        encode_index([1])  # type: ignore[arg-type]
    for wrong in (["x"], [[1, 2]], [[1, 2, "3"]], [None], [1.5], [True], [1] * 65):
        with pytest.raises(InvalidArgumentError):
            decode_index(wrong)


def test_bytes_have_one_slice() -> None:
    data = memoryview(b"hello")
    assert bytes(part_of(data, (slice(1, 3),))) == b"el"
    assert part_of(data, (...,)) is data
    for index in ((1,), (slice(1), slice(1))):
        with pytest.raises(InvalidArgumentError):
            part_of(data, index)
    with pytest.raises(OutOfRangeError):
        part_of(np.zeros(3), (9,))
