"""The messages of hole punching and of connection reversal, as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import LengthPrefixed
from lattica.nat.pb import dcutr_pb2, reverse_pb2
from lattica.nat.traversal.punch import reverse_messages
from lattica.nat.traversal.punch.dcutr.messages import (
    MAX_ADDRS,
    MAX_MESSAGE,
    Connect,
    Sync,
    decode,
    encode,
)
from lattica.nat.traversal.punch.reverse_messages import (
    Answer,
    Request,
    decode_answer,
    decode_request,
)

ADDR = Multiaddr("/ip4/203.0.113.7/tcp/4001")

addresses = st.builds(
    lambda ip, port: Multiaddr(f"/ip4/{ip}/tcp/{port}"),
    st.ip_addresses(v=4),
    st.integers(0, 65535),
)


@given(st.lists(addresses, max_size=MAX_ADDRS, unique_by=str))
def test_a_connect_survives_the_way(addrs):
    (body,) = LengthPrefixed(MAX_MESSAGE).feed(encode(Connect(tuple(addrs))))
    assert decode(body) == Connect(tuple(addrs))


def test_what_others_send_is_understood():
    # As rust-libp2p and go-libp2p write it: length, type (field 1), addresses (field 2).
    raw = ADDR.to_bytes()
    assert encode(Connect((ADDR,))) == bytes([4 + len(raw), 8, 100, 0x12, len(raw)]) + raw
    assert decode(bytes([8, 100, 0x12, len(raw)]) + raw) == Connect((ADDR,))
    assert decode(bytes([8, 0xAC, 2])) == Sync()
    assert encode(Sync()) == bytes([3, 8, 0xAC, 2])


def test_of_ten_thousand_addresses_few_are_looked_at():
    addrs = [Multiaddr(f"/ip4/203.0.113.7/tcp/{port}").to_bytes() for port in range(1, 300)]
    body = dcutr_pb2.HolePunch(type=dcutr_pb2.HolePunch.CONNECT, ObsAddrs=addrs)
    message = decode(body.SerializeToString())
    assert isinstance(message, Connect)
    assert len(message.addrs) == MAX_ADDRS


def test_addresses_that_are_none_are_left_out():
    body = dcutr_pb2.HolePunch(
        type=dcutr_pb2.HolePunch.CONNECT, ObsAddrs=[b"", b"\xff", b"x" * 2000, ADDR.to_bytes()]
    )
    assert decode(body.SerializeToString()) == Connect((ADDR,))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x08\x07", b"\xff\xff", b"\x12\x80", b"x" * (MAX_MESSAGE + 1)],
    ids=["nothing", "unknown type", "garbage", "cut short", "too long"],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_we_keep_to_the_limits_ourselves():
    with pytest.raises(LocalProtocolError):
        encode(Connect((ADDR,) * (MAX_ADDRS + 1)))
    name = ".".join(["x" * 60] * 4)
    long = Multiaddr(f"/dns4/{name}/tcp/443/tls/sni/{name}/ws")
    with pytest.raises(LocalProtocolError):
        encode(Connect((long,) * MAX_ADDRS))


# --- reversal ---


@given(st.lists(addresses, max_size=MAX_ADDRS, unique_by=str))
def test_a_request_survives_the_way(addrs):
    assert decode_request(reverse_messages.encode(Request(tuple(addrs)))) == Request(tuple(addrs))


@given(st.booleans(), st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_an_answer_survives_the_way(connected, error):
    message = reverse_pb2.Answer(connected=connected, error=error.encode())
    answer = decode_answer(message.SerializeToString())
    assert answer.connected is connected
    assert len(answer.error) <= 200
    assert answer.error.isprintable() or not answer.error


def test_an_answer_must_say_something():
    with pytest.raises(RemoteProtocolError):
        decode_answer(b"")
    with pytest.raises(RemoteProtocolError):
        decode_answer(b"\xff")
    with pytest.raises(RemoteProtocolError):
        decode_request(b"x" * (MAX_MESSAGE + 1))
    assert decode_answer(reverse_pb2.Answer(connected=False).SerializeToString()) == Answer(False)
