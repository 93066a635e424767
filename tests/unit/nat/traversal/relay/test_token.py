"""Tokens of a relay: who signs them, what damages them, and how people pass them on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import AddressError, LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.leaving import decode_leaving, encode_leaving
from lattica.nat.traversal.relay.messages import (
    MAX_TOKEN,
    Connect,
    Reserve,
    decode_hop,
    encode,
)
from lattica.nat.traversal.relay.token import (
    Token,
    new_id,
    open_token,
    parse_token,
    seal_token,
    token_text,
)

RELAY, PEER = Identity.generate(), Identity.generate()
TOKEN = Token(RELAY.peer_id, PEER.peer_id, "00112233aabbccdd", 2_000_000_000, 5, 6, 7)


@given(st.builds(
    replace, st.just(TOKEN),
    id=st.binary(min_size=8, max_size=8).map(bytes.hex),
    not_after=st.integers(0, 2**64 - 1), rate=st.integers(0, 2**64 - 1),
    month=st.integers(0, 2**64 - 1), circuits=st.integers(0, 2**32 - 1),
))  # fmt: skip
def test_round_trip(token):
    data = seal_token(RELAY, token)
    assert len(data) <= MAX_TOKEN
    assert open_token(data) == token
    assert parse_token(token_text(data)) == data
    for request in (Reserve(data), Connect(PEER.peer_id, data)):
        assert decode_hop(encode(request)) == request


def test_nobody_signs_for_another_relay():
    with pytest.raises(LocalProtocolError):
        seal_token(PEER, TOKEN)


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_token_is_none(place, change):
    data = bytearray(seal_token(RELAY, TOKEN))
    data[place % len(data)] ^= change
    with pytest.raises(RemoteProtocolError):
        open_token(bytes(data))


@pytest.mark.parametrize(
    "text", ["", "lrt1-", "lrt1-AAAA", "AAAA", "lrt1-\N{SNOWMAN}", "lrt1-" + "A" * 9999]
)
def test_a_text_that_is_none_is_refused_and_not_quoted(text):
    with pytest.raises(AddressError) as caught:
        parse_token(text)
    assert "AAAA" not in str(caught.value)


def test_a_token_longer_than_any_is_refused():
    with pytest.raises(RemoteProtocolError):
        decode_hop(encode(Reserve(bytes(MAX_TOKEN + 1))))


def test_a_client_shows_each_relay_its_own():
    other = Identity.generate()
    mine = seal_token(RELAY, TOKEN)
    config = RelayClientConfig(tokens=(token_text(mine),))
    assert config.token_for(RELAY.peer_id) == mine
    assert config.token_for(other.peer_id) == b""
    assert new_id() != new_id()


@given(st.binary(max_size=8))
def test_leaving(data):
    assert decode_leaving(encode_leaving(30.9)) == 30
    assert decode_leaving(encode_leaving(1e300)) == 2**32 - 1
    if len(data) != 4:
        with pytest.raises(RemoteProtocolError):
            decode_leaving(data)
