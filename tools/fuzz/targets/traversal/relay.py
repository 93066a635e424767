"""Targets of circuit relay v2: messages in both directions, and vouchers."""

from __future__ import annotations

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.traversal.relay.leaving import decode_leaving, encode_leaving
from lattica.nat.traversal.relay.messages import (
    Connect,
    HopStatus,
    Limit,
    Reservation,
    Reserve,
    Status,
    StopConnect,
    StopStatus,
    decode_hop,
    decode_stop,
    encode,
)
from lattica.nat.traversal.relay.token import Token, open_token, seal_token
from lattica.nat.traversal.relay.voucher import open_voucher, seal
from tools.fuzz.target import Target, Violation

RELAY = Identity.generate()
PEER = PeerId(b"\x12\x20" + bytes(range(32)))
VOUCHER = seal(RELAY, PEER, 1_700_000_000)
TOKEN = seal_token(RELAY, Token(RELAY.peer_id, PEER, "00" * 8, 1_700_000_000, 1, 2, 3))
TOKENS = [
    b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x12", b"\x1a", b"\x22", b"\x28\x64", b"\x20\x64",
    b"\x12\x20", b"\x00\x24", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", PEER.to_bytes(),
]  # fmt: skip


def _hop(data: bytes) -> None:
    message = decode_hop(data)
    if decode_hop(encode(message)) != message:
        raise Violation(f"{message} is another one once written and read")


def _stop(data: bytes) -> None:
    message = decode_stop(data)
    if decode_stop(encode(message)) != message:
        raise Violation(f"{message} is another one once written and read")


def _voucher(data: bytes) -> None:
    voucher = open_voucher(data)
    if (voucher.relay, voucher.peer) != (RELAY.peer_id, PEER):
        raise Violation("a forged voucher was taken")


def _token(data: bytes) -> None:
    token = open_token(data)
    if (token.relay, token.peer) != (RELAY.peer_id, PEER):
        raise Violation("a forged token was taken")


def _leaving(data: bytes) -> None:
    if encode_leaving(decode_leaving(data)) != data:
        raise Violation("another time once written and read")


CIRCUIT_HOP = Target(
    "circuit-hop",
    _hop,
    (RemoteProtocolError,),
    seeds=[
        encode(Reserve()),
        encode(Reserve(TOKEN)),
        encode(Connect(PEER)),
        encode(HopStatus(Status.OK, Reservation(1, (), VOUCHER), Limit(1, 2))),
        encode(HopStatus(Status.NO_RESERVATION)),
    ],
    tokens=TOKENS,
)
CIRCUIT_STOP = Target(
    "circuit-stop",
    _stop,
    (RemoteProtocolError,),
    seeds=[encode(StopConnect(PEER, Limit(1, 2))), encode(StopStatus(Status.OK))],
    tokens=TOKENS,
)
CIRCUIT_VOUCHER = Target(
    "circuit-voucher",
    _voucher,
    (RemoteProtocolError,),
    seeds=[VOUCHER],
    tokens=[*TOKENS, b"\x03\x02", b"libp2p-relay-rsvp"],
)
RELAY_TOKEN = Target(
    "relay-token",
    _token,
    (RemoteProtocolError,),
    seeds=[TOKEN],
    tokens=[*TOKENS, b"lattica-relay-token", b"/lattica/relay-token"],
)
RELAY_LEAVING = Target(
    "relay-leaving",
    _leaving,
    (RemoteProtocolError,),
    seeds=[encode_leaving(30)],
    tokens=[],
)
