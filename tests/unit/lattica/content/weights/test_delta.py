"""Sparse deltas: lossless, small, and nothing but IntegrityError for what is none."""

from __future__ import annotations

import struct

import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.content.weights.delta import MAX_CHANGED, Region, apply_delta, make_delta
from lattica.errors import IntegrityError


def regions_of(size: int, unit: int, length: int = 1 << 16) -> list[Region]:
    return [Region(at, min(length, size - at), unit) for at in range(0, size, length)]


@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from([1, 2, 4, 8]),
    elements=st.integers(1, 3000),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    length=st.sampled_from([8, 64, 4096]),
)
def test_what_is_described_is_made_and_the_rest_is_left(unit, elements, share, seed, length):
    """Also for regions that no element divides."""
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 256, elements * unit + 3, np.uint8)
    new = old.copy()
    hit = rng.random(len(new)) < share
    new[hit] = rng.integers(0, 256, int(hit.sum()), np.uint8)
    regions = regions_of(len(new), unit, length)
    delta = make_delta(memoryview(old), memoryview(new), regions)
    made = old.copy()
    if delta is not None:
        apply_delta(delta, memoryview(made))
    for region in regions:
        part = slice(region.offset, region.offset + region.length)
        # Much changed: left to the chunks, whole.
        assert (made[part] == new[part]).all() or (made[part] == old[part]).all()
    if share == 0:
        assert delta is None


def test_a_step_that_changes_one_percent_of_bf16_costs_a_twentieth_at_most():
    rng = np.random.default_rng(1)
    old = (rng.standard_normal(1 << 20).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    new = old.copy()
    where = rng.choice(len(new), len(new) // 100, replace=False)
    new[where] ^= rng.integers(1, 4, len(where), np.uint16)
    delta = make_delta(old.data.cast("B"), new.data.cast("B"), regions_of(2 << 20, 2))
    assert delta is not None
    assert len(delta) * 20 <= new.nbytes
    apply_delta(delta, old.data.cast("B"))
    assert (old == new).all()


def test_more_changes_than_one_section_has_room_for():
    old = np.zeros(8 * MAX_CHANGED, np.uint32)
    new = old.copy()
    new[::3] = 7
    delta = make_delta(old.data.cast("B"), new.data.cast("B"), regions_of(new.nbytes, 4, 1 << 20))
    assert delta is not None
    apply_delta(delta, old.data.cast("B"))
    assert (old == new).all()


def framed(rows: list[object], frames: list[bytes], size: int = 64) -> bytes:
    header = msgpack.packb([1, size, rows])
    return len(header).to_bytes(4, "big") + header + b"".join(frames)


def section(gaps: list[int], values: bytes, unit: int = 2) -> bytes:
    planes = np.frombuffer(struct.pack(f"<{len(gaps)}i", *gaps), np.uint8)
    content = planes.reshape(-1, 4).T.tobytes()
    content += np.frombuffer(values, np.uint8).reshape(-1, unit).T.tobytes()
    return zstandard.ZstdCompressor().compress(content)


FRAME = section([3, 4], b"abcd")
GOOD = framed([[0, 2, 32, 2, len(FRAME)]], [FRAME])
BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 26))


def row(**changed: int) -> list[int]:
    fields = {"offset": 0, "unit": 2, "elements": 32, "changed": 2, "squeezed": len(FRAME)}
    return list((fields | changed).values())


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        GOOD[:3],
        GOOD[:-1],
        GOOD + b"x",
        framed([row()], [FRAME], size=66),
        framed([row(offset=2)], [FRAME]),
        framed([row(offset=-2)], [FRAME]),
        framed([row(unit=3)], [FRAME]),
        framed([row(elements=4)], [FRAME]),
        framed([row(changed=3)], [FRAME]),
        framed([row(changed=0)], [FRAME]),
        framed([row(changed=MAX_CHANGED + 1, elements=1 << 30)], [FRAME]),
        framed([row(squeezed=len(BOMB))], [BOMB]),
        framed([row(squeezed=4)], [b"nope"]),
        framed([[0, 2]], []),
        *(
            framed([row(squeezed=len(frame))], [frame])
            for frame in (
                section([-1, 4], b"abcd"),
                section([3, 0], b"abcd"),
                section([3, -2], b"abcd"),
                section([3, 29], b"abcd"),
                section([3, 2**31 - 1], b"abcd"),
            )
        ),
        b"\0\0\0\1\xc0",
    ],
)
def test_what_is_no_delta_is_refused(bad):
    target = bytearray(64)
    with pytest.raises(IntegrityError):
        apply_delta(bad, memoryview(target))


def test_the_good_one_of_those():
    target = bytearray(64)
    apply_delta(GOOD, memoryview(target))
    assert bytes(target) == bytes(6) + b"ab" + bytes(6) + b"cd" + bytes(48)
