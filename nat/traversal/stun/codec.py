"""STUN binding messages (RFC 8489), with what discovers NATs (RFC 5780). Pure.

Requests, success responses and errors of the one method that tells a client where it is seen
from. RFC 5780 adds CHANGE-REQUEST ("answer from your other address or port"), RESPONSE-PORT
("answer to another port of mine"), RESPONSE-ORIGIN and OTHER-ADDRESS. What is in the messages
is read and written by `aioice.stun`, but for two attributes that it does not have.

A STUN message shares its socket with QUIC, whose packets have bit 0x40 set in their first byte
(RFC 9443), and with ICE, whose requests have a USERNAME; :func:`is_request_for_responder` tells
them apart without reading them in full.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.transport.udp_socket import Address

Endpoint: TypeAlias = tuple[str, int]
"""Numeric host (without a zone) and port."""

MAX_MESSAGE: Final = 548
"""Longest message that is read, bytes (RFC 8489, section 6.1: what every IPv4 path takes)."""
TRANSACTION_BYTES: Final = 12
UNKNOWN_ATTRIBUTE: Final = 420
"""The error for a request with an attribute that the responder had to understand, and does not."""
CHANGE_REQUEST: Final = 0x0003

_REQUEST, _RESPONSE, _ERROR = 0x0001, 0x0101, 0x0111
_COOKIE: Final = 0x2112A442.to_bytes(4, "big")
_HEADER: Final = struct.Struct("!HHI12s")
_ATTRIBUTE: Final = struct.Struct("!HH")
_MAX_ATTRIBUTES: Final = 32
_OPTIONAL: Final = 0x8000
"""Attributes from here on may be ignored by who does not know them."""
_USERNAME, _UNKNOWN_ATTRIBUTES, _RESPONSE_PORT = 0x0006, 0x000A, 0x0027
_FINGERPRINT: Final = 0x8028
_KNOWN: Final = frozenset({CHANGE_REQUEST, _RESPONSE_PORT})
"""Of a request, those of the attributes to be understood that are."""
_CHANGE_IP, _CHANGE_PORT = 0x04, 0x02


@dataclass(frozen=True, slots=True)
class BindingRequest:
    """The question where the other one sees this one."""

    transaction: bytes
    """12 bytes that the answer repeats."""
    change_ip: bool = False
    """Answer from the other address."""
    change_port: bool = False
    """Answer from the other port."""
    response_port: int | None = None
    """Answer to this port."""
    fingerprint: bool = True
    """With a checksum against mistaking something else for STUN."""
    unknown: tuple[int, ...] = ()
    """Attributes, only in requests that were read, that must be understood and are not."""


@dataclass(frozen=True, slots=True)
class BindingResponse:
    """The answer to it."""

    transaction: bytes
    mapped: Endpoint
    """Where the request came from."""
    origin: Endpoint | None = None
    """Where the response comes from, as its sender believes."""
    other: Endpoint | None = None
    """The sender's other address and port, both different."""
    fingerprint: bool = True


@dataclass(frozen=True, slots=True)
class BindingError:
    """A refusal; code as in RFC 8489, section 14.8, and with 420 the attributes it is about."""

    transaction: bytes
    code: int
    reason: str = ""
    unknown: tuple[int, ...] = ()
    fingerprint: bool = True


Message: TypeAlias = BindingRequest | BindingResponse | BindingError
_CLASSES: Final[Mapping[type[Message], str]] = MappingProxyType(
    {BindingRequest: "REQUEST", BindingResponse: "RESPONSE", BindingError: "ERROR"}
)


# --- telling messages apart ---


def is_stun(data: bytes) -> bool:
    """Whether a datagram looks like a STUN message, by its header."""
    return (
        _HEADER.size <= len(data) <= MAX_MESSAGE
        and not data[0] & 0xC0
        and data[4:8] == _COOKIE
        and int.from_bytes(data[2:4], "big") == len(data) - _HEADER.size
        and not len(data) & 3
    )


def is_request_for_responder(data: bytes) -> bool:
    """Whether a datagram is a binding request that a responder is to answer: not one of ICE."""
    if not is_stun(data) or int.from_bytes(data[:2], "big") != _REQUEST:
        return False
    at = _HEADER.size
    for _ in range(_MAX_ATTRIBUTES):
        if at >= len(data):
            return True
        kind, size = _ATTRIBUTE.unpack_from(data, at)
        if kind == _USERNAME:
            return False
        at += _ATTRIBUTE.size + size + -size % 4
    return False


def transaction_of(data: bytes) -> bytes:
    """The transaction of a datagram that :func:`is_stun`."""
    return data[8 : _HEADER.size]


# --- addresses ---


def endpoint_of(address: Address) -> Endpoint:
    """An address as the one spelling of it that is compared: without zone, flow and scope."""
    return str(ipaddress.ip_address(address[0].partition("%")[0])), address[1]


# --- writing ---


def encode(message: Message) -> bytes:
    """The datagram of a message.

    Raises:
        LocalProtocolError: a field is out of its range.
    """
    from aioice import stun as codec  # with the first message: it brings mDNS and DNS

    attributes: dict[str, Any] = {}
    extra = b""
    match message:
        case BindingRequest():
            if message.change_ip or message.change_port:
                flags = _CHANGE_IP * message.change_ip | _CHANGE_PORT * message.change_port
                attributes["CHANGE-REQUEST"] = flags
            if message.response_port is not None:
                extra = _attribute(_RESPONSE_PORT, struct.pack("!HH", message.response_port, 0))
        case BindingResponse():
            attributes["XOR-MAPPED-ADDRESS"] = message.mapped
            if message.origin is not None:
                attributes["RESPONSE-ORIGIN"] = message.origin
            if message.other is not None:
                attributes["OTHER-ADDRESS"] = message.other
        case BindingError():
            attributes["ERROR-CODE"] = message.code, message.reason
            if message.unknown:
                kinds = struct.pack(f"!{len(message.unknown)}H", *message.unknown)
                extra = _attribute(_UNKNOWN_ATTRIBUTES, kinds)
    if len(message.transaction) != TRANSACTION_BYTES:
        raise LocalProtocolError("a STUN transaction ID has 12 bytes")
    plain = bytes(
        codec.Message(
            codec.Method.BINDING,
            codec.Class[_CLASSES[type(message)]],
            message.transaction,
            attributes,
        )
    )
    data = codec.set_body_length(plain, len(plain) - _HEADER.size + len(extra)) + extra
    if message.fingerprint:
        checksum = codec.message_fingerprint(data)
        body = len(data) - _HEADER.size + codec.FINGERPRINT_LENGTH
        data = codec.set_body_length(data, body) + _attribute(
            _FINGERPRINT, codec.pack_unsigned(checksum)
        )
    if len(data) > MAX_MESSAGE:
        raise LocalProtocolError("a STUN message that is too long")
    return data


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)


# --- reading ---


def decode(data: bytes) -> Message:
    """The message that a datagram is.

    Raises:
        RemoteProtocolError: it is something else (also a request of ICE, or another method), or
            damaged.
    """
    if not is_stun(data):
        raise RemoteProtocolError("not a STUN message")
    kind = int.from_bytes(data[:2], "big")
    if kind not in (_REQUEST, _RESPONSE, _ERROR):
        raise RemoteProtocolError(f"a STUN message of type {kind:#06x}")
    raw = _attributes(data)
    if _USERNAME in raw:
        raise RemoteProtocolError("a STUN message of ICE")
    values = _parse(data)
    transaction = transaction_of(data)
    fingerprint = "FINGERPRINT" in values
    if kind == _REQUEST:
        flags = values.get("CHANGE-REQUEST", 0)
        return BindingRequest(
            transaction,
            change_ip=bool(flags & _CHANGE_IP),
            change_port=bool(flags & _CHANGE_PORT),
            response_port=_response_port(raw.get(_RESPONSE_PORT)),
            fingerprint=fingerprint,
            unknown=tuple(each for each in raw if each < _OPTIONAL and each not in _KNOWN),
        )
    if kind == _RESPONSE:
        mapped = values.get("XOR-MAPPED-ADDRESS")
        if mapped is None:
            raise RemoteProtocolError("a STUN response without XOR-MAPPED-ADDRESS")
        origin, other = values.get("RESPONSE-ORIGIN"), values.get("OTHER-ADDRESS")
        return BindingResponse(transaction, mapped, origin, other, fingerprint)
    code, reason = values.get("ERROR-CODE", (0, ""))
    if not 300 <= code <= 699:
        raise RemoteProtocolError("a STUN error without an error code")
    unknown = raw.get(_UNKNOWN_ATTRIBUTES, b"")
    if len(unknown) % 2:
        raise RemoteProtocolError("a STUN error whose list of attributes is damaged")
    kinds = struct.unpack(f"!{len(unknown) // 2}H", unknown)
    return BindingError(transaction, code, reason, kinds, fingerprint)


def _attributes(data: bytes) -> dict[int, bytes]:
    """Every attribute's value; of repeated ones the first (RFC 8489, section 14)."""
    found: dict[int, bytes] = {}
    at = _HEADER.size
    for _ in range(_MAX_ATTRIBUTES):
        if at == len(data):
            return found
        # The body is a multiple of 4 bytes, and so is what each attribute takes.
        kind, size = _ATTRIBUTE.unpack_from(data, at)
        at += _ATTRIBUTE.size
        if at + size + -size % 4 > len(data):
            raise RemoteProtocolError("a STUN attribute is longer than its message")
        found.setdefault(kind, data[at : at + size])
        at += size + -size % 4
    if at == len(data):
        return found
    raise RemoteProtocolError("a STUN message with too many attributes")


def _parse(data: bytes) -> Mapping[str, Any]:
    from aioice import stun as codec

    try:
        return codec.parse_message(data).attributes
    except (ValueError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise RemoteProtocolError(f"invalid STUN message: {error}") from None


def _response_port(value: bytes | None) -> int | None:
    if value is None:
        return None
    # Two bytes in RFC 5780's text, four with the padding that its figure shows as part of it.
    if len(value) not in (2, 4):
        raise RemoteProtocolError("a STUN RESPONSE-PORT of the wrong size")
    return int.from_bytes(value[:2], "big")
