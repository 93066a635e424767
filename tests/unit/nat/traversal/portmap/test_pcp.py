"""PCP's codec, and what it shares with NAT-PMP: repetition and the epoch."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.traversal.portmap import pcp
from lattica.nat.traversal.portmap.exchange import ATTEMPTS, Epoch, Retransmission
from lattica.nat.traversal.portmap.mapping import Reason, name_of

V4 = ipaddress.IPv4Address("192.168.1.7")
V6 = ipaddress.IPv6Address("2001:db8::7")
NONCE = bytes(range(12))


def answer(result: int = 0, *, external: str = "::ffff:198.51.100.4", port: int = 4001) -> bytes:
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, result, 600, 77)
    ip = ipaddress.IPv6Address(external).packed
    return head + NONCE + struct.pack("!B3xHH", 17, 4001, port) + ip


class TestRequests:
    def test_a_mapping_as_in_the_rfc(self):
        data = pcp.encode_map(V4, NONCE, 17, 4001, lifetime=3600, external_port=4002)
        assert len(data) == 60
        assert data[:4] == bytes((2, 1, 0, 0))
        assert data[4:8] == (3600).to_bytes(4, "big")
        assert data[8:24] == bytes(10) + b"\xff\xff" + V4.packed
        assert data[24:36] == NONCE
        assert data[36:40] == bytes((17, 0, 0, 0))
        assert data[40:44] == struct.pack("!HH", 4001, 4002)
        assert data[44:60] == bytes(10) + b"\xff\xff" + bytes(4)

    def test_ipv6_wishes_for_any_ipv6_address(self):
        data = pcp.encode_map(V6, NONCE, 6, 1, lifetime=0)
        assert data[8:24] == V6.packed
        assert data[44:60] == bytes(16)

    def test_announce_is_a_header_only(self):
        assert pcp.encode_announce(V6) == bytes((2, 0, 0, 0)) + bytes(4) + V6.packed


class TestAnswers:
    def test_a_mapping(self):
        assert pcp.decode(answer()) == pcp.MapAnswer(
            result=0,
            lifetime=600,
            epoch=77,
            nonce=NONCE,
            protocol=17,
            internal_port=4001,
            external_port=4001,
            external_ip=ipaddress.IPv4Address("198.51.100.4"),
        )

    def test_ipv6(self):
        decoded = pcp.decode(answer(external="2001:db8::9"))
        assert isinstance(decoded, pcp.MapAnswer)
        assert decoded.external_ip == ipaddress.IPv6Address("2001:db8::9")

    def test_options_are_skipped(self):
        assert pcp.decode(answer() + b"\x80\x00\x00\x03abc\x00") == pcp.decode(answer())

    def test_announcement(self):
        data = struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, 5)
        assert pcp.decode(data) == pcp.Announcement(0, 0, 5)

    def test_a_gateway_that_speaks_nat_pmp_only(self):
        decoded = pcp.decode(bytes((0, 0x80, 0, 1, 0, 0, 0, 9)))
        assert decoded.result == pcp.Result.UNSUPP_VERSION
        assert pcp.reason_of(decoded.result) is Reason.UNSUPPORTED_VERSION

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x02\x81",
            pcp.encode_announce(V4),
            answer()[:-1],
            answer()[:40],
            answer(port=0),
            answer() + b"\x80\x00\x00\x09abc\x00",
            answer() + bytes(1100),
            struct.pack("!BBBBII12x", 2, 0x82, 0, 0, 0, 5),
        ],
    )
    def test_bad_ones(self, data):
        with pytest.raises(RemoteProtocolError):
            pcp.decode(data)

    @given(st.binary(max_size=1200))
    def test_any_bytes(self, data):
        with suppress(RemoteProtocolError):
            pcp.decode(data)

    @given(st.binary(max_size=80))
    def test_any_bytes_after_a_header(self, data):
        try:
            decoded = pcp.decode(b"\x02\x81\x00\x00" + data)
        except RemoteProtocolError:
            return
        assert isinstance(decoded, pcp.MapAnswer)

    def test_every_code_has_a_reason_and_a_name(self):
        for result in range(1, 256):
            assert isinstance(pcp.reason_of(result), Reason)
            assert name_of(pcp.Result, result)
        assert pcp.reason_of(pcp.Result.NOT_AUTHORIZED) is Reason.NOT_AUTHORIZED
        assert pcp.reason_of(200) is Reason.REFUSED


class TestRetransmission:
    def test_doubles_from_a_quarter_of_a_second_and_ends(self):
        sending = Retransmission(10.0)
        now, times = 10.0, []
        while not sending.is_over:
            assert sending.take_due(now)
            assert not sending.take_due(now)
            times.append(now)
            now = sending.next_timer
        assert [round(time - 10, 2) for time in times] == [0, 0.25, 0.75, 1.75, 3.75, 7.75]
        assert len(times) == ATTEMPTS
        assert sending.next_timer == 10 + 0.25 * (2**ATTEMPTS - 1)


class TestEpoch:
    def test_the_first_one_says_nothing(self):
        assert not Epoch().update(0, 0)

    @given(
        start=st.integers(0, 2**31),
        steps=st.lists(st.floats(0, 1e5), max_size=10),
        skew=st.floats(0.95, 1.05),
    )
    def test_a_clock_that_goes_on(self, start, steps, skew):
        epoch = Epoch()
        now = 0.0
        epoch.update(now, start)
        for step in steps:
            now += step
            assert not epoch.update(now, start + round(now * skew))

    @pytest.mark.parametrize(("later", "seconds"), [(60, 3), (60, 1000), (60, 1061 + 70)])
    def test_one_that_does_not(self, later, seconds):
        epoch = Epoch()
        epoch.update(0, 1000)
        assert epoch.update(later, seconds)
        assert not epoch.update(later + 10, seconds + 10)
