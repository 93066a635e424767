"""ICMP errors through a NAT (RFC 5508): both the message and the packet that it quotes. Pure.

An error about an outgoing packet quotes it as it looked outside, one about an incoming packet
as it looked inside; the receiver must find its own endpoints in the quote. An error that belongs
to no session is not let through (RFC 5508 REQ-4, REQ-5). The same holds for ICMPv6
(RFC 6092), where nothing is translated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tools.netlab.packets.codec import (
    CHECKSUM_OFFSET,
    FRAGMENT_OFFSET,
    ICMP,
    TCP,
    UDP,
    Buffer,
    IpHeader,
    adjusted,
    checksum,
    ipv6_transport,
)
from tools.netlab.packets.flows import Session

ERRORS: Final = frozenset((3, 4, 5, 11, 12))
ERRORS_V6: Final = frozenset((1, 2, 3, 4))
_HEADER: Final = 8  # bytes of the ICMP header before the quote

# (protocol, source endpoint, destination endpoint, outbound) -> the session of such packets.
FindSession = Callable[[int, bytes, bytes, bool], Session | None]


def translate_error(
    packet: Buffer, ip: IpHeader, outbound: bool, find: FindSession, keep_source: bool
) -> str | None:
    """Rewrite an IPv4 packet with an ICMP error in place; the reason if it must be dropped.

    With `keep_source` the sender's own address stays (a firewall that does not translate);
    otherwise an outgoing error comes from the NAT.
    """
    if checksum(packet[ip.header : ip.length]):
        return "malformed"
    quote = ip.header + _HEADER
    if quote + 28 > ip.length or packet[quote] >> 4 != 4:
        return "malformed"
    transport = quote + (packet[quote] & 15) * 4
    if transport + 8 > ip.length or transport < quote + 20:
        return "malformed"
    if int.from_bytes(packet[quote + 6 : quote + 8]) & FRAGMENT_OFFSET:
        return "fragment"
    protocol = packet[quote + 9]
    session = quoted_session(packet, quote + 12, 4, transport, protocol, outbound, find)
    if session is None:
        return "no-session"
    mapping = session.mapping
    if outbound:
        endpoint, address_at, port_at = mapping.external, quote + 16, transport + 2
        address_delta, full_delta = session.address_out, session.full_out
        if not keep_source:
            packet[12:16] = mapping.external[:-2]
    else:
        endpoint, address_at, port_at = mapping.internal, quote + 12, transport
        address_delta, full_delta = session.address_in, session.full_in
        packet[16:20] = mapping.internal[:-2]
    if protocol == ICMP:
        port_at, full_delta = transport + 4, (full_delta - address_delta) % 0xFFFF
    packet[address_at : address_at + 4] = endpoint[:-2]
    packet[port_at : port_at + 2] = endpoint[-2:]
    _adjust(packet, quote + 10, address_delta)
    inner = transport + CHECKSUM_OFFSET[protocol]
    if inner + 2 <= ip.length and not (protocol == UDP and not any(packet[inner : inner + 2])):
        _adjust(packet, inner, full_delta, never_zero=protocol == UDP)
    for start, end, at in ((ip.header, ip.length, ip.header + 2), (0, ip.header, 10)):
        packet[at : at + 2] = b"\0\0"
        packet[at : at + 2] = checksum(packet[start:end]).to_bytes(2, "big")
    return None


def admit_error_v6(packet: Buffer, ip: IpHeader, outbound: bool, find: FindSession) -> str | None:
    """Look at an IPv6 packet with an ICMPv6 error; the reason if it must be dropped."""
    quote = ip.header + _HEADER
    if quote + 48 > ip.length or packet[quote] >> 4 != 6:
        return "malformed"
    found = ipv6_transport(packet, packet[quote + 6], quote + 40, ip.length)
    if found is None or found[1] + 8 > ip.length:
        return "malformed"
    protocol, transport, fragment, _ = found
    if fragment & FRAGMENT_OFFSET:
        return "fragment"
    session = quoted_session(packet, quote + 8, 16, transport, protocol, outbound, find)
    return "no-session" if session is None else None


def quoted_session(
    packet: Buffer,
    addresses: int,
    size: int,
    transport: int,
    protocol: int,
    outbound: bool,
    find: FindSession,
) -> Session | None:
    """The session of a packet quoted in an error that goes `outbound` or inbound.

    addresses: offset of the quoted source address; size: bytes of an address; transport: offset
    of the quoted transport header, of which 8 bytes must be there.
    """
    middle = addresses + size
    source, destination = bytes(packet[addresses:middle]), bytes(packet[middle : middle + size])
    if protocol in (TCP, UDP):
        source += bytes(packet[transport : transport + 2])
        destination += bytes(packet[transport + 2 : transport + 4])
    elif protocol in CHECKSUM_OFFSET:
        ident = bytes(packet[transport + 4 : transport + 6])
        # The inside end has the identifier: it sent the quoted packet if the error comes in.
        source += b"\0\0" if outbound else ident
        destination += ident if outbound else b"\0\0"
    else:
        return None
    # The quoted packet went the other way than the error does.
    return find(protocol, destination, source, outbound)


def _adjust(packet: Buffer, at: int, delta: int, *, never_zero: bool = False) -> None:
    value = adjusted(int.from_bytes(packet[at : at + 2]), delta)
    if never_zero:
        value = value or 0xFFFF
    packet[at : at + 2] = value.to_bytes(2, "big")
