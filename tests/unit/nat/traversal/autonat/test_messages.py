"""AutoNAT v2's messages: round trips, the wire as others write it, and bad bytes."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.pb import autonat_v2_pb2 as pb
from lattica.nat.traversal.autonat.messages import (
    MAX_ADDRS,
    MAX_CHUNK,
    MAX_DIAL_BACK,
    MAX_MESSAGE,
    DialDataRequest,
    DialDataResponse,
    DialRequest,
    DialResponse,
    DialStatus,
    Message,
    ResponseStatus,
    decode,
    decode_dial_back,
    decode_dial_back_response,
    encode,
    encode_dial_back,
    encode_dial_back_response,
)

NONCES = st.integers(0, 2**64 - 1)
ADDRS = st.one_of(
    st.none(),
    st.builds(
        lambda ip, port: Multiaddr(f"/ip4/{ip}/tcp/{port}"),
        st.ip_addresses(v=4),
        st.integers(0, 65535),
    ),
    st.builds(
        lambda ip, port: Multiaddr(f"/ip6/{ip}/udp/{port}/quic-v1/noise"),
        st.integers(0x2B << 120, (0x2C << 120) - 1).map(ipaddress.IPv6Address),
        st.integers(0, 65535),
    ),
)
DIALED = st.sampled_from([status for status in DialStatus if status is not DialStatus.UNUSED])
FAILED = st.sampled_from([status for status in ResponseStatus if status is not ResponseStatus.OK])
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(DialRequest, st.lists(ADDRS, max_size=20).map(tuple), NONCES),
    st.builds(DialDataRequest, st.integers(0, 2**32 - 1), NONCES),
    st.builds(DialDataResponse, st.binary(max_size=MAX_CHUNK)),
    st.builds(DialResponse, st.just(ResponseStatus.OK), st.integers(0, 2**32 - 1), DIALED),
    st.builds(DialResponse, FAILED),
)


class TestRoundTrip:
    @given(MESSAGES)
    def test_requests(self, message: Message) -> None:
        assert decode(encode(message)) == message

    @given(NONCES)
    def test_dial_back(self, nonce: int) -> None:
        assert decode_dial_back(encode_dial_back(nonce)) == nonce

    def test_dial_back_response(self) -> None:
        assert decode_dial_back_response(encode_dial_back_response())

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        for decoder in (decode, decode_dial_back, decode_dial_back_response):
            with suppress(RemoteProtocolError):
                decoder(data)

    def test_the_largest_messages_fit_what_others_take(self) -> None:
        """rust-libp2p takes 4,104 bytes, the others 8,192."""
        assert len(encode(DialDataResponse(bytes(MAX_CHUNK)))) <= 4104


class TestTheWire:
    """Bytes as other implementations write them, which leave out zeros."""

    def test_request(self) -> None:
        data = bytes.fromhex("0a13 0a08 04c0000201061092 11 0807060504030201")
        request = DialRequest((Multiaddr("/ip4/192.0.2.1/tcp/4242"),), 0x0102030405060708)
        assert decode(data) == request
        assert encode(request) == data

    def test_response_without_index(self) -> None:
        ok = DialResponse(ResponseStatus.OK, 0, DialStatus.OK)
        assert decode(bytes.fromhex("120608c80118c801")) == ok

    def test_response_with_nothing_in_it(self) -> None:
        assert decode(b"\x12\x00") == DialResponse(ResponseStatus.E_INTERNAL_ERROR)

    def test_zeros_that_are_left_out(self) -> None:
        assert decode(b"\x1a\x00") == DialDataRequest(0, 0)
        assert decode(b"\x22\x00") == DialDataResponse(b"")
        assert decode_dial_back(b"") == 0
        assert decode_dial_back_response(b"")

    def test_a_refusal_with_a_status_of_the_dial(self) -> None:
        """js-libp2p says there was none, go-libp2p says nothing."""
        refused = DialResponse(ResponseStatus.E_DIAL_REFUSED)
        assert decode(bytes.fromhex("12020865")) == refused
        wire = pb.DialResponse(status=pb.DialResponse.E_DIAL_REFUSED, addr_idx=3)
        assert decode(pb.Message(dial_response=wire).SerializeToString()) == refused


class TestBadMessages:
    @pytest.mark.parametrize(
        "data",
        [
            b"",  # no message in it
            b"\x0a",
            b"\x0a\x05hello",
            b"\xff" * 20,
            bytes.fromhex("120308d804"),  # response status 600
            bytes.fromhex("120608c80118d804"),  # dial status 600
            bytes.fromhex("120308c801"),  # OK without a dial status
            bytes.fromhex("120608c801189cffff"),
            b"\x12" + b"\x00" * MAX_MESSAGE,
        ],
    )
    def test_requests(self, data: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            decode(data)

    def test_too_much_dial_data(self) -> None:
        with pytest.raises(RemoteProtocolError):
            decode(encode(DialDataResponse(bytes(MAX_CHUNK + 1))))

    def test_addresses_that_do_not_parse_keep_their_number(self) -> None:
        good = Multiaddr("/ip4/192.0.2.1/tcp/1")
        wire = pb.DialRequest(addrs=[b"", b"\x04\x01", b"\xff" * 2000, good.to_bytes()], nonce=1)
        request = decode(pb.Message(dial_request=wire).SerializeToString())
        assert request == DialRequest((None, None, None, good), 1)

    def test_only_so_many_addresses_are_decoded(self) -> None:
        wire = pb.DialRequest(addrs=[b"\x04\x01\x02\x03\x04"] * (MAX_ADDRS + 5), nonce=1)
        request = decode(pb.Message(dial_request=wire).SerializeToString())
        assert isinstance(request, DialRequest)
        assert len(request.addrs) == MAX_ADDRS

    @pytest.mark.parametrize("data", [b"\x09\x01", b"\xff", bytes(MAX_DIAL_BACK + 1)])
    def test_dial_back(self, data: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            decode_dial_back(data)
        with pytest.raises(RemoteProtocolError):
            decode_dial_back_response(data)

    def test_a_dial_back_that_was_not_taken(self) -> None:
        assert not decode_dial_back_response(b"\x08\x07")
