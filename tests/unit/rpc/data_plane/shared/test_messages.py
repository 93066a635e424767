"""What is said about shared memory."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.nat.base.errors import RemoteProtocolError
from lattica.rpc.data_plane.shared.messages import (
    INLINE,
    INLINE_REFERENCE,
    NAME_BYTES,
    RECORD_BYTES,
    REFERENCE_BYTES,
    SECRET_BYTES,
    Answer,
    Offer,
    RecordKind,
    Reference,
    decode_answer,
    decode_offer,
    decode_records,
    decode_reference,
    encode_answer,
    encode_offer,
    encode_record,
    encode_reference,
)
from lattica.rpc.protocol.messages import Kind, PrefixReader, encode_prefix

u32 = st.integers(0, 2**32 - 1)


def test_offers_and_answers() -> None:
    offer = Offer(bytes(NAME_BYTES), bytes(SECRET_BYTES))
    assert decode_offer(encode_offer(offer)) == offer
    for answer in (None, Answer(bytes(SECRET_BYTES), 32)):
        assert decode_answer(encode_answer(answer)) == answer


@pytest.mark.parametrize("slots", [0, -1, True, 1.0, None, "1"])
def test_an_answer_takes_some_memory(slots: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_answer(msgpack.packb([1, bytes(SECRET_BYTES), slots]))
    with pytest.raises(RemoteProtocolError):
        decode_answer(msgpack.packb([1, None, slots]))


@settings(max_examples=50)
@given(st.integers(0, 2**64 - 1), u32, u32)
def test_references(link: int, slot: int, generation: int) -> None:
    if slot != INLINE:
        data = encode_reference(link, slot, generation)
        assert len(data) == REFERENCE_BYTES
        assert decode_reference(data) == Reference(link, slot, generation)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(RecordKind), u32, u32), min_size=1, max_size=5))
def test_records(records: list[tuple[RecordKind, int, int]]) -> None:
    assert list(decode_records(b"".join(encode_record(*each) for each in records))) == records


def test_bytes_that_follow_have_a_reference_of_their_own() -> None:
    assert decode_reference(INLINE_REFERENCE) is None
    with pytest.raises(RemoteProtocolError):
        decode_reference(encode_reference(1, INLINE, 0))


@settings(max_examples=60)
@given(st.binary(max_size=100))
def test_anything_else_is_the_peers_fault(data: bytes) -> None:
    for decode in (decode_offer, decode_answer, lambda each: list(decode_records(each))):
        with suppress(RemoteProtocolError):
            decode(data)


@pytest.mark.parametrize("packet", [b"", bytes(RECORD_BYTES - 1), b"\x03" + bytes(8)])
def test_packets_that_are_none(packet: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(decode_records(packet))


def test_a_message_says_that_it_shares_memory() -> None:
    data = encode_prefix(Kind.RESULT, 3, (bytes(70_000),), is_shared=True, is_last=True)
    found = PrefixReader().feed(data)
    assert found is not None
    prefix, is_last, _ = found
    assert (prefix.is_shared, prefix.is_compressed, is_last) == (True, False, True)
    with pytest.raises(RemoteProtocolError, match="no message"):
        PrefixReader().feed(bytes((Kind.CALL | 0x30, 1, 0)))
