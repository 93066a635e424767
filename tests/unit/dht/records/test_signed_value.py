"""Signed values and keys: what is written is read again, and nothing else passes for it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.pb import records_pb2 as pb
from lattica.dht.records import signed_value
from lattica.dht.records.data import MAX_DATA, decode_data, encode_data
from lattica.dht.records.keys import (
    content_key,
    key_bytes,
    peer_key,
    provider_key,
    value_key,
)
from lattica.dht.records.plain import STANDARD, check_plain
from lattica.dht.records.signed_value import (
    SignedValue,
    decode_envelopes,
    encode_values,
    open_value,
    open_values,
    seal_value,
    take_fitting,
)
from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.multiaddr import Multiaddr

ME, OTHER = (Identity(bytes([n]) * 32) for n in (1, 2))
KEY = value_key("models/llama")


def sealed(identity=ME, key=KEY, subkey=b"", data=b"\x01", sequence=1, expires=1_000):
    return seal_value(identity, key, subkey, data, sequence=sequence, expires=expires)


def read_record(record, known=None):
    return open_values(decode_envelopes(record), KEY, known)


@given(
    st.text(max_size=20).map(str.encode),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(-100, 100),
)
@settings(max_examples=30)
def test_a_value_is_read_as_it_was_written(subkey, sequence, expires, content):
    data = encode_data(content)
    value = sealed(subkey=subkey, data=data, sequence=sequence, expires=expires)
    assert open_value(value.envelope, KEY) == value
    assert value.owner == ME.peer_id


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_junk_is_refused_and_raises_nothing_else(junk):
    with contextlib.suppress(RemoteProtocolError):
        open_value(junk, KEY)
    with contextlib.suppress(RemoteProtocolError):
        read_record(junk)


def test_a_changed_or_moved_value_is_not_taken():
    value = sealed()
    for at in range(0, len(value.envelope), 7):
        changed = bytearray(value.envelope)
        changed[at] ^= 1
        with pytest.raises(RemoteProtocolError):
            open_value(bytes(changed), KEY)
    with pytest.raises(RemoteProtocolError, match="another key"):
        open_value(value.envelope, value_key("models/other"))


def test_a_key_of_a_peer_is_written_by_nobody_else():
    key = value_key(f"/p2p/{ME.peer_id}/status")
    assert open_value(sealed(key=key).envelope, key).owner == ME.peer_id
    with pytest.raises(LocalProtocolError, match=f"only {ME.peer_id} can write"):
        sealed(OTHER, key)
    # Somebody who does not check what it signs:
    from lattica.dht.records.signed_value import DOMAIN, PAYLOAD_TYPE
    from lattica.nat.base.keys.envelope import seal_envelope

    payload = pb.Value(key=key, data=b"\x01", sequence=9, expires=9).SerializeToString()
    with pytest.raises(RemoteProtocolError, match="somebody else"):
        open_value(seal_envelope(OTHER, DOMAIN, PAYLOAD_TYPE, payload), key)


@pytest.mark.parametrize("key", ["/p2p/nobody/x", f"/p2p/{ME.peer_id}", "/p2p//x", b"/p2p/\xff/x"])
def test_a_key_that_begins_as_a_peers_and_is_none_is_refused(key):
    with pytest.raises(LocalProtocolError):
        value_key(key)


@pytest.mark.parametrize("key", ["", b"", 5, None, "k" * 257, "\ud800", bytearray(b"k")])
def test_keys_are_text_or_bytes_of_a_bounded_length(key):
    with pytest.raises(LocalProtocolError):
        key_bytes(key)


def test_a_record_has_one_value_for_a_place_the_newest_and_counts_junk():
    old, new, other = sealed(), sealed(sequence=2), sealed(OTHER)
    record = encode_values([new, old, other])
    values, junk = read_record(record)
    assert set(values) == {new, other}
    assert junk == 1
    message = pb.Values(envelopes=[b"junk", new.envelope])
    assert read_record(message.SerializeToString()) == ((new,), 1)


def test_what_was_checked_is_not_checked_again_and_all_else_is(monkeypatch):
    known, other = sealed(), sealed(OTHER)
    opened = []

    def open_it(envelope: bytes, key: bytes) -> SignedValue:
        opened.append(envelope)
        return open_value(envelope, key)

    monkeypatch.setattr(signed_value, "open_value", open_it)
    forged = known.envelope[:-1] + bytes([known.envelope[-1] ^ 1])
    record = pb.Values(envelopes=[known.envelope, other.envelope, forged]).SerializeToString()
    assert read_record(record, {known.envelope: known}) == ((known, other), 1)
    assert opened == [other.envelope, forged]


def test_of_two_values_with_one_sequence_all_take_the_same():
    one, two = sealed(data=b"\x01"), sealed(data=b"\x02")
    assert one.supersedes(two) != two.supersedes(one)


def test_as_many_values_are_taken_as_a_record_has_room_for():
    values = [sealed(subkey=bytes([n]), data=encode_data(b"x" * 20_000)) for n in range(5)]
    taken = take_fitting(values)
    assert taken == values[:3]
    assert len(read_record(encode_values(taken))[0]) == 3


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)  # fmt: skip


@given(PLAIN)
@settings(max_examples=50)
def test_plain_data_comes_back_as_it_was(value):
    assert decode_data(encode_data(value)) == value


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, {(1, 2): 3}, "x" * (MAX_DATA + 1)])
def test_what_is_not_plain_or_too_large_is_the_callers_mistake(value):
    with pytest.raises(LocalProtocolError):
        encode_data(value)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xd4\x05x", b"\x81\x80\x01", b"\x01\x02"])
def test_what_is_no_plain_msgpack_is_the_peers_mistake(data):
    with pytest.raises(RemoteProtocolError):
        decode_data(data)


def test_providers_are_under_multihashes():
    cid = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    multihash = provider_key(cid)
    assert multihash[:2] == b"\x12\x20"
    assert len(multihash) == 34
    assert provider_key(b"\x01\x55" + multihash) == multihash == provider_key(multihash)
    assert provider_key("gpu/a100") == provider_key(b"gpu/a100")
    assert provider_key("gpu/a100") != provider_key("gpu/h100")


def test_records_of_peers_and_of_content_are_checked_by_their_keys():
    envelope = seal_record(ME, 7, [Multiaddr("/ip4/192.0.2.1/tcp/4001")])
    record = check_plain(STANDARD, peer_key(ME.peer_id), envelope)
    assert (record.owner, record.sequence) == (ME.peer_id, 7)
    assert check_plain(STANDARD, content_key(b"small"), b"small").owner is None
    for key, value in (
        (peer_key(OTHER.peer_id), envelope),
        (peer_key(ME.peer_id), envelope[:-1] + b"\x00"),
        (b"/lattica-peer/nobody", envelope),
        (content_key(b"small"), b"other"),
        (content_key(b"x" * 5000), b"x" * 5000),
        (b"/pk/anything", b"value"),
        (content_key(b"x" * 40_000), b"x" * 40_000),
    ):
        with pytest.raises(RemoteProtocolError):
            check_plain(STANDARD, key, value)
