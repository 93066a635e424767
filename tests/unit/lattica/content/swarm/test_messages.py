"""Messages about holdings: round trips, and whatever else a peer may send."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import MAX_CHUNKS
from lattica.content.swarm.messages import (
    MAX_ADDRESSES,
    MAX_HELLO,
    MAX_MEMBERS,
    MAX_MESSAGE,
    MAX_NUMBERS,
    Has,
    HasMore,
    Hello,
    Member,
    Members,
    Sending,
    decode_hello,
    decode_message,
    encode_hello,
    encode_message,
)
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr

PEER = Identity.generate().peer_id
CID = Cid.of(b"x")
ADDRS = (Multiaddr("/ip4/192.0.2.1/tcp/4001"), Multiaddr("/ip6/2001:db8::1/udp/1/quic-v1"))


@pytest.mark.parametrize("hello", [Hello(CID, True, ADDRS), Hello(CID, False)])
def test_hello(hello):
    assert decode_hello(encode_hello(hello)) == hello


def test_a_hello_has_no_more_addresses_than_it_may():
    many = tuple(Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 100))
    data = encode_hello(Hello(CID, True, many))
    assert len(data) <= MAX_HELLO
    assert decode_hello(data).addrs == many[:MAX_ADDRESSES]


@pytest.mark.parametrize(
    "message",
    [
        Has(0, None),
        Has(9, None),
        Has(9, 0),
        Has(9, 0b1_0000_0001),
        Has(MAX_CHUNKS, (1 << MAX_CHUNKS) - 1),
        HasMore((0, 5, MAX_CHUNKS - 1)),
        HasMore(tuple(range(MAX_NUMBERS))),
        Sending((7,), PEER),
        Members((Member(PEER, ADDRS), Member(PEER, ()))),
        Members((Member(PEER, ADDRS * 4),) * MAX_MEMBERS),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages(message):
    data = encode_message(message)
    assert len(data) <= MAX_MESSAGE
    assert decode_message(data) == message


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [4],
        [0, -1, b""],
        [0, MAX_CHUNKS + 1, b""],
        [0, 9, b"\0"],
        [0, 9, b"\0\x02"],  # a tenth chunk
        [1, b""],
        [1, b"abc"],
        [1, bytes(4 * MAX_NUMBERS + 4)],
        [2, b"\xff\xff\xff\xff", PEER.to_bytes()],
        [2, bytes(4), b"no peer"],
        [2, bytes(4)],
        [3, [[b"no peer", []]]],
        [3, [[PEER.to_bytes(), [b"\xff"]]]],
        [3, [[PEER.to_bytes(), [ADDRS[0].to_bytes()] * (MAX_ADDRESSES + 1)]]],
        [3, [PEER.to_bytes()]],
        {1: 2},
    ],
)
def test_what_is_no_message(fields):
    with pytest.raises(RemoteProtocolError):
        decode_message(msgpack.packb(fields))


@pytest.mark.parametrize(
    "fields", [[b"cid", True, []], [bytes(CID), 1, []], [bytes(CID), True], [bytes(CID), True, [1]]]
)
def test_what_is_no_hello(fields):
    with pytest.raises(RemoteProtocolError):
        decode_hello(msgpack.packb(fields))


@given(st.binary(max_size=200))
def test_any_bytes(data):
    for decode in (decode_hello, decode_message):
        with suppress(RemoteProtocolError):
            decode(data)


@given(st.integers(0, 200), st.data())
def test_any_holdings(chunks, data):
    bits = data.draw(st.none() | st.integers(0, (1 << chunks) - 1))
    expected = Has(chunks, bits if chunks else None)
    assert decode_message(encode_message(Has(chunks, bits))) == expected
