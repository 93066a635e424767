"""Targets of AutoNAT v2: its messages, and a server that is told anything."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from random import Random

from lattica.errors import RemoteProtocolError
from lattica.nat.base.net.addresses import ip_of
from lattica.nat.base.net.interfaces import Interface
from lattica.nat.base.net.ip import is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import LengthPrefixed, encode_length_prefixed
from lattica.nat.traversal.autonat.config import AutonatServerConfig
from lattica.nat.traversal.autonat.messages import (
    MAX_ADDRS,
    MAX_CHUNK,
    MAX_MESSAGE,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    DialStatus,
    Message,
    ResponseStatus,
    decode,
    decode_dial_back,
    decode_dial_back_response,
    encode,
    encode_dial_back,
    encode_dial_back_response,
)
from lattica.nat.traversal.autonat.server_core import AutonatServerCore, Dial
from tools.fuzz.target import KIB, Target, Violation
from tools.fuzz.targets.ground import KEY

ADDRS = tuple(
    map(
        Multiaddr,
        (
            "/ip4/11.0.9.9/tcp/4001",
            "/ip4/11.0.8.8/udp/4001/quic-v1/noise",
            "/ip6/2b00::9/tcp/443/wss",
            "/ip4/10.0.0.1/tcp/1",
            "/dns4/example.org/tcp/443/wss",
        ),
    )
)
LOCAL: tuple[Interface, ...] = (
    ipaddress.IPv4Interface("11.0.0.1/24"),
    ipaddress.IPv6Interface("2b00::1/64"),
)
ASKER = ipaddress.ip_address("11.0.9.9")
MESSAGES: tuple[Message, ...] = (
    DialRequest(ADDRS, 7),
    DialRequest((None, *ADDRS[1:]), 2**64 - 1),
    DialDataRequest(1, 40_000),
    DialDataResponse(bytes(200)),
    DialResponse(ResponseStatus.OK, 2, DialStatus.E_DIAL_ERROR),
    DialResponse(ResponseStatus.E_DIAL_REFUSED),
)


def _framed(message: Message) -> bytes:
    return encode_length_prefixed(encode(message))


def _messages(data: bytes) -> None:
    for decoder in (decode_dial_back, decode_dial_back_response):
        with suppress(RemoteProtocolError):
            decoder(data)
    message = decode(data)
    if isinstance(message, DialRequest) and len(message.addrs) > MAX_ADDRS:
        raise Violation(f"{len(message.addrs)} addresses")
    if isinstance(message, DialDataResponse) and len(message.data) > MAX_CHUNK:
        raise Violation(f"{len(message.data)} bytes of dial data")
    if decode(encode(message)) != message:
        raise Violation(f"{message} is another one when it is written and read")


def _server(data: bytes) -> None:
    core = AutonatServerCore(
        AutonatServerConfig(), clock=lambda: 0.0, rng=Random(7), local=lambda: LOCAL
    )
    exchange = core.enter(KEY.peer_id, ASKER)
    if exchange is None:
        raise Violation("nobody is admitted")
    try:
        for payload in LengthPrefixed(MAX_MESSAGE).feed(data):
            step = exchange.receive(decode(payload))
            if isinstance(step, Dial):
                _check_dial(step, owed=exchange.owed)
                exchange.dialed(DialStatus.OK)
    finally:
        exchange.leave()
        if core.under_way:
            raise Violation("a request that is over is still counted")


def _check_dial(dial: Dial, *, owed: int) -> None:
    ip = ip_of(dial.addr)
    if ip is None or not is_public_host(ip) or any(ip == interface.ip for interface in LOCAL):
        raise Violation(f"it dials {dial.addr}")
    if owed:
        raise Violation(f"it dials before {owed} bytes have come")


AUTONAT_MESSAGES = Target(
    "autonat-messages",
    _messages,
    (RemoteProtocolError,),
    seeds=[
        *map(encode, MESSAGES),
        encode_dial_back(7),
        encode_dial_back_response(),
    ],
    tokens=[b"\x0a", b"\x11", b"\x12", b"\x1a", b"\x22", b"\x08\xc8\x01", b"\x18\xc8\x01"],
    max_size=9 * KIB,
)
AUTONAT_SERVER = Target(
    "autonat-server",
    _server,
    (RemoteProtocolError,),
    seeds=[
        *map(_framed, MESSAGES),
        _framed(DialRequest(ADDRS[1:], 7)) + _framed(DialDataResponse(bytes(MAX_CHUNK))) * 25,
        _framed(DialRequest((None, ADDRS[2]), 7)) + _framed(DialDataResponse(bytes(100))) * 3,
    ],
    tokens=[*(addr.to_bytes() for addr in ADDRS), b"\x04\x7f\x00\x00\x01", b"\x29"],
    max_size=128 * KIB,
)
