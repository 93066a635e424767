"""The Port Control Protocol, client side: MAP and ANNOUNCE, IPv4 and IPv6 (RFC 6887).

Pure. Sizes are in bytes, lifetimes in seconds. A response is at most 1100 bytes, and options in
it are skipped: none that a client must understand may come unasked.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.traversal.portmap.mapping import Reason

VERSION = 2
PORT = 5351
ANNOUNCE_PORT = 5350
"""Where gateways tell all hosts, at 224.0.0.1 and ff02::1, that they have restarted."""
MAX_SIZE = 1100
NONCE_SIZE = 12
_RESPONSE = 0x80
_REQUEST_HEADER = struct.Struct("!BBHI16s")
_RESPONSE_HEADER = struct.Struct("!BBBBII12s")
_MAP = struct.Struct("!12sB3xHH16s")
_OPTION = struct.Struct("!BBH")


class Opcode(IntEnum):
    ANNOUNCE = 0
    MAP = 1


class Result(IntEnum):
    """Result codes, RFC 6887 section 7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


_REASONS: dict[int, Reason] = {
    Result.UNSUPP_VERSION: Reason.UNSUPPORTED_VERSION,
    Result.NOT_AUTHORIZED: Reason.NOT_AUTHORIZED,
    Result.MALFORMED_REQUEST: Reason.UNSUPPORTED,
    Result.UNSUPP_OPCODE: Reason.UNSUPPORTED,
    Result.UNSUPP_OPTION: Reason.UNSUPPORTED,
    Result.MALFORMED_OPTION: Reason.UNSUPPORTED,
    Result.NETWORK_FAILURE: Reason.NETWORK_FAILURE,
    Result.NO_RESOURCES: Reason.OUT_OF_RESOURCES,
    Result.UNSUPP_PROTOCOL: Reason.UNSUPPORTED,
    Result.USER_EX_QUOTA: Reason.OUT_OF_RESOURCES,
    Result.CANNOT_PROVIDE_EXTERNAL: Reason.CONFLICT,
    Result.ADDRESS_MISMATCH: Reason.ADDRESS_MISMATCH,
}


def reason_of(result: int) -> Reason:
    """The reason behind a result code other than 0; unknown ones are refusals."""
    return _REASONS.get(result, Reason.REFUSED)


@dataclass(frozen=True, slots=True)
class Announcement:
    """An answer to ANNOUNCE, or one that came unasked.

    result is a code; epoch is seconds; lifetime, for failures: how long they will last.
    """

    result: int
    lifetime: int
    epoch: int


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """An answer to MAP; with a result other than 0 it repeats the request."""

    result: int
    lifetime: int
    epoch: int
    nonce: bytes
    protocol: int
    internal_port: int
    external_port: int
    external_ip: IpAddress


def _to_bytes(address: IpAddress) -> bytes:
    if address.version == 6:
        return address.packed
    return bytes(10) + b"\xff\xff" + address.packed


def _to_ip(data: bytes) -> IpAddress:
    address = ipaddress.IPv6Address(data)
    return address.ipv4_mapped or address


def encode_announce(client: IpAddress) -> bytes:
    """A request that changes nothing: is there a PCP server, and what is its epoch?"""
    return _REQUEST_HEADER.pack(VERSION, Opcode.ANNOUNCE, 0, 0, _to_bytes(client))


def encode_map(
    client: IpAddress,
    nonce: bytes,
    protocol: int,
    internal_port: int,
    *,
    lifetime: int,
    external_port: int = 0,
    external_ip: IpAddress | None = None,
) -> bytes:
    """Ask for a mapping, its renewal (with the same nonce), or, with lifetime 0, its end.

    `external_port` and `external_ip` are wishes; 0 and None for any.
    """
    if external_ip is None:
        any_ip: IpAddress = ipaddress.IPv4Address(0)
        external_ip = any_ip if client.version == 4 else ipaddress.IPv6Address(0)
    header = _REQUEST_HEADER.pack(VERSION, Opcode.MAP, 0, lifetime, _to_bytes(client))
    return header + _MAP.pack(nonce, protocol, internal_port, external_port, _to_bytes(external_ip))


def decode(data: bytes) -> Announcement | MapAnswer:
    """Read a response.

    A server of another version answers with its own; of that only the result is sound, and it
    comes back as an :class:`Announcement` with UNSUPP_VERSION. Raises
    :class:`RemoteProtocolError`.
    """
    if not 4 <= len(data) <= MAX_SIZE:
        raise RemoteProtocolError(f"PCP response of {len(data)} bytes")
    version, opcode, _, result = data[:4]
    if not opcode & _RESPONSE:
        raise RemoteProtocolError("a PCP request came where a response should")
    if version != VERSION:
        # NAT-PMP's header has no epoch at this place (RFC 6887, appendix A).
        return Announcement(Result.UNSUPP_VERSION, 0, 0)
    if len(data) < _RESPONSE_HEADER.size or len(data) % 4:
        raise RemoteProtocolError(f"PCP response of {len(data)} bytes")
    _, _, _, _, lifetime, epoch, _ = _RESPONSE_HEADER.unpack_from(data)
    opcode &= ~_RESPONSE
    if opcode == Opcode.ANNOUNCE:
        _skip_options(data, _RESPONSE_HEADER.size)
        return Announcement(result, lifetime, epoch)
    if opcode != Opcode.MAP:
        raise RemoteProtocolError(f"PCP response with opcode {opcode}")
    if len(data) < _RESPONSE_HEADER.size + _MAP.size:
        raise RemoteProtocolError(f"PCP MAP response of {len(data)} bytes")
    fields = _MAP.unpack_from(data, _RESPONSE_HEADER.size)
    nonce, protocol, internal_port, external_port, external_ip = fields
    _skip_options(data, _RESPONSE_HEADER.size + _MAP.size)
    if result == Result.SUCCESS and lifetime and not external_port:
        raise RemoteProtocolError("PCP mapping without an external port")
    return MapAnswer(
        result=result,
        lifetime=lifetime,
        epoch=epoch,
        nonce=nonce,
        protocol=protocol,
        internal_port=internal_port,
        external_port=external_port,
        external_ip=_to_ip(external_ip),
    )


def _skip_options(data: bytes, offset: int) -> None:
    while offset < len(data):
        if len(data) - offset < _OPTION.size:
            raise RemoteProtocolError("PCP option cut short")
        length = _OPTION.unpack_from(data, offset)[2]
        offset += _OPTION.size + (length + 3 & ~3)
        if offset > len(data):
            raise RemoteProtocolError("PCP option longer than its message")
