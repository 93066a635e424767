"""Topics: RPCs are what they were once read, any split and order is survived, and what waits is
kept in order."""

from __future__ import annotations

import random
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.dht.topics.messages import (
    MAX_ID,
    MAX_JOINED,
    MAX_RPC,
    Control,
    Exchanged,
    Ihave,
    Prune,
    decode_rpc,
    encode_control,
    encode_publish,
    encode_signed,
    encode_subscriptions,
    encode_unsigned,
)
from lattica.dht.topics.service.outbox import Outbox
from lattica.dht.topics.signing import Authors, StrictSigning, read_message
from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.wire import LengthPrefixed
from tests.support.dht.topic_routers import TOPIC, RouterNet

topics = st.text(st.characters(codec="utf-8"), max_size=40)
ids = st.lists(st.binary(max_size=MAX_ID), max_size=5).map(tuple)
controls = st.builds(
    Control,
    st.lists(st.builds(Ihave, topics, ids), max_size=3).map(tuple),
    ids,
    st.lists(topics, max_size=3).map(tuple),
    st.lists(
        st.builds(
            Prune,
            topics,
            st.lists(st.builds(Exchanged, st.binary(), st.binary()), max_size=3).map(tuple),
            st.none() | st.integers(0, 2**64 - 1),
        ),
        max_size=3,
    ).map(tuple),
    ids,
)


@given(controls)
def test_control_messages_are_what_they_were(control):
    assert decode_rpc(encode_control(control)).control == control


@given(st.lists(st.tuples(topics, st.booleans()), max_size=5))
def test_subscriptions_are_what_they_were(changes):
    assert list(decode_rpc(encode_subscriptions(changes)).subscriptions) == changes


@settings(max_examples=50)
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), topics.filter(bool), st.booleans())
def test_what_was_signed_is_read_and_verified_and_nothing_else_is(data, seqno, topic, with_key):
    author = Identity.generate()
    signing = StrictSigning(author.peer_id, author.sign)
    raw = signing.sign(topic.encode(), data, seqno)
    if with_key:
        unsigned = encode_unsigned(
            author.peer_id.to_bytes(), data, seqno.to_bytes(8, "big"), topic.encode()
        )
        raw = encode_signed(
            unsigned, author.sign(b"libp2p-pubsub:" + unsigned), author.public_key_bytes
        )
    (message,) = decode_rpc(encode_publish(raw)).publish
    claimed = read_message(message, author.peer_id, Authors())
    assert (claimed.message.data, claimed.message.seqno) == (data, seqno)
    assert claimed.id == claimed.message.id
    assert signing.verify(claimed)
    message.data = data + b"!"
    assert not signing.verify(read_message(message, author.peer_id, Authors()))


@given(
    st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=2000)), max_size=40),
    st.integers(1, 4000),
)
def test_what_waits_for_a_peer_comes_in_order(said, chunk):
    outbox = Outbox(10**9)
    sent_control, sent_messages = [], []
    for is_control, data in said:
        if is_control:
            rpc = encode_control(Control(iwant=(data[:MAX_ID],)))
            outbox.control(rpc)
            sent_control.append(data[:MAX_ID])
        else:
            outbox.offer(encode_publish(encode_unsigned(b"a", data, b"b", b"c")), own=False)
            sent_messages.append(data)
    decoder = LengthPrefixed(MAX_RPC)
    stream = b""
    while outbox:
        stream += outbox.take()
    assert outbox.size == 0
    got_control: list[bytes] = []
    got_messages: list[bytes] = []
    for at in range(0, len(stream), chunk):
        for rpc in decoder.feed(stream[at : at + chunk]):
            assert len(rpc) <= MAX_JOINED
            read = decode_rpc(rpc)
            if read.control is not None:
                got_control += read.control.iwant
            got_messages += [message.data for message in read.publish]
    assert got_control == sent_control
    assert got_messages == sent_messages


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.lists(st.binary(max_size=60), max_size=10))
def test_nothing_but_remote_protocol_error_comes_of_bytes(seed, rubbish):
    rng = random.Random(seed)
    net = RouterNet()
    one, other = net.member(), net.member()
    net.subscribe(one)
    net.link(one, other)
    for data in rubbish:
        rpc = bytearray(
            encode_control(Control((Ihave(TOPIC, (data,)),), (data,), (TOPIC,), (Prune(TOPIC),)))
        )
        for _ in range(rng.randrange(4)):
            rpc[rng.randrange(len(rpc))] = rng.randrange(256)
        with suppress(RemoteProtocolError):
            net.send(other.peer_id, one, bytes(rpc))
        net.tick()
    assert set(one.router.topics) == {TOPIC}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_members_that_come_and_go_hear_everything_while_they_are_connected(seed):
    """Whatever is published while two members are linked by some path reaches both."""
    rng = random.Random(seed)
    net = RouterNet()
    members = [net.member() for _ in range(6)]
    net.subscribe(*members)
    for index, member in enumerate(members[1:]):
        net.link(member, members[rng.randrange(index + 1)])
    said = []
    for number in range(30):
        match rng.randrange(4):
            case 0:
                one, other = rng.sample(members, 2)
                if other.peer_id not in one.router.peers:
                    net.link(one, other)
            case 1:
                net.tick()
            case _:
                data = bytes([number])
                author = rng.choice(members)
                net.publish(author, data)
                said.append((author, data))
    for _ in range(3):
        net.tick()
    for member in members:
        expected = sorted(data for author, data in said if author is not member)
        assert sorted(member.delivered) == expected
