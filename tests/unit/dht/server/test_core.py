"""What a peer of the DHT answers, and what it does not take."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.kademlia.config import TableConfig
from lattica.dht.kademlia.contact import Contact, key_of
from lattica.dht.kademlia.messages import (
    MessageType,
    Record,
    Request,
    Response,
    decode_request,
    decode_response,
    encode,
)
from lattica.dht.kademlia.routing_table import RoutingTable
from lattica.dht.records.data import encode_data
from lattica.dht.records.keys import peer_key, provider_key, value_key
from lattica.dht.records.signed_value import encode_values, seal_value
from lattica.dht.server.core import Asker, ServerCore
from lattica.dht.store.records import RecordStore
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.multiaddr import Multiaddr

NOW = 1_800_000_000.0
ADDR = Multiaddr("/ip4/192.0.2.1/tcp/4001")
OWN, ME, OTHER = (Identity(bytes([n]) * 32) for n in range(1, 4))
ASKER = Asker(ME.peer_id, None)
KEY = value_key("key")
CONTENT = provider_key("content")


class Server:
    """A core, asked by bytes as peers ask it."""

    def __init__(self, known: int = 30) -> None:
        self.table = RoutingTable(key_of(OWN.peer_id.to_bytes()), TableConfig(), 0.0)
        self.contacts = [
            Contact.of(Identity(bytes([n, 1]) * 16).peer_id, [ADDR]) for n in range(known)
        ]
        for contact in self.contacts:
            self.table.answered(contact, None, 0.0)
        self.store = RecordStore()
        self.met: dict[object, Contact] = {}
        self.core = ServerCore(self.table, self.store, find_peer=self.met.get, rng=random.Random(1))

    def ask(self, request, asker=ASKER, now=NOW):
        answer = self.core.answer(decode_request(encode(request)), asker, now)
        return None if answer is None else decode_response(encode(answer), request)

    def put(self, *values, key=KEY):
        return self.ask(Request(MessageType.PUT_VALUE, key, Record(key, encode_values(values))))


def sealed(identity=ME, content=1, sequence=1, key=KEY, subkey=b""):
    return seal_value(
        identity,
        key,
        subkey,
        encode_data(content),
        sequence=sequence,
        expires=int(NOW * 1000) + 60_000,
    )


def test_nearer_peers_are_told_without_the_asker():
    server = Server()
    answer = server.ask(Request(MessageType.FIND_NODE, b"target"))
    target = key_of(b"target")
    assert [c.key for c in answer.closer] == sorted(
        (c.key for c in server.table), key=lambda key: key ^ target
    )[:20]
    asker = Asker(server.contacts[0].peer_id, None)
    answer = server.ask(
        Request(MessageType.FIND_NODE, server.contacts[0].peer_id.to_bytes()), asker
    )
    assert server.contacts[0] not in answer.closer
    assert server.ask(Request(MessageType.PING)) == Response(MessageType.PING)


def test_a_peer_that_is_only_connected_is_told_of_when_it_is_looked_for():
    server = Server()
    server.met[OTHER.peer_id] = Contact.of(OTHER.peer_id, [ADDR])
    request = Request(MessageType.FIND_NODE, OTHER.peer_id.to_bytes())
    assert server.ask(request).closer[0] == server.met[OTHER.peer_id]
    assert len(server.ask(request).closer) == 20
    # Nobody is told of itself.
    assert OTHER.peer_id not in [
        c.peer_id for c in server.ask(request, Asker(OTHER.peer_id, None)).closer
    ]


def test_a_stored_value_is_echoed_and_found():
    server = Server()
    value = sealed()
    assert server.put(value).record == Record(KEY, encode_values([value]))
    answer = server.ask(Request(MessageType.GET_VALUE, KEY))
    assert answer.record == Record(KEY, encode_values([value]))
    assert len(answer.closer) == 20
    assert server.ask(Request(MessageType.GET_VALUE, KEY, owner=OTHER.peer_id)).record is None
    assert server.ask(Request(MessageType.GET_VALUE, KEY, owner=ME.peer_id)).record is not None
    assert server.ask(Request(MessageType.GET_VALUE, value_key("other"))).record is None


def test_an_old_value_is_not_echoed_and_junk_is_the_peers_fault():
    server = Server()
    new = sealed(sequence=2)
    server.put(new)
    assert server.put(sealed(sequence=1)).record is None
    assert server.core.refused["old"] == 1
    forged = Record(KEY, b"\x0a\x04junk")
    with pytest.raises(RemoteProtocolError):
        server.ask(Request(MessageType.PUT_VALUE, KEY, forged))
    with pytest.raises(RemoteProtocolError):
        server.ask(Request(MessageType.PUT_VALUE, b"/pk/x", Record(b"/pk/x", b"value")))
    assert server.core.refused["junk"] == 2
    assert list(server.store.values) == [new]


def test_addresses_are_told_in_the_peers_own_words():
    server = Server()
    key = peer_key(ME.peer_id)
    record = Record(key, seal_record(ME, 5, [ADDR]))
    assert server.ask(Request(MessageType.PUT_VALUE, key, record)).record == record
    assert (
        server.ask(Request(MessageType.GET_VALUE, key), Asker(OTHER.peer_id, None)).record == record
    )
    with pytest.raises(RemoteProtocolError, match="another peer"):
        server.ask(Request(MessageType.PUT_VALUE, peer_key(OTHER.peer_id),
                           Record(peer_key(OTHER.peer_id), record.value)))  # fmt: skip


def test_nobody_is_a_provider_in_anothers_words():
    server = Server()
    me, other = (Contact.of(i.peer_id, [ADDR]) for i in (ME, OTHER))
    assert server.ask(Request(MessageType.ADD_PROVIDER, CONTENT, None, (other,))) is None
    assert server.ask(Request(MessageType.GET_PROVIDERS, CONTENT)).providers == ()
    server.ask(Request(MessageType.ADD_PROVIDER, CONTENT, None, (other, me)))
    answer = server.ask(Request(MessageType.GET_PROVIDERS, CONTENT), Asker(OTHER.peer_id, None))
    assert answer.providers == (me,)
    assert len(answer.closer) == 20
    assert server.core.refused["provider of another ID"] == 2


def test_many_keys_are_provided_and_withdrawn_at_once():
    server = Server()
    keys = tuple(provider_key(f"key {n}") for n in range(20))
    me = (Contact.of(ME.peer_id, [ADDR]),)
    answer = server.ask(Request(MessageType.ADD_PROVIDERS, providers=me, keys=keys))
    assert all(answer.is_done(n) for n in range(20))
    assert not answer.is_done(20)
    gone = server.ask(Request(MessageType.REMOVE_PROVIDERS, keys=(*keys[:3], CONTENT)))
    assert [gone.is_done(n) for n in range(4)] == [True, True, True, False]
    assert len(server.store.providers) == 17
    others = server.ask(
        Request(MessageType.REMOVE_PROVIDERS, keys=keys), Asker(OTHER.peer_id, None)
    )
    assert not any(others.is_done(n) for n in range(20))
    answer = server.ask(Request(MessageType.ADD_PROVIDERS, keys=keys[:3]))
    assert not any(answer.is_done(n) for n in range(3))


def test_a_key_of_providers_that_is_too_long_is_not_taken():
    server = Server()
    me = (Contact.of(ME.peer_id, [ADDR]),)
    server.ask(Request(MessageType.ADD_PROVIDER, b"k" * 81, None, me))
    assert len(server.store.providers) == 0
    assert server.core.refused["key too long"] == 1


@given(st.binary(max_size=120), st.binary(max_size=12))
@settings(max_examples=150)
def test_whatever_bytes_come_they_are_answered_or_the_peers_fault(data, key):
    server = Server(3)
    for raw in (data, b"\x12" + bytes([len(key)]) + key + data):
        try:
            request = decode_request(raw)
            answer = server.core.answer(request, ASKER, NOW)
        except RemoteProtocolError:
            continue
        if answer is not None:
            decode_response(encode(answer), request)
