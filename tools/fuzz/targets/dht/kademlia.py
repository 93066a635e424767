"""Targets of the DHT: Kademlia's messages in both directions, and records."""

from __future__ import annotations

from contextlib import suppress

from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import (
    MAX_PEERS,
    MessageType,
    Record,
    Request,
    Response,
    decode_request,
    decode_response,
    encode,
)
from lattica.dht.records.keys import content_key, peer_key, value_key
from lattica.dht.records.plain import STANDARD, check_plain
from lattica.dht.records.signed_value import (
    decode_envelopes,
    encode_values,
    open_values,
    seal_value,
)
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.multiaddr import Multiaddr
from tools.fuzz.target import Target, Violation

KEY = b"key"
PEER = Contact.of(PeerId(b"\x12\x20" + bytes(range(32))), (Multiaddr("/ip4/192.0.2.1/tcp/4001"),))
RECORD = Record(KEY, b"value", "2026-01-02T03:04:05Z")
TOKENS = [
    b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x08\x03", b"\x08\x04", b"\x08\x05", b"\x12\x03key",
    b"\x1a", b"\x42", b"\x4a", b"\x2a", b"\x0a\x22", b"\x12\x08",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", PEER.peer_id.to_bytes(), PEER.addrs[0].to_bytes(),
]  # fmt: skip


def _request(data: bytes) -> None:
    request = decode_request(data)
    again = decode_request(encode(request))
    if (again.type, again.key, again.record) != (request.type, request.key, request.record):
        raise Violation(f"{request} is another one once written and read")


def _response(data: bytes) -> None:
    response = decode_response(data, Request(MessageType.GET_PROVIDERS, KEY))
    for contacts in (response.closer, response.providers):
        if len(contacts) > MAX_PEERS or len({c.key for c in contacts}) < len(contacts):
            raise Violation("a list that is too long, or has a peer more than once")


KAD_REQUEST = Target(
    "kad-request",
    _request,
    (RemoteProtocolError,),
    seeds=[
        encode(Request(MessageType.PING)),
        encode(Request(MessageType.FIND_NODE, KEY)),
        encode(Request(MessageType.PUT_VALUE, KEY, RECORD)),
        encode(Request(MessageType.ADD_PROVIDER, KEY, None, (PEER,))),
        encode(Request(MessageType.GET_VALUE, KEY, owner=PEER.peer_id, after=KEY)),
        encode(Request(MessageType.ADD_PROVIDERS, providers=(PEER,), keys=(KEY, KEY))),
    ],
    tokens=TOKENS,
)
OWNER = Identity(bytes(range(32)))
VALUE_KEY = value_key("key")
VALUE = seal_value(OWNER, VALUE_KEY, b"sub", b"\x81\xa1a\x01", sequence=1, expires=1 << 40)


def _values(data: bytes) -> None:
    values, _ = open_values(decode_envelopes(data), VALUE_KEY)
    if open_values(decode_envelopes(encode_values(values)), VALUE_KEY) != (values, 0):
        raise Violation("other values once written and read")


def _plain(data: bytes) -> None:
    for key in (peer_key(OWNER.peer_id), content_key(data)):
        with suppress(RemoteProtocolError):
            check_plain(STANDARD, key, data)


KAD_VALUES = Target(
    "kad-values",
    _values,
    (RemoteProtocolError,),
    seeds=[encode_values([VALUE])],
    tokens=[b"\x0a", VALUE.envelope, VALUE_KEY, b"\x08\x01\x12\x20"],
)
KAD_PLAIN = Target(
    "kad-plain",
    _plain,
    (RemoteProtocolError,),
    seeds=[seal_record(OWNER, 1, [Multiaddr("/ip4/192.0.2.1/tcp/4001")])],
    tokens=TOKENS,
)
KAD_RESPONSE = Target(
    "kad-response",
    _response,
    (RemoteProtocolError,),
    seeds=[
        encode(Response(MessageType.GET_PROVIDERS, KEY)),
        encode(Response(MessageType.GET_PROVIDERS, KEY, RECORD, (PEER,), (PEER,))),
    ],
    tokens=TOKENS,
)
