"""IPv4, IPv6, TCP, UDP and ICMP: reading, building and checksums. Pure.

Addresses are packed (4 or 16 bytes, network order), so that slices of packets are addresses.
Checksums are the Internet's (RFC 1071): the complement of the ones' complement sum of 16-bit
words. A ones' complement sum is the plain sum modulo 0xFFFF with 0 written as 0xFFFF (no packet
sums up to a true zero), and so :func:`adjusted` updates a checksum for a change in the data by
adding the difference of the sums (RFC 1624), and gives exactly what a full computation would.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

ReadBuffer: TypeAlias = bytes | bytearray | memoryview
Buffer: TypeAlias = bytearray | memoryview

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
IPV6_FRAGMENT: Final = 44
ICMPV6: Final = 58

# Where the checksum lies in the transport header.
CHECKSUM_OFFSET: Final = {ICMP: 2, TCP: 16, UDP: 6, ICMPV6: 2}

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
CWR: Final = 0x80

ECHO_REPLY: Final = 0
UNREACHABLE: Final = 3
ECHO_REQUEST: Final = 8
TIME_EXCEEDED: Final = 11
PORT_UNREACHABLE: Final = 3  # a code of UNREACHABLE

DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000
FRAGMENT_OFFSET: Final = 0x1FFF  # in units of 8 bytes

IPV4_HEADER: Final = struct.Struct("!BBHHHBBH4s4s")
IPV6_HEADER: Final = struct.Struct("!IHBB16s16s")


def packed(address: str) -> bytes:
    """ "192.0.2.1" or "2001:db8::1" as 4 or 16 bytes. Raises ValueError."""
    return ipaddress.ip_address(address).packed


def unpacked(address: ReadBuffer) -> str:
    """The text of a packed address of 4 or 16 bytes."""
    return str(ipaddress.ip_address(bytes(address)))


def ones_sum(data: ReadBuffer) -> int:
    """The ones' complement sum of `data` (padded with a zero byte), modulo 0xFFFF."""
    total = int.from_bytes(data, "big")
    return (total << 8 if len(data) & 1 else total) % 0xFFFF


def checksum(data: ReadBuffer) -> int:
    """The Internet checksum of `data` (RFC 1071); 0 if `data` contains its own, valid one."""
    return 0xFFFF - (ones_sum(data) or 0xFFFF)


def adjusted(old: int, delta: int) -> int:
    """Checksum `old` after the sum of the data has changed by `delta` (RFC 1624)."""
    return 0xFFFF - ((0xFFFF - old + delta) % 0xFFFF or 0xFFFF)


def pseudo_sum(source: ReadBuffer, destination: ReadBuffer, protocol: int, length: int) -> int:
    """The sum of the pseudo header of TCP, UDP and ICMPv6, modulo 0xFFFF.

    IPv4 (RFC 9293) and IPv6 (RFC 8200 section 8.1) write it differently but it sums up alike.
    """
    low, high = length & 0xFFFF, length >> 16
    return (ones_sum(source) + ones_sum(destination) + protocol + low + high) % 0xFFFF


@dataclass(frozen=True, slots=True)
class IpHeader:
    """What an IPv4 or IPv6 header says. IPv6 extension headers count as the transport.

    header: bytes of the IP header. length: bytes of the packet, header included.
    fragment: the IPv4 flags and fragment offset as they stand in the packet; 0 for IPv6.
    """

    source: bytes
    destination: bytes
    protocol: int
    ttl: int
    header: int
    length: int
    fragment: int = 0

    @property
    def is_fragment(self) -> bool:
        """Whether this is a part of a datagram, the first one included."""
        return bool(self.fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET))


def read_header(packet: ReadBuffer) -> IpHeader | None:
    """The IP header of `packet`; None if it is damaged or longer than what is there."""
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        _, payload, following, hops, source, destination = IPV6_HEADER.unpack_from(packet)
        if 40 + payload > len(packet):
            return None
        return IpHeader(source, destination, following, hops, 40, 40 + payload)
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    first, _, length, _, fragment, ttl, protocol, _, source, destination = IPV4_HEADER.unpack_from(
        packet
    )
    header = (first & 15) * 4
    if not 20 <= header <= length <= len(packet):
        return None
    return IpHeader(source, destination, protocol, ttl, header, length, fragment)


def checksum_errors(packet: ReadBuffer) -> list[str]:
    """What is wrong with the checksums of a packet ("ip", "tcp", …); empty if all are right."""
    ip = read_header(packet)
    if ip is None:
        return ["malformed"]
    view = memoryview(packet)
    errors = []
    if len(ip.source) == 4 and checksum(view[: ip.header]):
        errors.append("ip")
    body = view[ip.header : ip.length]
    name = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6"}.get(ip.protocol)
    if name is None or ip.is_fragment:
        return errors
    if len(body) < 8:
        return [*errors, "malformed"]
    if ip.protocol == UDP and not any(body[6:8]) and len(ip.source) == 4:
        return errors
    total = ones_sum(body)
    if ip.protocol != ICMP:
        total += pseudo_sum(ip.source, ip.destination, ip.protocol, len(body))
    return [*errors, name] if total % 0xFFFF else errors


# --- building -------------------------------------------------------------------------------


def ip_packet(
    source: bytes,
    destination: bytes,
    protocol: int,
    body: bytes,
    *,
    ttl: int = 64,
    ident: int = 0,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IP packet, of version 4 or 6 as the addresses say.

    `body` (a transport header and data) must be complete but for its checksum, which is filled
    in where `protocol` has one and the packet is not a fragment. `options` (IPv4) must be a
    multiple of 4 bytes.
    """
    if not fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) and protocol in CHECKSUM_OFFSET:
        body = with_checksum(source, destination, protocol, body)
    if len(source) == 16:
        return IPV6_HEADER.pack(6 << 28, len(body), protocol, ttl, source, destination) + body
    size = 20 + len(options)
    fields = (0x40 | size // 4, 0, size + len(body), ident, fragment, ttl, protocol)
    header = IPV4_HEADER.pack(*fields, 0, source, destination) + options
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + body


def with_checksum(source: bytes, destination: bytes, protocol: int, body: bytes) -> bytes:
    """`body` with the checksum of its transport header computed afresh."""
    at = CHECKSUM_OFFSET[protocol]
    blank = body[:at] + b"\0\0" + body[at + 2 :]
    total = ones_sum(blank)
    if protocol != ICMP:
        total += pseudo_sum(source, destination, protocol, len(body))
    value = 0xFFFF - (total % 0xFFFF or 0xFFFF)
    if protocol == UDP:
        value = value or 0xFFFF  # zero would mean "none"
    return body[:at] + value.to_bytes(2, "big") + body[at + 2 :]


def udp_packet(
    source: bytes, source_port: int, destination: bytes, port: int, data: bytes = b""
) -> bytes:
    """A whole IP packet with a UDP datagram."""
    body = struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data
    return ip_packet(source, destination, UDP, body)


def tcp_packet(
    source: bytes,
    source_port: int,
    destination: bytes,
    port: int,
    flags: int,
    data: bytes = b"",
    *,
    seq: int = 0,
    ack: int = 0,
) -> bytes:
    """A whole IP packet with a TCP segment without options."""
    header = struct.pack("!HHIIBBHHH", source_port, port, seq, ack, 5 << 4, flags, 65535, 0, 0)
    return ip_packet(source, destination, TCP, header + data)


def icmp_packet(
    source: bytes, destination: bytes, kind: int, code: int, rest: bytes, data: bytes = b""
) -> bytes:
    """A whole IP packet with an ICMP or ICMPv6 message; `rest` is bytes 4 to 7 of its header."""
    protocol = ICMP if len(source) == 4 else ICMPV6
    return ip_packet(
        source, destination, protocol, struct.pack("!BBH", kind, code, 0) + rest + data
    )


def echo_packet(source: bytes, destination: bytes, ident: int, *, reply: bool = False) -> bytes:
    """A whole IP packet with an ICMP echo request or reply (ICMPv6 between IPv6 addresses)."""
    kind = (ECHO_REPLY if reply else ECHO_REQUEST) if len(source) == 4 else 129 if reply else 128
    return icmp_packet(source, destination, kind, 0, struct.pack("!HH", ident, 1), b"echo")


def tcp_reset(refused: ReadBuffer, ip: IpHeader) -> bytes:
    """The RST that answers the TCP segment `refused` (RFC 9293 section 3.5.2)."""
    source_port, port, seq, ack = struct.unpack_from("!HHII", refused, ip.header)
    offset, flags = refused[ip.header + 12] >> 4, refused[ip.header + 13]
    if flags & ACK:
        return tcp_packet(ip.destination, port, ip.source, source_port, RST, seq=ack)
    size = ip.length - ip.header - offset * 4 + bool(flags & SYN) + bool(flags & FIN)
    ack = (seq + size) & 0xFFFFFFFF
    return tcp_packet(ip.destination, port, ip.source, source_port, RST | ACK, ack=ack)


def icmp_error(
    refused: ReadBuffer,
    ip: IpHeader,
    source: bytes,
    kind: int = UNREACHABLE,
    code: int = PORT_UNREACHABLE,
) -> bytes:
    """The ICMP (IPv4) error that `source` sends about `refused`, quoting as much as RFC 1812."""
    return icmp_packet(source, ip.source, kind, code, bytes(4), bytes(refused[: ip.length])[:548])
