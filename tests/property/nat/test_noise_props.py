"""Noise: the split of the bytes never matters, and no changed bit gets through."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.secure.ciphers import AesGcmState
from lattica.nat.secure.noise import (
    MAX_PLAINTEXT,
    CipherState,
    MessageReader,
    TransportReader,
    TransportWriter,
    frame,
)

KEY = bytes(range(32))
sizes = st.one_of(st.integers(1, 300), st.sampled_from([65000, MAX_PLAINTEXT - 1, MAX_PLAINTEXT]))
size_lists = st.lists(sizes, min_size=1, max_size=6)
states = st.sampled_from([CipherState, AesGcmState])
cut_lists = st.lists(st.integers(0, 2**20), max_size=20)


def messages(lengths: list[int]) -> list[bytes]:
    return [bytes([index + 1]) * length for index, length in enumerate(lengths)]


def sealed(state: type[CipherState], plain: list[bytes]) -> bytes:
    writer = TransportWriter(state(KEY))
    return b"".join(map(writer.seal, plain))


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(states, size_lists, cut_lists, st.integers(0, 70000))
@example(CipherState, [1, 1], list(range(40)), 0)
@example(CipherState, [1, 1], list(range(40)), 39)
@example(AesGcmState, [5, 5, 5], [], 69)
def test_any_split_gives_the_same_plaintext(
    state: type[CipherState], lengths: list[int], cuts: list[int], early: int
) -> None:
    """`early` bytes came along with the last message of the handshake."""
    plain = messages(lengths)
    stream = sealed(state, plain)
    early = min(early, len(stream))
    reader = TransportReader(state(KEY), stream[:early])
    got: list[bytes] = reader.receive(b"")
    scratch = bytearray(len(stream))
    for piece in split(stream[early:], cuts):
        view = memoryview(scratch)[: len(piece)]
        view[:] = piece
        got += reader.receive(view)
        view[:] = bytes(len(piece))
    assert got == plain


@given(states, size_lists, cut_lists, st.integers(0, 2**20), st.integers(0, 7))
def test_any_flipped_bit_is_refused(
    state: type[CipherState], lengths: list[int], cuts: list[int], place: int, bit: int
) -> None:
    plain = messages(lengths)
    stream = bytearray(sealed(state, plain))
    place %= len(stream)
    stream[place] ^= 1 << bit
    reader = TransportReader(state(KEY))
    got: list[bytes] = []
    refused = False
    try:
        for piece in split(bytes(stream), cuts):
            got += reader.receive(piece)
    except RemoteProtocolError:
        refused = True
    # What was there before the changed message is right, and nothing follows.
    assert got == plain[: len(got)]
    assert len(got) < len(plain)
    # Only a length that became longer than what has arrived is still waited for.
    if not refused:
        more = bytes(65535)
        with pytest.raises(RemoteProtocolError):
            reader.receive(more)


@given(st.binary(max_size=300), cut_lists)
def test_garbage_is_refused_or_incomplete(data: bytes, cuts: list[int]) -> None:
    reader = TransportReader(CipherState(KEY))
    try:
        for piece in split(data, cuts):
            assert reader.receive(piece) == []
    except RemoteProtocolError:
        pass


@given(st.lists(st.binary(max_size=200), max_size=6), cut_lists, st.binary(max_size=20))
def test_any_split_gives_the_same_messages(
    parts: list[bytes], cuts: list[int], rest: bytes
) -> None:
    reader = MessageReader(0xFFFF)
    stream = b"".join(map(frame, parts)) + b"\xff\xff" + rest
    got = []
    for piece in split(stream, cuts):
        reader.feed(piece)
        while (message := reader.next_message()) is not None:
            got.append(message)
    assert got == parts
    assert reader.rest == b"\xff\xff" + rest
