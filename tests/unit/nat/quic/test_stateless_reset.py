"""Stateless resets (RFC 9000, section 10.3): their tokens, sizes and rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.quic.session.credit import ControlReader, encode_credit, encode_reset_token
from lattica.nat.quic.stateless_reset import BURST, SMALLEST, ResetSender, token_of

SEED, CID = b"\x01" * 32, b"\x02" * 8
LOCAL = ("0.0.0.0", 4001)


def test_the_token_survives_a_restart_and_is_of_one_node_socket_and_connection():
    token = ResetSender(SEED, LOCAL).token(CID)
    assert len(token) == 16
    assert ResetSender(SEED, LOCAL).token(CID) == token
    others = {
        ResetSender(b"\x03" * 32, LOCAL).token(CID),
        ResetSender(SEED, ("0.0.0.0", 4002)).token(CID),
        ResetSender(SEED, ("::", 4001)).token(CID),
        ResetSender(SEED, LOCAL).token(b"\x02" * 7 + b"\x03"),
    }
    assert len(others | {token}) == 5


@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_reset_is_smaller_than_what_it_answers_and_looks_like_a_packet(size, first):
    sender = ResetSender(SEED, LOCAL, lambda n: bytes((first,)) * n)
    reset = sender.answer(CID, size, now=0.0)
    if size <= SMALLEST:
        assert reset is None
        return
    assert reset is not None
    assert SMALLEST <= len(reset) < size
    assert reset[0] & 0xC0 == 0x40
    assert token_of(reset) == sender.token(CID)


def test_two_that_know_nothing_of_each_other_stop():
    sender, size, answers = ResetSender(SEED, LOCAL), 1500, 0
    while (reset := sender.answer(CID, size, now=0.0)) is not None:
        size, answers = len(reset), answers + 1
    assert answers < 30


def test_a_flood_is_not_answered_for_ever():
    sender = ResetSender(SEED, LOCAL)
    answered = sum(sender.answer(CID, 1200, now=5.0) is not None for _ in range(10 * BURST))
    assert answered == BURST
    assert sender.answer(CID, 1200, now=6.0) is not None


def test_what_is_no_short_header_is_no_reset():
    assert token_of(b"\x40" + bytes(19)) is None
    assert token_of(b"\xc0" + bytes(40)) is None
    assert token_of(b"\x10" + bytes(40)) is None


def test_a_client_tells_its_token_once():
    token = bytes(range(16))
    data = encode_credit(4, 300_000) + encode_reset_token(token) + encode_credit(8, 1)
    reader = ControlReader()
    found = [credit for i in range(len(data)) for credit in reader.feed(data[i : i + 1])]
    assert (found, reader.reset_token) == ([(4, 300_000), (8, 1)], token)
    with pytest.raises(RemoteProtocolError, match="second"):
        reader.feed(encode_reset_token(token))
