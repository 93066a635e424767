"""Targets of discovery: rendezvous in both directions, and packets of multicast DNS."""

from __future__ import annotations

from lattica.dht.discovery.mdns.messages import (
    MAX_PEERS,
    Answer,
    decode,
    encode_answer,
    encode_question,
)
from lattica.dht.rendezvous.messages import (
    MAX_REGISTRATIONS,
    Discover,
    Discovered,
    Register,
    Registered,
    Status,
    Unregister,
    decode_request,
    decode_response,
    encode,
)
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from tools.fuzz.target import Target, Violation

PEER = PeerId(b"\x12\x20" + bytes(range(32)))
ADDR = Multiaddr(f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}")
TOKENS = [
    b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x08\x03", b"\x08\x04", b"\x12", b"\x1a", b"\x22",
    b"\x2a", b"\x32", b"\x0a\x02ns", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
]  # fmt: skip


def _request(data: bytes) -> None:
    request = decode_request(data)
    if decode_request(encode(request)) != request:
        raise Violation(f"{request} is another one once written and read")


def _response(data: bytes) -> None:
    response = decode_response(data)
    if isinstance(response, Discovered) and len(response.registrations) > MAX_REGISTRATIONS:
        raise Violation("more registrations than there may be")


def _mdns(data: bytes) -> None:
    message = decode(data)
    if isinstance(message, Answer):
        longest = max(map(len, message.peers.values()), default=0)
        if len(message.peers) > MAX_PEERS or longest > MAX_PEERS:
            raise Violation("more peers or addresses than there may be")


RENDEZVOUS_REQUEST = Target(
    "rendezvous-request",
    _request,
    (RemoteProtocolError,),
    seeds=[
        encode(Register("ns", b"record", 60)),
        encode(Unregister("ns")),
        encode(Discover("ns", 5, b"cookie")),
    ],
    tokens=TOKENS,
)
RENDEZVOUS_RESPONSE = Target(
    "rendezvous-response",
    _response,
    (RemoteProtocolError,),
    seeds=[
        encode(Registered(Status.OK, "", 7200)),
        encode(Discovered(Status.OK, "", (Register("ns", b"record", 5),), b"cookie")),
    ],
    tokens=TOKENS,
)
MDNS = Target(
    "mdns",
    _mdns,
    (RemoteProtocolError,),
    seeds=[encode_question(), encode_answer("a" * 40, [ADDR])],
    tokens=[b"\xc0\x0c", b"\x04_p2p\x04_udp\x05local\x00", b"dnsaddr=", b"\x00\x10", b"\x00\x0c"],
)
