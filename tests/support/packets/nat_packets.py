"""Whole packets for tests of the NAT, and what is wrong with those that come out of it."""

from __future__ import annotations

import struct
from typing import Final

from tools.netlab.packets.codec import (
    ECHO_REPLY,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    ReadBuffer,
    checksum,
    icmp_packet,
    ip_packet,
    ones_sum,
    pseudo_sum,
    read_header,
)

ECHO_REQUEST: Final = 8
TIME_EXCEEDED: Final = 11


def udp_packet(
    source: bytes, source_port: int, destination: bytes, port: int, data: bytes = b""
) -> bytes:
    """A whole IP packet with a UDP datagram."""
    body = struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data
    return ip_packet(source, destination, UDP, body)


def echo_packet(source: bytes, destination: bytes, ident: int, *, reply: bool = False) -> bytes:
    """A whole IP packet with an ICMP echo request or reply (ICMPv6 between IPv6 addresses)."""
    kind = (ECHO_REPLY if reply else ECHO_REQUEST) if len(source) == 4 else 129 if reply else 128
    return icmp_packet(source, destination, kind, 0, struct.pack("!HH", ident, 1), b"echo")


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
