"""Varints and length-prefixed messages: known encodings and refusals."""

from __future__ import annotations

import pytest

from lattica.errors import IncompleteReadError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.wire import (
    MAX_UVARINT_BYTES,
    LengthPrefixed,
    NeedMoreData,
    decode_uvarint,
    encode_length_prefixed,
    encode_uvarint,
    find_message,
)

# The table of the unsigned-varint document, and the largest number.
KNOWN = [
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "8001"),
    (255, "ff01"),
    (300, "ac02"),
    (16384, "808001"),
    (2**63 - 1, "ff" * 8 + "7f"),
    (2**64 - 1, "ff" * 9 + "01"),
]


@pytest.mark.parametrize(("value", "encoded"), KNOWN)
def test_known_encodings(value: int, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert encode_uvarint(value) == data
    assert decode_uvarint(data) == (value, len(data))
    assert decode_uvarint(b"xy" + data + b"z", 2) == (value, 2 + len(data))
    assert decode_uvarint(memoryview(data)) == (value, len(data))


@pytest.mark.parametrize("value", [-1, 2**64])
def test_encode_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_uvarint(value)


@pytest.mark.parametrize(
    "encoded",
    [
        "8000",  # 0 in two bytes
        "818000",  # 1 in three bytes
        "ff" * 9 + "02",  # 2**64 + something
        "ff" * 10,  # never ends
        "80" * 10 + "01",  # eleven bytes
    ],
)
def test_decode_refuses_what_the_document_forbids(encoded: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_uvarint(bytes.fromhex(encoded))


@pytest.mark.parametrize("count", range(MAX_UVARINT_BYTES))
def test_decode_waits_for_the_rest(count: int) -> None:
    with pytest.raises(NeedMoreData):
        decode_uvarint(b"\x80" * count)


def test_find_message_knows_the_length_before_the_message_is_there() -> None:
    assert find_message(b"", 100) is None
    assert find_message(b"\x80", 200) is None
    assert find_message(b"\x05abc", 5) == (1, 6)
    assert find_message(b"\x03abcdef", 5) == (1, 4)
    assert find_message(b"..\x80\x01", 128, 2) == (4, 132)
    for data in (b"\x06", b"\x81\x20", b"\xff" * 10, b"\x80\x00"):
        with pytest.raises(RemoteProtocolError):
            find_message(data, 5)


def test_length_prefixed_byte_by_byte() -> None:
    decoder = LengthPrefixed(limit=300)
    messages = [b"", b"a", b"x" * 300]
    stream = b"".join(map(encode_length_prefixed, messages))
    got = [message for i in range(len(stream)) for message in decoder.feed(stream[i : i + 1])]
    assert got == messages
    assert decoder.pending == 0
    decoder.finish()


def test_length_prefixed_refuses_before_it_buffers() -> None:
    decoder = LengthPrefixed(limit=10)
    with pytest.raises(RemoteProtocolError, match="11 bytes, where 10"):
        decoder.feed(b"\x0b" + b"x" * 11)
    assert decoder.pending == 0
    with pytest.raises(RemoteProtocolError, match="11 bytes, where 10"):
        decoder.feed(b"")


def test_length_prefixed_refuses_a_huge_length_at_once() -> None:
    decoder = LengthPrefixed(limit=10)
    assert decoder.feed(encode_uvarint(2**40)[:2]) == []
    with pytest.raises(RemoteProtocolError):
        decoder.feed(encode_uvarint(2**40)[2:])


def test_length_prefixed_notices_a_cut_message() -> None:
    decoder = LengthPrefixed(limit=10)
    assert decoder.feed(b"\x02a") == []
    assert decoder.pending == 2
    with pytest.raises(IncompleteReadError):
        decoder.finish()


def test_length_prefixed_does_not_keep_the_callers_buffer() -> None:
    data = bytearray(b"\x01a\x02b")
    decoder = LengthPrefixed(limit=10)
    assert decoder.feed(memoryview(data)) == [b"a"]
    data[:] = b"zzzz"
    assert decoder.feed(b"c") == [b"bc"]


def test_length_prefixed_limit_must_make_sense() -> None:
    with pytest.raises(LocalProtocolError):
        LengthPrefixed(limit=-1)
