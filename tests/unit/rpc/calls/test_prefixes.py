"""Prefixes of messages, in whatever pieces they come."""

from __future__ import annotations

from unittest import mock

import pytest

from lattica.errors import RemoteProtocolError
from lattica.nat.base.wire import decode_uvarint, encode_uvarint
from lattica.rpc.encoding.encoder import MAX_BUFFERS
from lattica.rpc.protocol import messages
from lattica.rpc.protocol.messages import Kind, Prefix, PrefixReader, encode_prefix


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("sizes", [(), (0,), (5, 300, 100_000, 2**40 - 1), (1,) * MAX_BUFFERS])
def test_a_prefix_in_pieces(step: int, sizes: tuple[int, ...]) -> None:
    head = bytes((Kind.RESULT | 0x60,)) + encode_uvarint(300) + encode_uvarint(len(sizes))
    data = head + b"".join(map(encode_uvarint, sizes)) + b"abc"
    reader = PrefixReader()
    for _ in range(2):  # it begins anew after each
        found, start = None, 0
        while found is None:
            assert reader.is_inside is (start > 0)
            piece = memoryview(data)[start : start + step]
            found = reader.feed(piece)
            start += len(piece)
        prefix, is_last, following = found
        assert prefix == Prefix(Kind.RESULT, 300, sizes, True)
        assert is_last
        assert start - following == len(data) - 3
        assert not reader.is_inside


def test_each_number_is_read_once_however_they_drip() -> None:
    data = encode_prefix(Kind.CALL, 10, [b"x" * 100] * MAX_BUFFERS)
    reader = PrefixReader()
    with mock.patch.object(messages, "decode_uvarint", wraps=decode_uvarint) as decode:
        for byte in data[:-1]:
            assert reader.feed(bytes((byte,))) is None
        assert reader.feed(data[-1:]) is not None
    assert decode.call_count <= 2 * len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x06",
        b"\x00" + encode_uvarint(2**32),
        b"\x00\x01" + encode_uvarint(MAX_BUFFERS + 1),
        b"\x00\x01\x01" + encode_uvarint(2**48),
        b"\x00\x80\x00",
    ],
)
def test_what_is_no_prefix(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PrefixReader().feed(data)
    reader = PrefixReader()
    with pytest.raises(RemoteProtocolError):
        [reader.feed(bytes((byte,))) for byte in data]
