"""The NAT Port Mapping Protocol, client side (RFC 6886).

Pure. Lifetimes and epochs are in seconds. IPv4 only.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.traversal.portmap.mapping import Reason, Transport

VERSION = 0
PORT = 5351
_RESPONSE = 0x80
_HEADER = struct.Struct("!BBHI")
_ADDRESS = struct.Struct("!4s")
_MAP_REQUEST = struct.Struct("!BBHHHI")
_MAP = struct.Struct("!HHI")
_OPCODES = {Transport.UDP: 1, Transport.TCP: 2}
_TRANSPORTS = {opcode: transport for transport, opcode in _OPCODES.items()}


class Result(IntEnum):
    """Result codes, RFC 6886 section 3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


_REASONS: dict[int, Reason] = {
    Result.UNSUPPORTED_VERSION: Reason.UNSUPPORTED_VERSION,
    Result.NOT_AUTHORIZED: Reason.NOT_AUTHORIZED,
    Result.NETWORK_FAILURE: Reason.NETWORK_FAILURE,
    Result.OUT_OF_RESOURCES: Reason.OUT_OF_RESOURCES,
    Result.UNSUPPORTED_OPCODE: Reason.UNSUPPORTED,
}


def reason_of(result: int) -> Reason:
    """The reason behind a result code other than 0; unknown ones are refusals."""
    return _REASONS.get(result, Reason.REFUSED)


@dataclass(frozen=True, slots=True)
class AddressAnswer:
    """The gateway's external address; None with a result other than 0."""

    result: int
    epoch: int
    external_ip: ipaddress.IPv4Address | None


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """An answer to a mapping request; ports and lifetime are 0 where it has none."""

    result: int
    epoch: int
    transport: Transport
    internal_port: int
    external_port: int
    lifetime: int


def encode_address_request() -> bytes:
    return bytes((VERSION, 0))


def encode_map(
    transport: Transport, internal_port: int, *, external_port: int, lifetime: int
) -> bytes:
    """Ask for a mapping or its renewal; with external port and lifetime 0 for its end."""
    opcode = _OPCODES[transport]
    return _MAP_REQUEST.pack(VERSION, opcode, 0, internal_port, external_port, lifetime)


def decode(data: bytes) -> AddressAnswer | MapAnswer:
    """Read a response.

    A server of another version, which is PCP's, answers with its own, and comes back as an
    :class:`AddressAnswer` with UNSUPPORTED_VERSION.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    if len(data) < 4 or not data[1] & _RESPONSE:
        raise RemoteProtocolError(f"{len(data)} bytes that are no NAT-PMP response")
    if data[0] != VERSION:
        return AddressAnswer(Result.UNSUPPORTED_VERSION, 0, None)
    if len(data) < _HEADER.size:
        raise RemoteProtocolError(f"NAT-PMP response of {len(data)} bytes")
    _, opcode, result, epoch = _HEADER.unpack_from(data)
    opcode &= ~_RESPONSE
    body = data[_HEADER.size :]
    if opcode == 0:
        if result != Result.SUCCESS:
            return AddressAnswer(result, epoch, None)
        if len(body) < _ADDRESS.size:
            raise RemoteProtocolError("NAT-PMP address response cut short")
        return AddressAnswer(result, epoch, ipaddress.IPv4Address(body[:4]))
    transport = _TRANSPORTS.get(opcode)
    if transport is None:
        # Servers repeat an opcode that they do not know; we send no such.
        raise RemoteProtocolError(f"NAT-PMP response with opcode {opcode}")
    if len(body) < _MAP.size:
        if result == Result.SUCCESS:
            raise RemoteProtocolError("NAT-PMP mapping response cut short")
        return MapAnswer(result, epoch, transport, 0, 0, 0)
    internal_port, external_port, lifetime = _MAP.unpack_from(body)
    if result == Result.SUCCESS and lifetime and not external_port:
        raise RemoteProtocolError("NAT-PMP mapping without an external port")
    return MapAnswer(result, epoch, transport, internal_port, external_port, lifetime)
