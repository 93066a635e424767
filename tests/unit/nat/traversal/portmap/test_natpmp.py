"""NAT-PMP's codec."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.traversal.portmap import natpmp
from lattica.nat.traversal.portmap.mapping import Reason, Transport, name_of


def test_requests_as_in_the_rfc():
    assert natpmp.encode_address_request() == b"\x00\x00"
    assert natpmp.encode_map(Transport.UDP, 4001, external_port=4002, lifetime=3600) == struct.pack(
        "!BBHHHI", 0, 1, 0, 4001, 4002, 3600
    )
    assert natpmp.encode_map(Transport.TCP, 1, external_port=0, lifetime=0)[1] == 2


def test_the_address():
    data = struct.pack("!BBHI4B", 0, 128, 0, 9, 198, 51, 100, 4)
    ip = ipaddress.IPv4Address("198.51.100.4")
    assert natpmp.decode(data) == natpmp.AddressAnswer(0, 9, ip)
    refused = struct.pack("!BBHI", 0, 128, 3, 9)
    assert natpmp.decode(refused) == natpmp.AddressAnswer(3, 9, None)


def test_a_mapping():
    data = struct.pack("!BBHIHHI", 0, 129, 0, 9, 4001, 4002, 600)
    assert natpmp.decode(data) == natpmp.MapAnswer(0, 9, Transport.UDP, 4001, 4002, 600)
    refused = struct.pack("!BBHI", 0, 130, 2, 9)
    assert natpmp.decode(refused) == natpmp.MapAnswer(2, 9, Transport.TCP, 0, 0, 0)


def test_a_gateway_that_speaks_pcp_only():
    decoded = natpmp.decode(bytes((2, 0x80, 0, 1)) + bytes(20))
    assert decoded.result == natpmp.Result.UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00",
        b"\x00\x80\x00",
        struct.pack("!BBH", 0, 128, 0),
        struct.pack("!BBHI", 0, 128, 0, 9),
        struct.pack("!BBHI", 0, 129, 0, 9),
        struct.pack("!BBHI", 0, 131, 5, 9),
        struct.pack("!BBHIHHI", 0, 129, 0, 9, 4001, 0, 600),
        natpmp.encode_address_request(),
    ],
)
def test_bad_answers(data):
    with pytest.raises(RemoteProtocolError):
        natpmp.decode(data)


@given(st.binary(max_size=40))
def test_any_bytes(data):
    for start in (b"", b"\x00\x80", b"\x00\x81\x00\x00"):
        with suppress(RemoteProtocolError):
            natpmp.decode(start + data)


def test_every_code_has_a_reason_and_a_name():
    for result in range(1, 300):
        assert isinstance(natpmp.reason_of(result), Reason)
        assert name_of(natpmp.Result, result)
    assert natpmp.reason_of(natpmp.Result.OUT_OF_RESOURCES) is Reason.OUT_OF_RESOURCES
