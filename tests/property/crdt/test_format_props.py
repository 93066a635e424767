"""Plain data comes back as it was; bytes are read as what they are the encoding of, or refused."""

from __future__ import annotations

import contextlib
import math

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from lattica.crdt.base.canonical import decode, encode
from lattica.crdt.entries.chain import decode_chain, encode_chain
from lattica.crdt.entries.fork import decode_fork
from lattica.crdt.entries.genesis import decode_genesis
from lattica.crdt.entries.header import decode_header
from lattica.errors import RemoteProtocolError
from tests.support.crdt.chains import DOC, Writer

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)
CHAIN = Writer(b"a").chain(4)
WIRE = encode_chain(CHAIN, with_prev=True)


@given(PLAIN)
def test_plain_data_comes_back(value):
    data = encode(value)
    again = decode(data, len(data))
    assert again == value
    assert encode(again) == data


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=6), st.randoms())
def test_equal_maps_are_equal_bytes(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert encode(dict(items)) == encode(value)


def test_there_is_one_nan():
    assert encode(math.nan) == encode(-math.nan) == bytes.fromhex("cb7ff8000000000000")
    again = decode(encode(math.nan), 9)
    assert isinstance(again, float)
    assert math.isnan(again)


@given(st.binary(max_size=100) | PLAIN.map(msgpack.packb))
def test_what_is_read_is_written_the_same(data):
    with contextlib.suppress(RemoteProtocolError):
        assert encode(decode(data, 10_000)) == data


@given(st.data())
def test_a_chain_with_a_flipped_bit_is_another_or_none(data):
    bit = data.draw(st.integers(0, len(WIRE) * 8 - 1))
    flipped = bytearray(WIRE)
    flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(RemoteProtocolError):
        read = decode_chain(bytes(flipped), DOC.doc_id, lambda author, seq: None)
        # Only signatures inside are left unverified.
        assert [entry.header for entry in read] == [entry.header for entry in CHAIN]
        assert read[-1] == CHAIN[-1]


@given(st.binary(max_size=200) | PLAIN.map(encode))
def test_nothing_but_a_protocol_error_comes_from_bytes(data):
    for read in (
        lambda: decode_header(data),
        lambda: decode_genesis(data, bytes(32)),
        lambda: decode_fork(data, DOC.doc_id),
        lambda: decode_chain(data, DOC.doc_id, lambda author, seq: bytes(32)),
    ):
        with contextlib.suppress(RemoteProtocolError):
            read()
