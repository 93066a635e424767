"""Trains: cut up as the kernel would."""

from __future__ import annotations

import struct

import pytest

from tests.support.packets.nat_packets import checksum_errors, udp_packet
from tools.netlab.packets.codec import (
    ACK,
    CHECKSUM_OFFSET,
    CWR,
    FIN,
    PSH,
    TCP,
    UDP,
    packed,
    pseudo_sum,
    read_header,
    tcp_packet,
)
from tools.netlab.packets.trains import (
    ECN,
    FRAME_HEADER,
    HEADER_BYTES,
    NEEDS_CHECKSUM,
    PLAIN,
    TRAIN_TCP4,
    TRAIN_TCP6,
    TRAIN_UDP,
    header_bytes,
    split,
    wire_bytes,
)

A, B = packed("10.0.0.1"), packed("198.51.100.1")
A6, B6 = packed("fd00::1"), packed("2001:db8::1")
DATA = bytes(range(256)) * 20  # 5,120 bytes


def train_of(packet: bytes, kind: int, payload: int) -> bytes:
    """The frame in which a kernel hands out `packet` with so much payload in each."""
    ip = read_header(packet)
    assert ip is not None
    offset = CHECKSUM_OFFSET[ip.protocol]
    at = ip.header + offset
    partial = pseudo_sum(ip.source, ip.destination, ip.protocol, ip.length - ip.header)
    packet = packet[:at] + partial.to_bytes(2, "big") + packet[at + 2 :]
    # The length of headers there is but a hint.
    head = FRAME_HEADER.pack(NEEDS_CHECKSUM, kind, 999, payload, ip.header, offset)
    return head + packet


def completed(frame: bytes | bytearray) -> bytes:
    """The one packet in a frame, its checksum completed as a device would."""
    flags, kind, _, _, start, offset = FRAME_HEADER.unpack_from(frame)
    assert (flags, kind) == (NEEDS_CHECKSUM, 0)
    packet = bytearray(frame[HEADER_BYTES:])
    body = packet[start:] + bytes((len(packet) - start) % 2)
    value = 0xFFFF - (int.from_bytes(body) % 0xFFFF or 0xFFFF)
    packet[start + offset : start + offset + 2] = value.to_bytes(2, "big")
    assert checksum_errors(packet) == []
    return bytes(packet)


TCP_FLAGS = ACK | PSH | FIN | CWR
TRAINS = {
    "tcp4": (tcp_packet(A, 1, B, 2, TCP_FLAGS, DATA, seq=2**32 - 1000), TRAIN_TCP4, TCP),
    "tcp6": (tcp_packet(A6, 1, B6, 2, TCP_FLAGS, DATA, seq=5), TRAIN_TCP6, TCP),
    "udp4": (udp_packet(A, 1, B, 2, DATA), TRAIN_UDP, UDP),
    "udp6": (udp_packet(A6, 1, B6, 2, DATA), TRAIN_UDP, UDP),
}


@pytest.mark.parametrize("name", TRAINS)
def test_split_into_packets(name: str) -> None:
    packet, kind, protocol = TRAINS[name]
    frame = train_of(packet, kind, 1000)
    headers = len(packet) - len(DATA)
    assert header_bytes(frame) == headers
    assert wire_bytes(frame) == len(DATA) + 6 * headers
    parts = split(frame, 1)
    assert [size for _, size in parts] == [headers + 1000] * 5 + [headers + 120]
    assert [wire_bytes(part) for part, _ in parts] == [size for _, size in parts]
    packets = [completed(part) for part, _ in parts]
    assert b"".join(part[headers:] for part in packets) == DATA
    for index, part in enumerate(packets):
        ip = read_header(part)
        assert ip is not None
        assert ip.length == len(part)
        transport = part[ip.header :]
        if protocol == UDP:
            assert int.from_bytes(transport[4:6]) == len(transport)
            continue
        before, after = packet[ip.header :], transport
        first_seq, seq = (
            struct.unpack_from("!I", before, 4)[0],
            struct.unpack_from("!I", after, 4)[0],
        )
        assert seq == (first_seq + 1000 * index) & 0xFFFFFFFF
        flags = ACK | (CWR if index == 0 else 0) | (PSH | FIN if index == 5 else 0)
        assert after[13] == flags


@pytest.mark.parametrize("name", TRAINS)
@pytest.mark.parametrize("train_bytes", [2100, 3500, 100_000])
def test_split_into_shorter_trains(name: str, train_bytes: int) -> None:
    packet, kind, _ = TRAINS[name]
    frame = train_of(packet, kind, 1000)
    parts = split(frame, train_bytes)
    assert sum(size for _, size in parts) == wire_bytes(frame)
    assert all(size <= train_bytes for _, size in parts)
    # Splitting those further gives the same packets.
    assert [p for part, _ in parts for p, _ in (split(part, 1) if part[1] else [(part, 0)])] == [
        part for part, _ in split(frame, 1)
    ]


def test_identifiers_count_and_wrap() -> None:
    packet = bytearray(TRAINS["tcp4"][0])
    packet[4:6] = b"\xff\xfe"
    packet[10:12] = b"\0\0"
    value = 0xFFFF - int.from_bytes(packet[:20]) % 0xFFFF
    packet[10:12] = value.to_bytes(2, "big")
    parts = split(train_of(bytes(packet), TRAIN_TCP4, 1000), 1)
    idents = [int.from_bytes(completed(part)[4:6]) for part, _ in parts]
    assert idents == [0xFFFE, 0xFFFF, 0, 1, 2, 3]


def test_ecn_trains_are_trains() -> None:
    frame = train_of(TRAINS["tcp4"][0], TRAIN_TCP4 | ECN, 1000)
    assert wire_bytes(frame) == len(DATA) + 6 * 40
    assert [part[1] for part, _ in split(frame, 2100)] == [TRAIN_TCP4 | ECN] * 3


def test_a_single_packet_is_its_own_size() -> None:
    assert wire_bytes(PLAIN + bytes(77)) == 77
