"""Packets: known bytes, checksums, and what is refused."""

from __future__ import annotations

import struct

import pytest

from tests.support.packets.nat_packets import checksum_errors, echo_packet, udp_packet
from tools.netlab.packets.codec import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    IPV6_DESTINATION,
    IPV6_FRAGMENT,
    IPV6_HOP_BY_HOP,
    MORE_FRAGMENTS,
    RST,
    SYN,
    UDP,
    adjusted,
    checksum,
    ip_packet,
    ones_sum,
    packed,
    port_unreachable,
    read_header,
    tcp_packet,
    tcp_reset,
    unpacked,
)

A, B = packed("192.0.2.1"), packed("198.51.100.2")
A6, B6 = packed("2001:db8::1"), packed("2001:db8::2")

# A header that textbooks use.
HEADER = bytes.fromhex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7")


def test_checksum_of_a_known_header() -> None:
    assert checksum(HEADER) == 0
    assert checksum(HEADER[:10] + b"\0\0" + HEADER[12:]) == 0xB861


def test_checksum_of_the_example_of_rfc_1071() -> None:
    data = bytes.fromhex("0001 f203 f4f5 f6f7")
    assert ones_sum(data) == 0xDDF2
    assert checksum(data) == 0x220D


def test_checksum_pads_an_odd_byte() -> None:
    assert checksum(b"\x12\x34\x56") == checksum(b"\x12\x34\x56\x00")


@pytest.mark.parametrize("source", [(A, B), (A6, B6)], ids=["v4", "v6"])
@pytest.mark.parametrize("size", [0, 1, 2, 1399])
def test_built_packets_have_valid_checksums(source: tuple[bytes, bytes], size: int) -> None:
    a, b = source
    for packet in (
        tcp_packet(a, 1000, b, 2000, SYN, b"x" * size),
        udp_packet(a, 1000, b, 2000, b"y" * size),
        echo_packet(a, b, 77),
    ):
        assert checksum_errors(packet) == []


def test_each_wrong_checksum_is_named() -> None:
    packet = bytearray(udp_packet(A, 1000, B, 2000, b"data"))
    packet[-1] ^= 1
    assert checksum_errors(packet) == ["udp"]
    packet[8] ^= 1
    assert checksum_errors(packet) == ["ip", "udp"]
    assert checksum_errors(b"\x45") == ["malformed"]


def test_udp_checksum_is_never_zero_but_zero_means_none() -> None:
    # A datagram whose sum is 0xFFFF, so that its checksum would be 0.
    packet = udp_packet(A, 1000, B, 2000, b"\0\0")
    (value,) = struct.unpack_from("!H", packet, 26)
    packet = udp_packet(A, 1000, B, 2000, value.to_bytes(2, "big"))
    assert packet[26:28] == b"\xff\xff"
    assert checksum_errors(packet) == []
    assert checksum_errors(packet[:26] + b"\0\0" + packet[28:]) == []


@pytest.mark.parametrize("old", [0x0000, 0x0001, 0x1234, 0xFFFE])
@pytest.mark.parametrize("change", [-0xFFFF, -0x100, -1, 0, 1, 0x55D5, 0xFFFF])
def test_adjusted_is_what_a_full_computation_gives(old: int, change: int) -> None:
    rest = (0xFFFF - old) or 0xFFFF
    new = (rest + change) % 0xFFFF or 0xFFFF
    assert adjusted(old, change) == checksum(new.to_bytes(2, "big"))


def test_example_of_rfc_1624() -> None:
    # Section 4: checksum DD2F, a field goes from 5555 to 3285, and the result is 0000.
    assert adjusted(0xDD2F, 0x3285 - 0x5555) == 0x0000


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45" * 19,
        HEADER,  # says 115 bytes
        b"\x44" + HEADER[1:],  # a header of 16 bytes
        b"\x4f" + HEADER[1:],  # a header of 60 bytes
        b"\x35" + HEADER[1:] + bytes(100),
        b"\x60" + bytes(38),
        b"\x60\0\0\0\0\1" + bytes(34),  # one byte of payload is missing
    ],
)
def test_damaged_headers_are_refused(packet: bytes) -> None:
    assert read_header(packet) is None


def test_header_fields() -> None:
    packet = ip_packet(
        A, B, UDP, bytes(16), ttl=9, ident=7, fragment=MORE_FRAGMENTS, options=b"\1\1\1\0"
    )
    ip = read_header(packet + b"trailing")
    assert ip is not None
    assert (ip.source, ip.destination, ip.protocol, ip.ttl) == (A, B, UDP, 9)
    assert (ip.header, ip.length, ip.is_fragment) == (24, 40, True)
    six = read_header(udp_packet(A6, 1, B6, 2, b"abc"))
    assert six is not None
    assert (six.source, six.protocol, six.header, six.length) == (A6, UDP, 40, 51)


def test_addresses_as_text() -> None:
    assert unpacked(A) == "192.0.2.1"
    assert unpacked(memoryview(A6)) == "2001:db8::1"


def test_reset_answers_a_syn_with_ack_and_an_ack_with_its_number() -> None:
    syn = tcp_packet(A, 1000, B, 2000, SYN, seq=100)
    ip = read_header(syn)
    assert ip is not None
    assert tcp_reset(syn, ip) == tcp_packet(B, 2000, A, 1000, RST | ACK, ack=101)
    data = tcp_packet(A, 1000, B, 2000, ACK | FIN, b"abc", seq=100, ack=555)
    ip = read_header(data)
    assert ip is not None
    assert tcp_reset(data, ip) == tcp_packet(B, 2000, A, 1000, RST, seq=555)


@pytest.mark.parametrize(
    ("a", "b", "protocol", "kind", "most"),
    [(A, B, ICMP, b"\x03\x03", 576), (A6, B6, ICMPV6, b"\x01\x04", 1280)],
)
def test_port_unreachable_quotes_the_packet(
    a: bytes, b: bytes, protocol: int, kind: bytes, most: int
) -> None:
    packet = udp_packet(a, 1000, b, 2000, bytes(1400))
    ip = read_header(packet)
    assert ip is not None
    error = port_unreachable(packet, ip, b)
    head = read_header(error)
    assert head is not None
    assert (head.source, head.destination, head.protocol, head.length) == (b, a, protocol, most)
    assert error[head.header : head.header + 2] == kind
    quote = error[head.header + 8 :]
    assert quote == packet[: len(quote)]
    assert checksum_errors(error) == []


OPTIONS = bytes((IPV6_DESTINATION, 0, 1, 4, 0, 0, 0, 0))


def test_the_transport_is_behind_options_and_the_fragment_header() -> None:
    datagram = udp_packet(A6, 1, B6, 2, b"data")[40:]
    more = bytes((IPV6_DESTINATION, 1, 1, 12)) + bytes(12)
    last = bytes((UDP, 0, 1, 4, 0, 0, 0, 0))
    ip = read_header(ip_packet(A6, B6, IPV6_HOP_BY_HOP, more + OPTIONS + last + datagram))
    assert ip is not None
    assert (ip.protocol, ip.header, ip.length) == (UDP, 72, 72 + len(datagram))
    assert not ip.is_fragment

    first = bytes((IPV6_DESTINATION, 0, 0, 1)) + b"same"
    ip = read_header(ip_packet(A6, B6, IPV6_FRAGMENT, first + last + datagram))
    assert ip is not None
    assert (ip.protocol, ip.header, ip.fragment) == (UDP, 56, MORE_FRAGMENTS)
    assert ip.ident == b"same"

    later = bytes((IPV6_DESTINATION, 0, 0, 8 * 5)) + b"same"
    ip = read_header(ip_packet(A6, B6, IPV6_FRAGMENT, later + b"\xff" * 8))
    assert ip is not None
    assert (ip.protocol, ip.header, ip.fragment) == (IPV6_DESTINATION, 48, 5)

    # A whole datagram in one fragment (RFC 6946) is none.
    atomic = bytes((UDP, 0, 0, 0)) + b"same"
    ip = read_header(ip_packet(A6, B6, IPV6_FRAGMENT, atomic + datagram))
    assert ip is not None
    assert not ip.is_fragment


@pytest.mark.parametrize("body", [b"", OPTIONS[:7], OPTIONS, b"\x11\x01" + bytes(13)])
def test_extension_headers_that_are_cut_off_are_refused(body: bytes) -> None:
    assert read_header(ip_packet(A6, B6, IPV6_DESTINATION, body) + bytes(100)) is None
