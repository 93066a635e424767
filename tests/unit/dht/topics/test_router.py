"""GossipSub's router: what is delivered, passed on, told, asked for and refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from lattica.dht.pb import pubsub_pb2 as pb
from lattica.dht.topics.config import GossipConfig, MeshConfig, TopicsConfig
from lattica.dht.topics.core.actions import Subscribed, Unsubscribed
from lattica.dht.topics.core.peer import Version
from lattica.dht.topics.core.router import SAMPLE, VOUCHED, Verdict
from lattica.dht.topics.messages import (
    MAX_DATA,
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
from lattica.dht.topics.signing import PREFIX
from lattica.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.multiaddr import Multiaddr
from tests.support.dht.topic_routers import TOPIC, Member, RouterNet

MESH_ONLY = TopicsConfig(mesh=MeshConfig(flood_publish=False))


def signed(identity: Identity, data: bytes, seqno: int, topic: str = TOPIC) -> bytes:
    """An RPC with a message as others write it."""
    unsigned = encode_unsigned(
        identity.peer_id.to_bytes(), data, seqno.to_bytes(8, "big"), topic.encode()
    )
    return encode_publish(encode_signed(unsigned, identity.sign(PREFIX + unsigned), b""))


def controls(member: Member, receiver: Member) -> list[Control]:
    """What a member has sent to another of control messages."""
    read = [decode_rpc(rpc).control for to, rpc in member.sent if to == receiver.peer_id]
    return [control for control in read if control is not None]


def line(net: RouterNet, count: int) -> list[Member]:
    """Members of which each knows the next only, subscribed."""
    members = [net.member() for _ in range(count)]
    net.subscribe(*members)
    for one, other in pairwise(members):
        net.link(one, other)
    net.tick()
    return members


def test_a_message_reaches_everybody_once_through_others():
    net = RouterNet()
    members = line(net, 5)
    assert net.publish(members[0], b"hello") == 1
    assert [member.delivered for member in members] == [[], *[[b"hello"]] * 4]


def test_what_nobody_has_subscribed_to_goes_nowhere_and_is_kept():
    net = RouterNet()
    one, other = net.member(), net.member()
    net.link(one, other)
    assert net.publish(one, b"early") == 0
    assert not other.delivered
    net.subscribe(other)
    assert other.delivered == [b"early"]


def test_a_publisher_need_not_subscribe():
    net = RouterNet(MESH_ONLY)
    author, *others = [net.member() for _ in range(4)]
    net.subscribe(*others)
    for other in others:
        net.link(author, other)
    assert net.publish(author, b"x") == 3
    assert [other.delivered for other in others] == [[b"x"]] * 3


def test_what_was_missed_in_a_short_disconnection_is_fetched():
    net = RouterNet()
    one, other = line(net, 2)
    net.publish(one, b"before")
    # The connection is dead before anybody knows it.
    net.cut.add(frozenset((one.peer_id, other.peer_id)))
    net.publish(one, b"lost")
    net.now += 10
    net.unlink(one, other)
    net.publish(one, b"while away")
    net.cut.clear()
    net.now += 10
    net.link(other, one)
    assert other.delivered == [b"before", b"lost", b"while away"]


def test_a_newcomer_is_not_told_of_the_past():
    net = RouterNet()
    one, other = line(net, 2)
    net.publish(one, b"old")
    newcomer = net.member()
    net.subscribe(newcomer)
    net.now += 20
    net.link(newcomer, one)
    assert other.delivered == [b"old"]
    assert newcomer.delivered == []


def test_what_others_said_in_a_fleeting_topic_is_not_told_to_who_was_away():
    net = RouterNet()
    one, other, third = line(net, 3)
    for member in (one, other, third):
        member.router.topic(TOPIC).fleeting = True
    net.unlink(other, third)
    net.publish(one, b"of one")
    net.publish(other, b"of other")
    net.now += 10
    net.link(third, other)
    assert third.delivered == []
    net.publish(one, b"now")
    assert third.delivered == [b"now"]
    # What nobody has heard is told of: its author is there.
    net.unlink(one, other)
    net.publish(one, b"alone")
    net.now += 10
    net.link(one, other)
    assert other.delivered[-1] == b"alone"


def test_gossip_reaches_those_outside_the_mesh():
    config = TopicsConfig(mesh=MeshConfig(1, 1, 1, 1, 0, flood_publish=False))
    net = RouterNet(config)
    members = [net.member() for _ in range(4)]
    net.subscribe(*members)
    for other in members[1:]:
        net.link(other, members[0])
    net.publish(members[0], b"x")
    reached = sum(map(len, (member.delivered for member in members[1:])))
    assert reached == 1
    net.tick()
    assert [member.delivered for member in members[1:]] == [[b"x"]] * 3


def test_the_mesh_stays_within_its_bounds():
    net = RouterNet(MESH_ONLY)
    members = [net.member() for _ in range(20)]
    net.subscribe(*members)
    for index, one in enumerate(members):
        for other in members[index + 1 :]:
            net.link(one, other)
    for _ in range(5):
        net.tick()
    sizes = [len(member.router.topics[TOPIC].mesh) for member in members]
    assert min(sizes) >= net.config.mesh.low
    assert max(sizes) <= net.config.mesh.high
    outbound = [
        sum(peer.outbound for peer in member.router.topics[TOPIC].mesh.values())
        for member in members[:-2]  # who has dialed nobody has nobody
    ]
    assert min(outbound) >= net.config.mesh.outbound
    for member in members:
        for peer_id in member.router.topics[TOPIC].mesh:
            assert member.peer_id in net.members[peer_id].router.topics[TOPIC].mesh


def test_whoever_leaves_is_pruned_and_not_grafted_again_at_once():
    net = RouterNet()
    one, other = line(net, 2)
    net.do(one, one.router.unsubscribe(TOPIC, net.now))
    assert not other.router.topics[TOPIC].mesh
    assert Unsubscribed(TOPIC, one.peer_id) in other.told
    net.subscribe(one)
    assert other.told[-1] == Subscribed(TOPIC, one.peer_id)
    assert not other.router.topics[TOPIC].mesh
    net.tick(net.config.mesh.unsubscribe_backoff + 2)
    assert one.peer_id in other.router.topics[TOPIC].mesh


def test_a_graft_in_the_backoff_is_refused_and_counted():
    net = RouterNet()
    one, other = line(net, 2)
    one.router.topics[TOPIC].set_backoff(other.peer_id, net.now + 60)
    one.router.topics[TOPIC].mesh.clear()
    for _ in range(10):
        net.send(other.peer_id, one, encode_control(Control(graft=(TOPIC,))))
    assert not one.router.topics[TOPIC].mesh
    assert one.router.peers[other.peer_id].score < net.config.score.graylist_threshold
    assert controls(one, other)[-1].prune[0].backoff == 60
    # And from then on nothing of it is read.
    net.send(other.peer_id, one, signed(other.identity, b"x", 1))
    assert not one.delivered
    assert one.router.counters.ignored_rpcs > 0


def test_grafts_of_topics_that_are_not_ours_have_no_answer():
    net = RouterNet()
    one, other = line(net, 2)
    sent = len(one.sent)
    net.send(other.peer_id, one, encode_control(Control(graft=("a", "b"))))
    assert len(one.sent) == sent
    assert "a" not in one.router.topics


def test_a_peer_takes_no_more_topics_than_it_may():
    net = RouterNet()
    one, other = line(net, 2)
    net.send(other.peer_id, one, encode_subscriptions([(f"t{n}", True) for n in range(4000)]))
    assert len(one.router.peers[other.peer_id].topics) == net.config.max_topics_per_peer
    assert one.router.peers[other.peer_id].breaches > 100


def test_peers_of_a_prune_are_connected_to_if_it_is_trusted():
    net = RouterNet()
    one, other = line(net, 2)
    third, liar = Identity.generate(), Identity.generate()
    record = seal_record(third, 1, [Multiaddr("/ip4/192.0.2.1/tcp/1")])
    prune = Prune(
        TOPIC,
        (
            Exchanged(third.peer_id.to_bytes(), record),
            Exchanged(liar.peer_id.to_bytes(), record),
            Exchanged(b"nobody"),
        ),
        60,
    )
    net.send(other.peer_id, one, encode_control(Control(prune=(prune,))))
    assert not one.connects
    one.router.set_app_score(other.peer_id, 10.0, net.now)
    net.send(other.peer_id, one, encode_control(Control(prune=(prune,))))
    assert [(c.peer_id, c.record) for c in one.connects] == [(third.peer_id, record)]


def test_the_surplus_is_pruned_with_others_to_connect_to():
    net = RouterNet()
    centre = net.member()
    members = [net.member() for _ in range(20)]
    net.subscribe(centre, *members)
    for member in members:
        net.link(centre, member)
    for member in members:
        net.send(member.peer_id, centre, encode_control(Control(graft=(TOPIC,))))
    net.tick()
    pruned = [prune for member in members for c in controls(centre, member) for prune in c.prune]
    assert pruned
    assert all(prune.peers and prune.backoff == 60 for prune in pruned)


def test_those_whose_addresses_are_known_are_named_before_others():
    net = RouterNet(TopicsConfig(mesh=MeshConfig(exchanged_peers=3)))
    centre = net.member()
    members = [net.member() for _ in range(12)]
    net.subscribe(centre, *members)
    for member in members:
        net.link(centre, member)
    known = members[2], members[9]
    for member in known:
        centre.records[member.peer_id] = b"where it is"
    net.do(centre, centre.router.unsubscribe(TOPIC, net.now))
    for member in members:
        said = [prune for c in controls(centre, member) for prune in c.prune]
        for prune in said:
            records = [one.record for one in prune.peers]
            count = len(known) - (member in known)
            assert records == [b"where it is"] * count + [b""] * (3 - count)
    assert any(controls(centre, member)[-1].prune for member in members)


# --- signatures ---


def test_what_is_badly_signed_is_refused_and_does_not_stand_in_for_the_real_message():
    net = RouterNet()
    one, other = line(net, 2)
    author = Identity.generate()
    real = signed(author, b"real", 7)
    forged = pb.RPC.FromString(real)
    forged.publish[0].data = b"forged"
    net.send(other.peer_id, one, forged.SerializeToString())
    assert not one.delivered
    assert one.router.peers[other.peer_id].score < 0
    net.send(other.peer_id, one, real)
    assert one.delivered == [b"real"]


@pytest.mark.parametrize("field", ["source", "seqno", "signature", "topic"])
def test_a_message_without_what_it_must_have_is_refused(field):
    net = RouterNet()
    one, other = line(net, 2)
    rpc = pb.RPC.FromString(signed(other.identity, b"x", 7))
    rpc.publish[0].ClearField(field)
    net.send(other.peer_id, one, rpc.SerializeToString())
    assert not one.delivered


def test_an_authors_first_messages_and_a_sample_are_checked_even_where_they_go_no_further():
    net = RouterNet()
    one, other = line(net, 2)
    bad = pb.RPC.FromString(signed(other.identity, b"x", 1))
    bad.publish[0].signature = bytes(64)
    net.send(other.peer_id, one, bad.SerializeToString())
    assert not one.delivered
    for number in range(VOUCHED):
        net.send(other.peer_id, one, signed(other.identity, b"x", number + 2))
    assert len(one.delivered) == VOUCHED
    for number in range(20 * SAMPLE):
        bad.publish[0].seqno = (number + 1000).to_bytes(8, "big")
        net.send(other.peer_id, one, bad.SerializeToString())
    assert one.router.counters.invalid > 1
    assert one.router.peers[other.peer_id].score < net.config.score.graylist_threshold


def test_nothing_is_passed_on_that_was_not_checked():
    """Also not later, to those who ask for it."""
    net = RouterNet()
    one, other = line(net, 2)
    one.router.peers[other.peer_id].vouched = VOUCHED
    bad = pb.RPC.FromString(signed(other.identity, b"x", 1))
    bad.publish[0].signature = bytes(64)
    number = 0
    while not one.delivered:  # until one is not in the sample
        number += 1
        bad.publish[0].seqno = number.to_bytes(8, "big")
        net.send(other.peer_id, one, bad.SerializeToString())
        one.router.peers[other.peer_id].stats.clear()
        one.router.scores.update(one.router.peers[other.peer_id], net.now)
    third = net.member()
    net.subscribe(third)
    net.link(third, one)
    message_id = other.peer_id.to_bytes() + number.to_bytes(8, "big")
    net.send(third.peer_id, one, encode_control(Control(iwant=(message_id,))))
    net.tick()
    assert not third.delivered
    net.send(other.peer_id, one, bad.SerializeToString())
    bad.publish[0].seqno = bytes(8)
    net.send(other.peer_id, one, bad.SerializeToString())
    assert not third.delivered


def test_keys_beside_the_signature_have_to_be_the_authors():
    net = RouterNet()
    one, other = line(net, 2)
    rpc = pb.RPC.FromString(signed(other.identity, b"x", 1))
    rpc.publish[0].key = other.identity.public_key_bytes
    net.send(other.peer_id, one, rpc.SerializeToString())
    assert one.delivered == [b"x"]
    rpc = pb.RPC.FromString(signed(other.identity, b"y", 2))
    rpc.publish[0].key = Identity.generate().public_key_bytes
    net.send(other.peer_id, one, rpc.SerializeToString())
    assert one.delivered == [b"x"]


def test_own_messages_that_come_back_are_not_delivered():
    net = RouterNet()
    one, other = line(net, 2)
    net.send(other.peer_id, one, signed(one.identity, b"echo", 99))
    assert not one.delivered


# --- validators ---


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_verdict_decides_what_becomes_of_a_message(verdict):
    net = RouterNet()
    first, middle, last = line(net, 3)
    middle.router.topic(TOPIC).validating = True
    net.publish(first, b"x")
    assert not middle.delivered
    assert not last.delivered
    net.do(middle, middle.router.validated(middle.validating[0].id, verdict, net.now))
    accepted = [b"x"] if verdict is Verdict.ACCEPT else []
    assert middle.delivered == last.delivered == accepted
    score = middle.router.peers[first.peer_id].score
    assert (score < 0) is (verdict is Verdict.REJECT)


# --- IHAVE, IWANT, IDONTWANT ---


def ids(count: int, start: int = 0) -> tuple[bytes, ...]:
    return tuple(number.to_bytes(8, "big") for number in range(start, start + count))


def test_only_so_much_is_asked_of_a_peer_in_a_heartbeat():
    net = RouterNet(replace(TopicsConfig(), gossip=GossipConfig(ids=100, ihaves=3)))
    one, other = line(net, 2)
    for start in range(0, 1000, 50):
        ihave = Ihave(TOPIC, ids(50, start))
        net.send(other.peer_id, one, encode_control(Control(ihave=(ihave,))))
    asked = [c.iwant for c in controls(one, other) if c.iwant]
    assert sum(map(len, asked)) == 100


def test_a_flood_of_ihaves_is_not_read_and_counts_against_a_peer():
    net = RouterNet()
    one, other = line(net, 2)
    for start in range(200):
        ihave = Ihave(TOPIC, ids(10, 10 * start))
        net.send(other.peer_id, one, encode_control(Control(ihave=(ihave,))))
    asked = [c.iwant for c in controls(one, other) if c.iwant]
    assert len(asked) == net.config.gossip.ihaves
    assert one.router.peers[other.peer_id].score < net.config.score.gossip_threshold


def test_broken_promises_count_against_a_peer():
    net = RouterNet()
    one, other = line(net, 2)
    for start in range(12):
        ihave = Ihave(TOPIC, ids(10, 10 * start))
        net.send(other.peer_id, one, encode_control(Control(ihave=(ihave,))))
        net.tick()
    for _ in range(4):
        net.tick()
    assert one.router.peers[other.peer_id].breaches > 8
    assert one.router.peers[other.peer_id].score < 0


def test_whoever_offers_what_it_never_sends_holds_up_others_once():
    """It offered again just before each offer of others, and nobody else was ever asked."""
    net = RouterNet()
    one, enemy = line(net, 2)
    honest = net.member()
    net.link(one, honest)
    ihave = encode_control(Control(ihave=(Ihave(TOPIC, ids(1)),)))
    for _ in range(3):
        net.send(enemy.peer_id, one, ihave)
        net.now += 0.1
        net.send(honest.peer_id, one, ihave)
        net.now += 0.9
    assert any(control.iwant for control in controls(one, honest))
    for _ in range(3):
        net.tick()
    assert one.router.peers[enemy.peer_id].breaches > 0.9
    assert one.router.peers[honest.peer_id].breaches > 0.9


def test_a_message_is_sent_to_a_peer_that_asks_a_few_times():
    net = RouterNet()
    one, other = line(net, 2)
    net.publish(one, b"x")
    message_id = one.peer_id.to_bytes() + ((1 << 32) + 1).to_bytes(8, "big")
    sent = len(one.sent)
    for _ in range(10):
        net.send(other.peer_id, one, encode_control(Control(iwant=(message_id, message_id))))
    assert len(one.sent) - sent == net.config.gossip.retransmissions


def test_answers_to_a_peer_are_bounded_in_bytes():
    net = RouterNet(replace(TopicsConfig(), gossip=GossipConfig(answer_bytes=10_000)))
    one, other = line(net, 2)
    wanted = []
    for number in range(20):
        net.publish(one, bytes(1500))
        wanted.append(one.peer_id.to_bytes() + ((1 << 32) + number + 1).to_bytes(8, "big"))
    sent = len(one.sent)
    net.send(other.peer_id, one, encode_control(Control(iwant=tuple(wanted))))
    assert sum(len(rpc) for _, rpc in one.sent[sent:]) <= 10_000


def test_what_a_peer_has_already_is_not_sent_to_it():
    net = RouterNet(MESH_ONLY)
    first, middle, last = line(net, 3)
    other = Identity.generate()
    message_id = other.peer_id.to_bytes() + (5).to_bytes(8, "big")
    net.send(last.peer_id, middle, encode_control(Control(idontwant=(message_id,))))
    net.send(first.peer_id, middle, signed(other, b"x", 5))
    assert middle.delivered == [b"x"]
    assert not last.delivered


def test_large_messages_are_announced_before_they_are_passed_on():
    net = RouterNet(MESH_ONLY)
    first, middle, last = line(net, 3)
    net.publish(first, bytes(2000))
    assert any(c.idontwant for c in controls(middle, last))
    assert not any(c.idontwant for c in controls(middle, first))
    net.publish(first, bytes(10))
    assert sum(bool(c.idontwant) for c in controls(middle, last)) == 1


def test_older_peers_are_told_nothing_that_they_do_not_know():
    net = RouterNet(MESH_ONLY)
    first, middle, last = [net.member() for _ in range(3)]
    net.subscribe(first, middle, last)
    net.link(first, middle)
    net.link(middle, last, Version.V10)
    net.tick()
    net.publish(first, bytes(2000))
    net.do(middle, middle.router.unsubscribe(TOPIC, net.now))
    said = controls(middle, last)
    assert not any(c.idontwant for c in said)
    assert [p for c in said for p in c.prune] == [Prune(TOPIC)]


def test_idontwants_are_bounded():
    net = RouterNet()
    one, other = line(net, 2)
    for start in range(0, 100_000, 5000):
        net.send(other.peer_id, one, encode_control(Control(idontwant=ids(5000, start))))
    peer = one.router.peers[other.peer_id]
    assert len(peer.unwanted) == net.config.gossip.idontwants


# --- bounds ---


def test_the_history_is_bounded_in_bytes():
    net = RouterNet(replace(TopicsConfig(), gossip=GossipConfig(history_bytes=50_000)))
    one, _ = line(net, 2)
    for _ in range(100):
        net.publish(one, bytes(1000))
    assert one.router._gossip.history.size <= 50_000
    assert 40 <= len(one.router._gossip.history) <= 50


def test_the_seen_cache_is_bounded_and_remembers_the_latest():
    net = RouterNet(replace(TopicsConfig(), gossip=GossipConfig(seen_messages=100)))
    one, other = line(net, 2)
    for number in range(1000):
        net.send(other.peer_id, one, signed(other.identity, b"x", number))
    assert len(one.router._seen) <= 100
    net.send(other.peer_id, one, signed(other.identity, b"x", 999))
    assert len(one.delivered) == 1000


def test_what_is_repeated_all_the_time_is_never_new():
    """go-libp2p-pubsub, issue 502: it was delivered and passed on every two minutes."""
    net = RouterNet()
    one, other, third = line(net, 3)
    rpc = signed(one.identity, b"x", 1)
    for _ in range(30):
        net.send(one.peer_id, other, rpc)
        # Others come meanwhile, so that what is old is forgotten.
        net.publish(one, b"another")
        net.now += 60
    assert other.delivered.count(b"x") == third.delivered.count(b"x") == 1
    assert len(other.router._seen) <= 10


def test_messages_are_no_larger_than_an_rpc():
    net = RouterNet()
    one, other = line(net, 2)
    net.publish(one, bytes(MAX_DATA))
    assert len(other.delivered) == 1
    with pytest.raises(LocalProtocolError, match="at most"):
        net.publish(one, bytes(MAX_DATA + 1))


@pytest.mark.parametrize("name", ["", "x" * 1025, "\ud800", 7])
def test_what_can_be_no_topic_is_refused(name):
    with pytest.raises(LocalProtocolError):
        RouterNet().member().router.topic(name)


def test_what_is_no_rpc_is_the_peers_fault():
    net = RouterNet()
    one, other = line(net, 2)
    for data in (b"\xff", encode_control(Control(ihave=(Ihave(TOPIC, (bytes(300),)),)))):
        with pytest.raises(RemoteProtocolError):
            one.router.receive(other.peer_id, data, net.now)
    for _ in range(5):
        one.router.breach(other.peer_id, net.now)
    assert one.router.peers[other.peer_id].score < net.config.score.graylist_threshold


def test_a_bad_name_outlives_a_connection_and_a_good_one_does_not():
    net = RouterNet()
    one, other = line(net, 2)
    one.router.breach(other.peer_id, net.now)
    one.router.breach(other.peer_id, net.now)
    bad = one.router.peers[other.peer_id].score
    assert bad < 0
    net.unlink(one, other)
    net.link(one, other)
    assert one.router.peers[other.peer_id].score == pytest.approx(bad, abs=1)


# --- what it costs to read ---


def test_grafts_that_are_repeated_in_an_rpc_count_against_a_peer():
    net = RouterNet()
    one, other = line(net, 2)
    for _ in range(10):
        net.send(other.peer_id, one, encode_control(Control(graft=(TOPIC,) * 1000)))
    assert one.router.peers[other.peer_id].score < net.config.score.graylist_threshold


def test_what_carries_nothing_is_counted_and_messages_are_not():
    net = RouterNet()
    one, other = line(net, 2)
    peer = one.router.peers[other.peer_id]
    peer.nuisance = 0.0
    for number in range(100):
        net.send(other.peer_id, one, signed(other.identity, b"x", number))
    assert peer.nuisance == 0
    net.send(other.peer_id, one, encode_control(Control(iwant=ids(3200))))
    assert peer.nuisance >= 100
    before = peer.nuisance
    forged = pb.RPC.FromString(signed(Identity.generate(), b"x", 1))
    forged.publish[0].data = b"y"
    net.send(other.peer_id, one, forged.SerializeToString())
    assert peer.nuisance >= before + 8
    for _ in range(10):
        one.router.breach(other.peer_id, net.now)
    before = peer.nuisance
    net.send(other.peer_id, one, signed(other.identity, b"x", 1000))
    assert peer.nuisance == before + 1


def test_what_says_nothing_or_is_for_nobody_counts_too():
    net = RouterNet()
    one, other = line(net, 2)
    peer = one.router.peers[other.peer_id]
    peer.nuisance = 0.0
    for _ in range(100):
        net.send(other.peer_id, one, b"")
    assert peer.nuisance == 100
    elsewhere = pb.RPC(publish=[pb.Message(topic=b"elsewhere")]).SerializeToString()
    for _ in range(100):
        net.send(other.peer_id, one, elsewhere)
    assert peer.nuisance == 125
