"""STUN messages, as far as probing NATs needs them. Pure.

A binding request and its success response (RFC 8489), with what RFC 5780 adds: CHANGE-REQUEST
(answer from your other address or port), RESPONSE-PORT (answer to another port of mine),
RESPONSE-ORIGIN and OTHER-ADDRESS. No authentication and no FINGERPRINT.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from lattica.errors import RemoteProtocolError
from tools.netlab.packets.codec import packed, unpacked

Endpoint: TypeAlias = tuple[str, int]

REQUEST: Final = 0x0001
SUCCESS: Final = 0x0101
COOKIE: Final = 0x2112A442
HEADER: Final = struct.Struct("!HHI12s")
TRANSACTION_BYTES: Final = 12
MAX_BODY: Final = 512

CHANGE_REQUEST: Final = 0x0003
XOR_MAPPED_ADDRESS: Final = 0x0020
RESPONSE_PORT: Final = 0x0027
RESPONSE_ORIGIN: Final = 0x802B
OTHER_ADDRESS: Final = 0x802C
_OPTIONAL: Final = 0x8000  # attributes from here on may be ignored by who does not know them
_CHANGE_IP: Final = 0x04
_CHANGE_PORT: Final = 0x02
_ATTRIBUTE: Final = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class StunMessage:
    """A binding request (`is_request`) or its success response.

    transaction: 12 bytes that a response repeats. mapped: where the request came from, as the
    responder saw it. origin: where the response comes from. other: the responder's other address
    and port, both different. change_ip, change_port, response_port: of a request.
    """

    is_request: bool
    transaction: bytes
    mapped: Endpoint | None = None
    origin: Endpoint | None = None
    other: Endpoint | None = None
    change_ip: bool = False
    change_port: bool = False
    response_port: int | None = None


def encode(message: StunMessage) -> bytes:
    """The bytes of a message; a datagram, or back to back on a stream."""
    mask = COOKIE.to_bytes(4, "big") + message.transaction
    body = b""
    if message.mapped is not None:
        body += _attribute(XOR_MAPPED_ADDRESS, _address(message.mapped, mask))
    if message.origin is not None:
        body += _attribute(RESPONSE_ORIGIN, _address(message.origin, bytes(16)))
    if message.other is not None:
        body += _attribute(OTHER_ADDRESS, _address(message.other, bytes(16)))
    if message.change_ip or message.change_port:
        flags = _CHANGE_IP * message.change_ip | _CHANGE_PORT * message.change_port
        body += _attribute(CHANGE_REQUEST, flags.to_bytes(4, "big"))
    if message.response_port is not None:
        body += _attribute(RESPONSE_PORT, struct.pack("!HH", message.response_port, 0))
    kind = REQUEST if message.is_request else SUCCESS
    return HEADER.pack(kind, len(body), COOKIE, message.transaction) + body


def message_bytes(head: bytes | bytearray) -> int:
    """How long the message is that starts with `head` (at least 20 bytes).

    Raises RemoteProtocolError if that is no message of ours.
    """
    kind, size, cookie, _ = HEADER.unpack_from(head)
    if cookie != COOKIE or kind not in (REQUEST, SUCCESS) or size & 3 or size > MAX_BODY:
        raise RemoteProtocolError("not a STUN binding message")
    return HEADER.size + int(size)


def decode(data: bytes | bytearray) -> StunMessage:
    """The message in `data`, which must be just one. Raises RemoteProtocolError."""
    if len(data) < HEADER.size or message_bytes(data) != len(data):
        raise RemoteProtocolError("not a STUN binding message")
    kind, _, _, transaction = HEADER.unpack_from(data)
    values = dict(_attributes(bytes(data[HEADER.size :])))
    mask = COOKIE.to_bytes(4, "big") + transaction
    known = (CHANGE_REQUEST, XOR_MAPPED_ADDRESS, RESPONSE_PORT)
    for attribute in values:
        if attribute < _OPTIONAL and attribute not in known:
            raise RemoteProtocolError(f"STUN attribute {attribute:#06x} is not known here")
    flags = int.from_bytes(_sized(values.get(CHANGE_REQUEST, bytes(4)), 4))
    port = values.get(RESPONSE_PORT)
    return StunMessage(
        is_request=kind == REQUEST,
        transaction=transaction,
        mapped=_endpoint(values.get(XOR_MAPPED_ADDRESS), mask),
        origin=_endpoint(values.get(RESPONSE_ORIGIN), bytes(16)),
        other=_endpoint(values.get(OTHER_ADDRESS), bytes(16)),
        change_ip=bool(flags & _CHANGE_IP),
        change_port=bool(flags & _CHANGE_PORT),
        response_port=None if port is None else int.from_bytes(_sized(port, 4)[:2]),
    )


def _attributes(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = 0
    while at < len(body):
        # The body is a multiple of 4 bytes, and so is what each attribute takes.
        kind, size = _ATTRIBUTE.unpack_from(body, at)
        at += 4
        if at + size > len(body):
            raise RemoteProtocolError("a STUN attribute is longer than its message")
        found.append((kind, body[at : at + size]))
        at += size + -size % 4
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)


def _sized(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise RemoteProtocolError(f"a STUN attribute has {len(value)} bytes instead of {size}")
    return value


def _address(endpoint: Endpoint, mask: bytes) -> bytes:
    address, port = packed(endpoint[0]), endpoint[1].to_bytes(2, "big")
    family = 1 if len(address) == 4 else 2
    return bytes((0, family)) + _xor(port, mask) + _xor(address, mask)


def _endpoint(value: bytes | None, mask: bytes) -> Endpoint | None:
    if value is None:
        return None
    size = {1: 8, 2: 20}.get(value[1] if len(value) > 1 else 0)
    if size is None:
        raise RemoteProtocolError("a STUN address of an unknown family")
    _sized(value, size)
    return unpacked(_xor(value[4:], mask)), int.from_bytes(_xor(value[2:4], mask))


def _xor(data: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, mask, strict=False))
