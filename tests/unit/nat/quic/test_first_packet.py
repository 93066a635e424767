"""Packets that belong to no connection: who is admitted, who is answered, who is not."""

from __future__ import annotations

import os

import pytest

from lattica.nat.quic.admission import AdmissionControl, AdmissionLimits, RetryTokens
from lattica.nat.quic.first_packet import FirstPackets, NewClient
from lattica.nat.quic.qh3.packets import destination_cid, read_long_header, short_destination_cid

CLIENT = ("192.0.2.1", 40000)
CID = b"made up by it"


def first_packets(**limits: int) -> FirstPackets:
    admission = AdmissionControl(AdmissionLimits(**limits))
    return FirstPackets(admission, RetryTokens(lambda: 1000.0))


def packet(cid: bytes = CID, *, version: int = 1, token: bytes = b"", first: int = 0xC3) -> bytes:
    """What looks like a client's first packet."""
    header = bytes((first,)) + version.to_bytes(4, "big") + bytes((len(cid),)) + cid
    header += b"\x08" + b"ITS-SIDE" + (0x4000 | len(token)).to_bytes(2, "big") + token
    rest = 1250 - len(header) - 2
    return header + (0x4000 | rest).to_bytes(2, "big") + os.urandom(rest)


def test_a_client_is_admitted() -> None:
    assert first_packets().receive(packet(), CLIENT) == NewClient(CLIENT, CID, CID, None, 1250)


@pytest.mark.parametrize(
    "datagram",
    [
        packet()[:1199],
        packet(b"7 bytes"),
        packet(b""),
        packet(first=0xE3),  # a Handshake packet
        packet(first=0x43),
        packet(version=0),
        b"\xc3" * 1250,
        b"\x00" * 1250,
    ],
)
def test_what_is_not_answered(datagram: bytes) -> None:
    assert first_packets().receive(datagram, CLIENT) is None


def test_another_version_is_told_ours() -> None:
    answer = first_packets().receive(packet(version=0x1A2A3A4A), CLIENT)
    assert isinstance(answer, bytes)
    assert answer[1:5] == bytes(4)
    assert answer.endswith(b"\0\0\0\1")
    assert CID in answer
    assert first_packets().receive(answer + bytes(1200), CLIENT) is None  # no two of us for ever


def test_under_load_a_client_proves_its_address() -> None:
    doors = first_packets(retry_above=1)
    doors.admission.begin(CLIENT)
    answer = doors.receive(packet(), CLIENT)
    assert isinstance(answer, bytes)
    retry_cid = answer[15:23]
    assert read_long_header(answer) is not None
    token = answer[23:-16]
    again = packet(retry_cid, token=token)
    assert doors.receive(again, CLIENT) == NewClient(CLIENT, retry_cid, CID, retry_cid, 1250)
    # Elsewhere, or for another connection ID, the token is worth nothing.
    assert isinstance(doors.receive(again, ("198.51.100.1", 40000)), bytes)
    assert isinstance(doors.receive(packet(b"another one", token=token), CLIENT), bytes)


def test_when_there_is_no_room_nothing_is_answered() -> None:
    doors = first_packets(retry_above=1, maximum=1)
    doors.admission.begin(CLIENT)
    assert doors.receive(packet(), CLIENT) is None


def test_connection_ids_are_where_the_headers_have_them() -> None:
    short = b"\x40" + bytes(range(8)) + b"payload"
    assert destination_cid(b"xx" + short, 2) == bytes(range(8)) == short_destination_cid(short)
    assert destination_cid(packet(), 0) == CID
    assert short_destination_cid(packet()) is None
    assert destination_cid(packet()[:8], 0) == CID[:2]
    assert destination_cid(b"\xc3\0\0", 0) == b""
    assert destination_cid(b"\x00" * 30, 0) is None
