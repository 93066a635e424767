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
IPV6_HOP_BY_HOP: Final = 0
IPV6_FRAGMENT: Final = 44
IPV6_DESTINATION: Final = 60
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
PORT_UNREACHABLE: Final = 3  # a code of UNREACHABLE
UNREACHABLE_V6: Final = 1
PORT_UNREACHABLE_V6: Final = 4  # a code of UNREACHABLE_V6

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
    """What an IPv4 or IPv6 header says.

    protocol: what follows the IP header, and in IPv6 the headers with options and the fragment
    header as well; in later fragments it is what the fragment header says.
    header: bytes before that. length: bytes of the packet, header included.
    fragment: flags and fragment offset as they stand in an IPv4 packet. ident: what the
    fragments of a datagram have in common beside their addresses (and protocol, in IPv4).
    """

    source: bytes
    destination: bytes
    protocol: int
    ttl: int
    header: int
    length: int
    fragment: int = 0
    ident: bytes = b""

    @property
    def is_fragment(self) -> bool:
        """Whether this is a part of a datagram, the first one included."""
        return bool(self.fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET))


def read_header(packet: ReadBuffer) -> IpHeader | None:
    """The IP header of `packet`; None if it is damaged or longer than what is there."""
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        _, payload, following, hops, source, destination = IPV6_HEADER.unpack_from(packet)
        end = 40 + payload
        found = None if end > len(packet) else ipv6_transport(packet, following, 40, end)
        if found is None:
            return None
        return IpHeader(source, destination, found[0], hops, found[1], end, *found[2:])
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    first, _, length, _, fragment, ttl, protocol, _, source, destination = IPV4_HEADER.unpack_from(
        packet
    )
    header = (first & 15) * 4
    if not 20 <= header <= length <= len(packet):
        return None
    ident = bytes((protocol, *packet[4:6]))
    return IpHeader(source, destination, protocol, ttl, header, length, fragment, ident)


def ipv6_transport(
    packet: ReadBuffer, following: int, at: int, end: int
) -> tuple[int, int, int, bytes] | None:
    """What is behind the options and the fragment header of an IPv6 packet (RFC 8200 section 4).

    following: the protocol number of what is at offset `at`. The result: the protocol number and
    offset of what is there; `fragment` and `ident` as in :class:`IpHeader`. None if the headers
    reach beyond `end`. Other extension headers (routing, security) count as the transport.
    """
    fragment, ident = 0, b""
    while following in (IPV6_HOP_BY_HOP, IPV6_DESTINATION, IPV6_FRAGMENT):
        if at + 8 > end:
            return None
        size = 8
        if following == IPV6_FRAGMENT:
            offset = int.from_bytes(packet[at + 2 : at + 4])
            fragment = offset >> 3 | (MORE_FRAGMENTS if offset & 1 else 0)
            ident = bytes(packet[at + 4 : at + 8])
        else:
            size += packet[at + 1] * 8
        following = packet[at]
        at += size
        if at > end:
            return None
        if fragment & FRAGMENT_OFFSET:
            break  # what follows is the middle of something
    return following, at, fragment, ident


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


def tcp_reset(refused: ReadBuffer, ip: IpHeader) -> bytes:
    """The RST that answers the TCP segment `refused` (RFC 9293 section 3.5.2)."""
    source_port, port, seq, ack = struct.unpack_from("!HHII", refused, ip.header)
    offset, flags = refused[ip.header + 12] >> 4, refused[ip.header + 13]
    if flags & ACK:
        return tcp_packet(ip.destination, port, ip.source, source_port, RST, seq=ack)
    size = ip.length - ip.header - offset * 4 + bool(flags & SYN) + bool(flags & FIN)
    ack = (seq + size) & 0xFFFFFFFF
    return tcp_packet(ip.destination, port, ip.source, source_port, RST | ACK, ack=ack)


def port_unreachable(refused: ReadBuffer, ip: IpHeader, source: bytes) -> bytes:
    """The ICMP or ICMPv6 error that `source` sends about `refused`.

    It quotes as much as fits (RFC 1812 section 4.3.2.3, RFC 4443 section 3.1).
    """
    kind, code, most = UNREACHABLE, PORT_UNREACHABLE, 548
    if len(source) == 16:
        kind, code, most = UNREACHABLE_V6, PORT_UNREACHABLE_V6, 1232
    return icmp_packet(source, ip.source, kind, code, bytes(4), bytes(refused[: ip.length])[:most])
