"""Which parts of streams a packet's frames bring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qh3._hazmat import Buffer

from lattica.nat.quic.qh3.frames import CRYPTO, Part, parts_of

INTEGERS = st.integers(0, 2**62 - 1)
SHORT = st.binary(max_size=40)


def varint(value: int) -> bytes:
    buffer = Buffer(capacity=8)
    buffer.push_uint_var(value)
    return buffer.data


def joined(kind: int, *integers: int) -> bytes:
    return b"".join(map(varint, (kind, *integers)))


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, list[Part]]:
    """A frame, and what it brings of streams (RFC 9000, section 19, and RFC 9221)."""
    kind = draw(st.sampled_from([*range(0x00, 0x1C), 0x1E, 0x31]))
    if kind == 0:
        return bytes(draw(st.integers(1, 50))), []
    if kind in (0x02, 0x03):
        count = draw(st.integers(0, 10))
        more = [draw(INTEGERS) for _ in range(1 + 2 * count + 3 * (kind == 0x03))]
        return joined(kind, draw(INTEGERS), draw(INTEGERS), count, *more), []
    if kind == 0x06 or 0x08 <= kind <= 0x0F:
        kind |= 0x02  # with a length; the other form is the last frame of its packet
        data, offset = draw(SHORT), draw(st.integers(0, 2**61))
        if kind == 0x06:
            return joined(kind, offset, len(data)) + data, [Part(CRYPTO, offset, len(data))]
        stream = draw(INTEGERS)
        if kind & 0x04:
            return joined(kind, stream, offset, len(data)) + data, [Part(stream, offset, len(data))]
        return joined(kind, stream, len(data)) + data, [Part(stream, 0, len(data))]
    if kind in (0x07, 0x31):
        data = draw(SHORT)
        return joined(kind, len(data)) + data, []
    if kind == 0x18:
        cid = draw(st.binary(min_size=1, max_size=20))
        return joined(kind, draw(INTEGERS), draw(INTEGERS)) + bytes((len(cid),)) + cid + bytes(
            16
        ), []
    if kind in (0x1A, 0x1B):
        return joined(kind) + draw(st.binary(min_size=8, max_size=8)), []
    count = {0x01: 0, 0x1E: 0, 0x04: 3, 0x05: 2, 0x11: 2, 0x15: 2}.get(kind, 1)
    return joined(kind, *(draw(INTEGERS) for _ in range(count))), []


@given(st.lists(frames(), max_size=12))
def test_all_parts_are_found(several: list[tuple[bytes, list[Part]]]) -> None:
    packet = b"".join(frame for frame, _ in several)
    assert parts_of(packet) == [part for _, parts in several for part in parts]


@pytest.mark.parametrize("offset", [0, 7])
def test_a_part_without_a_length_fills_the_packet(offset: int) -> None:
    frame = joined(0x0C, 4, offset) if offset else joined(0x08, 4)
    assert parts_of(b"\x01" + frame + b"to the end") == [Part(4, offset, 10)]


@pytest.mark.parametrize(
    "last", [b"\x30message", b"\x1c\x0a\x06\x00", b"\x1d\x00\x00", b"\x40\x42"]
)
def test_what_cannot_be_followed_by_anything_ends_it(last: bytes) -> None:
    first = joined(0x0E, 4, 9, 2) + b"hi"
    assert parts_of(first + last) == [Part(4, 9, 2)]


@given(st.binary(max_size=200))
def test_anything_at_all(packet: bytes) -> None:
    assert len(parts_of(packet)) <= len(packet)
