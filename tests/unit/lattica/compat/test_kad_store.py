"""What a node keeps for nodes of the original: bounded, and no subkey is lost."""

from __future__ import annotations

import math

import pytest

from lattica.compat.kad.store import MAX_OF_PEER, MAX_PROVIDERS, PROVIDER_TTL, OriginalStore
from lattica.compat.kad.values import (
    SubkeyIndex,
    TimedValue,
    decode_index,
    decode_value,
    encode_index,
    encode_value,
    put_message,
)
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import MessageType, decode_request
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity

ONE, OTHER = (Identity.generate().peer_id for _ in range(2))
NOW = 1_800_000_000.0


def value(data: bytes, lasts: float = 60.0) -> bytes:
    return encode_value(TimedValue(data, NOW + lasts))


def index(*names: str, lasts: float = 60.0) -> bytes:
    return encode_index(SubkeyIndex(names, NOW + lasts))


def test_the_value_that_lasts_longest_stays() -> None:
    store = OriginalStore()
    assert store.put(b"k", value(b"old"), ONE, NOW)
    assert store.put(b"k", value(b"new", 70), OTHER, NOW)
    assert not store.put(b"k", value(b"old"), ONE, NOW)
    assert store.get(b"k", NOW) == value(b"new", 70)
    assert store.get(b"k", NOW + 70) is None
    assert store.put(b"k", encode_value(TimedValue(b"x", NOW + 75)), ONE, NOW + 71)


def test_concurrent_indices_become_one() -> None:
    store = OriginalStore()
    store.put(b"k#index", index("a", "b"), ONE, NOW)
    store.put(b"k#index", index("b", "c", lasts=50), OTHER, NOW)
    kept = store.get(b"k#index", NOW)
    assert kept is not None
    assert decode_index(kept) == SubkeyIndex(("a", "b", "c"), NOW + 60)


def test_one_peer_cannot_fill_it() -> None:
    store = OriginalStore()
    for number in range(MAX_OF_PEER):
        assert store.put(b"%d" % number, value(b""), ONE, NOW)
    assert not store.put(b"more", value(b""), ONE, NOW)
    assert store.put(b"other", value(b""), OTHER, NOW)
    assert store.put(b"later", encode_value(TimedValue(b"", NOW + 99)), ONE, NOW + 61)


def test_providers() -> None:
    store = OriginalStore()
    for number in range(MAX_OF_PEER + 1):
        store.provide(b"%d" % number, Contact.of(ONE), NOW)
    store.provide(b"0", Contact.of(OTHER), NOW)
    assert {each.peer_id for each in store.providers(b"0", NOW)} == {ONE, OTHER}
    assert store.providers(b"%d" % MAX_OF_PEER, NOW) == ()
    store.withdraw(b"0", ONE)
    assert [each.peer_id for each in store.providers(b"0", NOW)] == [OTHER]
    assert store.providers(b"0", NOW + PROVIDER_TTL) == ()
    assert store.provided_by(OTHER) == [b"0"]


def test_who_has_provided_for_too_long_makes_room() -> None:
    store = OriginalStore()
    for _ in range(MAX_PROVIDERS):
        store.provide(b"k", Contact.of(Identity.generate().peer_id), NOW)
    store.provide(b"k", Contact.of(ONE), NOW)
    assert store.provided_by(ONE) == []
    store.provide(b"k", Contact.of(ONE), NOW + PROVIDER_TTL)
    assert [each.peer_id for each in store.providers(b"k", NOW + PROVIDER_TTL)] == [ONE]


@pytest.mark.parametrize("end", [math.nan, math.inf, -1.0, 1e12])
def test_a_record_ends_at_some_time(end: float) -> None:
    for data, decode in (
        (encode_value(TimedValue(b"", end)), decode_value),
        (encode_index(SubkeyIndex((), end)), decode_index),
    ):
        with pytest.raises(RemoteProtocolError):
            decode(data)


def test_what_is_put_is_a_request_with_its_publisher() -> None:
    data = put_message(b"key", b"value", ONE.to_bytes(), 60.5)
    request = decode_request(data)
    assert request.type is MessageType.PUT_VALUE
    assert request.record is not None
    assert (request.key, request.record.value) == (b"key", b"value")
    assert b"\xd2\x29" + bytes([len(ONE.to_bytes())]) + ONE.to_bytes() in data
    assert data.endswith(b"\xc8\x30\x3c")
