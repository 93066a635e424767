"""Bitswap's messages, and the blocks that are wanted."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.content.bitswap.messages import (
    MAX_WANTS,
    Message,
    Want,
    decode,
    encode,
    own_cid,
)
from lattica.content.bitswap.wanted import MAX_PEERS, Wanted
from lattica.content.manifest.cid import Cid
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId

CIDS = st.binary(min_size=1, max_size=128)
WANTS = st.builds(Want, CIDS, st.booleans(), st.booleans(), st.booleans())
MESSAGES = st.builds(
    Message,
    st.lists(WANTS, max_size=5).map(tuple),
    st.booleans(),
    st.lists(st.binary(max_size=50), max_size=3).map(tuple),
    st.lists(CIDS, max_size=5).map(tuple),
    st.lists(CIDS, max_size=5).map(tuple),
)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


@given(MESSAGES)
def test_what_is_written_is_read(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_anything_is_a_message_or_refused(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        decode(data)


def test_known_bytes() -> None:
    # From the specification's field numbers: an entry of a want-have with send_dont_have.
    cid = bytes(Cid.of(b"hello"))
    entry = b"\x0a\x24" + cid + b"\x10\x01" + b"\x20\x01" + b"\x28\x01"
    wire = b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
    message = Message(wants=(Want(cid, have_only=True, send_dont_have=True),))
    assert encode(message) == wire
    block = b"\x1a\x0d" + b"\x0a\x04\x01\x55\x12\x20" + b"\x12\x05hello"
    assert encode(Message(blocks=(b"hello",))) == block
    presence = b"\x22\x28" + b"\x0a\x24" + cid + b"\x10\x01"
    assert encode(Message(dont_haves=(cid,))) == presence


def test_limits() -> None:
    many = Message(haves=(b"x",) * (MAX_WANTS + 1))
    with pytest.raises(RemoteProtocolError, match="more than 1024"):
        decode(encode(many))
    with pytest.raises(RemoteProtocolError, match="content id of 129 bytes"):
        decode(encode(Message(wants=(Want(b"x" * 129),))))


def test_blocks_of_other_forms_are_left_out() -> None:
    dag_pb = b"\x1a\x0c" + b"\x0a\x04\x01\x70\x12\x20" + b"\x12\x04data"
    assert decode(dag_pb).blocks == ()
    assert own_cid(b"\x12\x20" + bytes(32)) is None


def test_wants_wait_for_their_block() -> None:
    wanted = Wanted()
    cid, other = Cid.of(b"a"), Cid.of(b"b")
    wanted.note(peer(1), cid, Want(bytes(cid)))
    wanted.note(peer(2), cid, Want(bytes(cid), have_only=True))
    wanted.note(peer(2), other, Want(bytes(other)))
    wanted.forget(peer(2), other)
    assert sorted(wanted.take(cid), key=str) == sorted([(peer(1), False), (peer(2), True)], key=str)
    assert wanted.take(cid) == []
    wanted.note(peer(3), cid, Want(bytes(cid)))
    wanted.forget(peer(3))
    assert wanted.take(cid) == []


def test_what_strangers_want_is_bounded() -> None:
    wanted = Wanted()
    cids = [Cid.of(b"%d" % number) for number in range(MAX_WANTS + 1)]
    for cid in cids:
        wanted.note(peer(0), cid, Want(bytes(cid)))
    assert wanted.take(cids[0]) == []
    assert wanted.take(cids[-1]) == [(peer(0), False)]
    for number in range(1, MAX_PEERS + 1):
        wanted.note(peer(number), cids[0], Want(bytes(cids[0])))
    assert wanted.take(cids[1]) == []
    assert len(wanted.take(cids[0])) == MAX_PEERS
