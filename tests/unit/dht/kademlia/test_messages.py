"""Kademlia's messages: what goes over the wire, what is refused, and what is left out."""

from __future__ import annotations

import pytest

from lattica.dht.kademlia import messages
from lattica.dht.kademlia.contact import Contact, network_group
from lattica.dht.kademlia.messages import MessageType, Record, Request, Response
from lattica.dht.pb import kad_pb2 as pb
from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr

ADDR = Multiaddr("/ip4/1.2.3.4/tcp/4001")


def peer(*addrs: Multiaddr) -> Contact:
    return Contact.of(Identity.generate().peer_id, addrs)


def test_a_request_is_what_other_implementations_write():
    # The bytes of go-libp2p: type 4 (field 1), key (field 2), no cluster level.
    assert messages.encode(Request(MessageType.FIND_NODE, b"abc")) == bytes.fromhex(
        "08041203616263"
    )
    put = Request(MessageType.PUT_VALUE, b"k", Record(b"k", b"v"))
    assert messages.encode(put) == bytes.fromhex("12016b1a060a016b120176")
    # A deprecated cluster level and the time received, a string in the specification.
    data = bytes.fromhex("080112016b1a0b0a016b1201762a0374696d5001")
    record = messages.decode_response(data, Request(MessageType.GET_VALUE, b"k")).record
    assert record == Record(b"k", b"v", "tim")


def test_closer_peers_come_with_their_addresses():
    known = (peer(ADDR), peer())
    request = Request(MessageType.FIND_NODE, b"key")
    data = messages.encode(Response(MessageType.FIND_NODE, b"key", closer=known))
    assert messages.decode_response(data, request).closer == known


def test_what_is_no_peer_is_left_out_and_counted():
    good, other = peer(ADDR), peer()
    message = pb.Message(type=4, key=b"key")  # type: ignore[arg-type]
    for identity, addrs in (
        (b"nonsense", [ADDR.to_bytes()]),
        (
            good.peer_id.to_bytes(),
            [
                b"\xff\xff",
                ADDR.encapsulate(f"/p2p/{good.peer_id}").to_bytes(),
                ADDR.encapsulate(f"/p2p/{other.peer_id}").to_bytes(),
                Multiaddr(f"/p2p/{good.peer_id}").to_bytes(),
            ],
        ),
        (good.peer_id.to_bytes(), []),
        (other.peer_id.to_bytes(), []),
    ):
        message.closerPeers.add(id=identity, addrs=addrs)
    response = messages.decode_response(
        message.SerializeToString(), Request(MessageType.FIND_NODE, b"key")
    )
    assert response.closer == (good, other)
    assert response.junk == 2


def test_thousands_of_closer_peers_are_refused_and_of_providers_the_first_are_taken():
    many = [peer().peer_id.to_bytes() for _ in range(messages.MAX_PEERS + 1)]
    request = Request(MessageType.GET_PROVIDERS, b"key")
    message = pb.Message(type=3, key=b"key")  # type: ignore[arg-type]
    for identity in many:
        message.providerPeers.add(id=identity)
    response = messages.decode_response(message.SerializeToString(), request)
    assert len(response.providers) == messages.MAX_PEERS
    for identity in many:
        message.closerPeers.add(id=identity)
    with pytest.raises(RemoteProtocolError, match="129 closer peers"):
        messages.decode_response(message.SerializeToString(), request)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\xff", "not valid protobuf"),
        (b"\x08\x09\x12\x01k", "of type 9"),
        (b"\x08\x04", "FIND_NODE without a key"),
        (b"\x12\x01k", "PUT_VALUE without a record"),
        (b"\x12\x01k\x1a\x03\x0a\x01x", "another key"),
        (b"\x08\x04\x12\x81\x04" + bytes(513), "a key of 513 bytes"),
        (b"\x08\x01\x12\x01k\x1a\x03\x2a\x01\xff", "not UTF-8"),
        (bytes(messages.MAX_MESSAGE + 1), "are allowed"),
    ],
)
def test_requests_that_are_refused(data, complaint):
    with pytest.raises(RemoteProtocolError, match=complaint):
        messages.decode_request(data)


def test_an_answer_is_to_the_question():
    request = Request(MessageType.GET_VALUE, b"key")
    with pytest.raises(RemoteProtocolError, match="answered by FIND_NODE"):
        messages.decode_response(messages.encode(Response(MessageType.FIND_NODE, b"key")), request)
    other = Response(MessageType.GET_VALUE, b"key", Record(b"other", b"value"))
    with pytest.raises(RemoteProtocolError, match="record of another key"):
        messages.decode_response(messages.encode(other), request)


def test_ping_needs_no_key():
    assert messages.decode_request(messages.encode(Request(MessageType.PING))) == Request(
        MessageType.PING
    )


def test_what_is_over_the_limits_is_not_sent():
    with pytest.raises(LocalProtocolError):
        messages.encode(Request(MessageType.FIND_NODE, bytes(messages.MAX_KEY + 1)))
    record = Record(b"k", bytes(messages.MAX_VALUE + 1))
    with pytest.raises(LocalProtocolError):
        messages.encode(Request(MessageType.PUT_VALUE, b"k", record))


def test_twenty_peers_with_many_addresses_fit_what_rust_takes():
    addrs = [Multiaddr(f"/ip6/2001:db8::{n}/udp/4001/quic-v1/noise") for n in range(30)]
    closer = tuple(peer(*addrs) for _ in range(20))
    assert len(messages.encode(Response(MessageType.FIND_NODE, b"key", closer=closer))) < 16 * 1024


def test_groups_are_of_public_addresses_only():
    assert network_group(Multiaddr("/ip4/1.2.3.4/tcp/1")) == "1.2.3.0/24"
    assert network_group(Multiaddr("/ip6/2600:1:2:3::1/udp/1/quic-v1/noise")) == "2600:1:2::/48"
    assert network_group(Multiaddr("/ip4/10.0.0.1/tcp/1")) is None
    relayed = f"/ip4/1.2.3.4/tcp/1/p2p/{peer().peer_id}/p2p-circuit"
    assert network_group(Multiaddr(relayed)) is None
