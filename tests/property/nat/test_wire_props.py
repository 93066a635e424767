"""Varints and length-prefixed messages, whatever the numbers and the splits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.base.wire import (
    LengthPrefixed,
    NeedMoreData,
    decode_uvarint,
    encode_length_prefixed,
    encode_uvarint,
)

numbers = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, 63).map(lambda bits: 1 << bits), st.integers(0, 300)
)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `data` at the given places (taken modulo its length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(numbers, st.binary(max_size=5), st.binary(max_size=5))
def test_uvarint_round_trip(value: int, before: bytes, after: bytes) -> None:
    encoded = encode_uvarint(value)
    data = before + encoded + after
    assert decode_uvarint(data, len(before)) == (value, len(before) + len(encoded))


@given(st.binary(max_size=14))
def test_uvarint_has_one_encoding_only(data: bytes) -> None:
    try:
        value, end = decode_uvarint(data)
    except (NeedMoreData, RemoteProtocolError):
        return
    assert encode_uvarint(value) == data[:end]


@given(st.lists(st.binary(max_size=200), max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_any_split_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(encode_length_prefixed, messages))
    decoder = LengthPrefixed(limit=200)
    assert [m for piece in split(stream, cuts) for m in decoder.feed(piece)] == messages
    decoder.finish()


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=12))
def test_garbage_fails_alike_in_any_split(data: bytes, cuts: list[int]) -> None:
    def run(pieces: list[bytes]) -> tuple[list[bytes], bool]:
        decoder = LengthPrefixed(limit=50)
        got: list[bytes] = []
        for piece in pieces:
            try:
                got += decoder.feed(piece)
            except RemoteProtocolError:
                return got, False
            assert decoder.pending <= 60
        return got, True

    whole, whole_fine = run([data])
    parts, parts_fine = run(split(data, cuts))
    assert whole_fine == parts_fine
    if whole_fine:
        assert whole == parts
