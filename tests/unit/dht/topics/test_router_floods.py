"""What GossipSub's router does for a peer that says too much: no more than an honest one costs."""

from __future__ import annotations

import pytest

from lattica.dht.topics.core import mesh
from lattica.dht.topics.core.gossip import _CHECKS
from lattica.dht.topics.core.peer import Version
from lattica.dht.topics.messages import (
    Control,
    Exchanged,
    Prune,
    decode_rpc,
    encode_control,
    encode_publish,
    encode_subscriptions,
)
from lattica.dht.topics.signing import StrictSigning
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import open_record, seal_record
from tests.support.dht.topic_routers import TOPIC, Member, RouterNet


def offered(member: Member, receiver: Member) -> list[bytes]:
    """IDs of messages that a member has told another of."""
    read = [decode_rpc(rpc).control for to, rpc in member.sent if to == receiver.peer_id]
    ihaves = [ihave for control in read if control is not None for ihave in control.ihave]
    return [message_id for ihave in ihaves for message_id in ihave.ids]


def come_and_go(net: RouterNet, sender: Member, receiver: Member, times: int) -> None:
    for _ in range(times):
        for wanted in (True, False):
            net.send(sender.peer_id, receiver, encode_subscriptions([(TOPIC, wanted)]))


def test_of_many_words_on_a_topic_in_an_rpc_the_last_counts():
    net = RouterNet()
    one, other = net.member(), net.member()
    net.link(one, other)
    net.subscribe(one)
    toggles = [(TOPIC, number % 2 == 0) for number in range(4095)]
    net.send(other.peer_id, one, encode_subscriptions(toggles))
    assert [type(each).__name__ for each in one.told] == ["Subscribed"]
    assert [*one.router.topics[TOPIC].peers] == [other.peer_id]


def test_what_nobody_was_there_for_is_told_once_to_who_comes_and_goes(monkeypatch):
    net = RouterNet()
    one, other = net.member(), net.member()
    net.cut.add(frozenset((one.peer_id, other.peer_id)))
    net.link(one, other)
    for number in range(20):
        net.publish(one, bytes([number]))
    walked = 0
    latest = one.router._gossip.history.latest

    def counted(topic, since):
        nonlocal walked
        for entry in latest(topic, since):
            walked += 1
            yield entry

    monkeypatch.setattr(one.router._gossip.history, "latest", counted)
    net.now += 1
    come_and_go(net, other, one, 100)
    assert len(offered(one, other)) == 20
    # Nor is all that is kept gone through each time.
    assert walked == 0


def test_what_was_missed_is_told_once_to_who_comes_and_goes():
    net = RouterNet()
    one, other = net.member(), net.member()
    net.subscribe(one, other)
    net.link(one, other)
    for number in range(20):
        net.publish(one, bytes([number]))
    net.unlink(one, other)
    net.cut.add(frozenset((one.peer_id, other.peer_id)))
    net.link(one, other)
    come_and_go(net, other, one, 100)
    assert len(offered(one, other)) == 20


def test_what_one_brings_again_and_again_is_delivered_once_and_counts():
    net = RouterNet()
    one, other = net.member(), net.member()
    net.subscribe(one, other)
    net.link(one, other)
    signing = StrictSigning(other.peer_id, other.identity.sign)
    rpc = encode_publish(signing.sign(TOPIC.encode(), b"news", 1))
    net.send(other.peer_id, one, rpc)
    peer = one.router.peers[other.peer_id]
    before = peer.nuisance
    for _ in range(100):
        net.send(other.peer_id, one, rpc)
    assert one.delivered == [b"news"]
    assert peer.nuisance - before == 25


def test_wrong_records_of_other_peers_are_looked_at_up_to_a_limit(monkeypatch):
    net = RouterNet()
    one, other = net.member(), net.member()
    net.subscribe(one, other)
    net.link(one, other)
    one.router.peers[other.peer_id].score = 100.0
    looked = 0
    record = seal_record(other.identity, 1, ())

    def counted(data):
        nonlocal looked
        looked += 1
        return open_record(data)

    monkeypatch.setattr(mesh, "open_record", counted)
    named = tuple(Exchanged(Identity.generate().peer_id.to_bytes(), record) for _ in range(16))
    net.send(other.peer_id, one, encode_control(Control(prune=(Prune(TOPIC, named),) * 200)))
    assert looked == mesh._NAMED
    assert not one.connects


@pytest.fixture
def unchecked() -> tuple[RouterNet, Member, Member]:
    """A member that an author has told so much that not all signatures were checked, as nobody else
    is in its mesh; and another one, outside of it.
    """
    net = RouterNet()
    one, outside = net.member(), net.member()
    author = Identity.generate()
    net.subscribe(one, outside)
    one.router.add_peer(author.peer_id, Version.V12, net.now)
    net.send(author.peer_id, one, encode_subscriptions([(TOPIC, True)]))
    net.link(one, outside)
    net.send(outside.peer_id, one, encode_control(Control(prune=(Prune(TOPIC, (), 3600),))))
    signing = StrictSigning(author.peer_id, author.sign)
    for number in range(1, 4 * _CHECKS):
        message = signing.sign(TOPIC.encode(), b"", number)
        net.send(author.peer_id, one, encode_publish(message))
    return net, one, outside


def test_only_so_many_signatures_are_checked_in_a_heartbeat(unchecked, monkeypatch):
    net, one, outside = unchecked
    checked = 0
    verify = one.router._signing.verify

    def counted(claimed):
        nonlocal checked
        checked += 1
        return verify(claimed)

    monkeypatch.setattr(one.router._signing, "verify", counted)
    before = len(offered(one, outside))
    net.do(one, one.router.heartbeat(net.now))
    assert checked == _CHECKS
    # What was checked before is told of in any case.
    assert len(offered(one, outside)) - before > _CHECKS
