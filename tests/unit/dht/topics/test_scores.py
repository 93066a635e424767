"""What peers are worth: each of P1 to P7 by itself, what fades, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lattica.dht.topics.config import MeshConfig, ScoreConfig, TopicsConfig
from lattica.dht.topics.core.peer import PeerState, TopicState, Version
from lattica.dht.topics.core.scores import Scores
from lattica.errors import ConfigError
from lattica.nat.base.keys.peer_id import PeerId
from tests.support.dht.topic_routers import TOPIC, Member, RouterNet

CONFIG = ScoreConfig()


def some_peer(number: int, network: str | None = None) -> PeerState:
    peer_id = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
    return PeerState(peer_id, Version.V12, False, network)


class Judged:
    """Scores of peers in one topic, and a clock."""

    def __init__(self, config: ScoreConfig = CONFIG) -> None:
        self.topic = TopicState(TOPIC, TOPIC.encode(), subscribed=True)
        self.scores = Scores(config, {TOPIC: self.topic})
        self.peers: list[PeerState] = []
        self.now = 100.0
        self.seen: set[bytes] = set()

    def add(self, network: str | None = None) -> PeerState:
        peer = some_peer(len(self.peers), network)
        self.peers.append(peer)
        self.scores.add(peer, self.now)
        return peer

    def bring(self, peer: PeerState, number: int, *, is_own: bool = False) -> None:
        message_id = number.to_bytes(8, "big")
        if message_id in self.seen:
            self.scores.duplicate(peer, TOPIC, message_id, self.now, is_own=is_own)
            return
        self.seen.add(message_id)
        self.scores.arrived(peer, message_id, self.now)
        self.scores.first_delivery(peer, self.topic, is_own=is_own)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.scores.decay(self.peers, self.now)


def test_time_in_the_mesh_is_worth_something_up_to_a_cap():
    judged = Judged()
    peer = judged.add()
    judged.scores.grafted(peer, TOPIC, judged.now)
    judged.wait(100)
    assert peer.score == pytest.approx(100 * CONFIG.mesh_time_weight)
    judged.wait(10_000)
    assert peer.score == pytest.approx(CONFIG.mesh_time_cap * CONFIG.mesh_time_weight)


def test_first_deliveries_are_worth_something_and_fade():
    judged = Judged()
    peer = judged.add()
    for _ in range(1000):
        judged.scores.first_delivery(peer, judged.topic, is_own=False)
    judged.scores.update(peer, judged.now)
    assert peer.score == pytest.approx(CONFIG.first_cap)
    judged.wait(1)
    judged.wait(1000)
    assert peer.score == 0


def test_whoever_brings_nothing_into_a_busy_mesh_is_worth_less_than_nothing():
    judged = Judged()
    good, silent, late = judged.add(), judged.add(), judged.add()
    for peer in judged.peers:
        judged.scores.grafted(peer, TOPIC, judged.now)
    for number in range(2000):
        judged.bring(good, number)
        judged.now += CONFIG.mesh_delivery_window / 2
        judged.bring(late, number)
        judged.now += CONFIG.mesh_delivery_window
        judged.bring(silent, number)
    judged.now += CONFIG.mesh_delivery_activation + 1
    for peer in judged.peers:
        judged.scores.update(peer, judged.now)
    assert silent.score == CONFIG.mesh_delivery_floor
    assert good.score > 0
    assert late.score > 0
    # Having left the mesh does not mend it at once.
    judged.scores.pruned(silent, TOPIC, judged.now)
    judged.scores.update(silent, judged.now)
    assert silent.score == CONFIG.mesh_delivery_floor


def test_copies_and_own_messages_do_not_make_up_for_what_is_not_passed_on():
    """Ten copies counted as ten messages, and what a peer wrote itself as passed on."""
    judged = Judged()
    good, copying, talking, author = (judged.add() for _ in range(4))
    for peer in judged.peers:
        judged.scores.grafted(peer, TOPIC, judged.now)
    for number in range(0, 4000, 4):
        judged.bring(good, number)
        for _ in range(10 if number == 0 else 0):
            judged.bring(copying, number)
        for other in range(1, 4):
            judged.bring(author, number + other, is_own=True)
            judged.bring(good, number + other)
    for number in range(4000, 4400):
        judged.bring(talking, number, is_own=True)
        judged.bring(good, number)
    judged.now += CONFIG.mesh_delivery_activation + 1
    for peer in judged.peers:
        judged.scores.update(peer, judged.now)
    assert copying.score == talking.score == CONFIG.mesh_delivery_floor
    assert good.score > 0


def test_who_writes_all_there_is_in_a_topic_is_not_blamed_for_passing_nothing_on():
    judged = Judged()
    author, other = judged.add(), judged.add()
    for peer in judged.peers:
        judged.scores.grafted(peer, TOPIC, judged.now)
    for number in range(4000):
        judged.bring(author, number, is_own=True)
        judged.bring(other, number)
    judged.now += CONFIG.mesh_delivery_activation + 1
    for peer in judged.peers:
        judged.scores.update(peer, judged.now)
    assert author.score > 0
    assert other.score > 0


def test_nobody_is_blamed_where_nothing_happens():
    judged = Judged()
    peer, other = judged.add(), judged.add()
    judged.scores.grafted(peer, TOPIC, judged.now)
    for _ in range(20):
        judged.scores.first_delivery(other, judged.topic, is_own=False)
    judged.wait(1000)
    assert peer.score > 0


def test_refused_messages_count_by_their_square():
    judged = Judged()
    peer = judged.add()
    judged.scores.invalid(peer, TOPIC, judged.now)
    assert peer.score == pytest.approx(CONFIG.invalid_weight)
    judged.scores.invalid(peer, TOPIC, judged.now)
    assert peer.score == pytest.approx(4 * CONFIG.invalid_weight)


def test_good_conduct_does_not_make_up_for_bad_one_without_end():
    config = replace(CONFIG, topic_cap=10.0)
    judged = Judged(config)
    peer = judged.add()
    for _ in range(50):
        judged.scores.first_delivery(peer, judged.topic, is_own=False)
    for _ in range(3):
        judged.scores.invalid(peer, TOPIC, judged.now)
    assert peer.score == pytest.approx(10 + 9 * config.invalid_weight)


def test_many_of_one_network_make_each_other_worse_and_those_of_none_do_not():
    judged = Judged(replace(CONFIG, network_peers=3))
    for _ in range(5):
        judged.add("203.0.113.0/24")
        judged.add(None)
    judged.wait(1)
    assert judged.peers[0].score == pytest.approx(4 * CONFIG.network_weight)
    assert judged.peers[1].score == 0
    for peer in judged.peers[6:]:
        judged.scores.remove(peer, judged.now)
    judged.scores.update(judged.peers[0], judged.now)
    assert judged.peers[0].score == 0


def test_breaches_are_forgiven_up_to_a_number_and_fade():
    judged = Judged()
    peer = judged.add()
    judged.scores.breach(peer, CONFIG.behaviour_threshold, judged.now)
    assert peer.score == 0
    judged.scores.breach(peer, 2, judged.now)
    assert peer.score == pytest.approx(4 * CONFIG.behaviour_weight)
    judged.wait(1)
    judged.wait(2000)
    assert peer.score == 0


def test_what_is_kept_of_peers_that_have_gone_is_bounded_and_expires():
    judged = Judged(replace(CONFIG, retained=10))
    for _ in range(30):
        peer = judged.add()
        judged.scores.breach(peer, 20, judged.now)
        judged.scores.remove(peer, judged.now)
    assert len(judged.scores._kept) == 10
    last = judged.peers[-1]
    again = PeerState(last.peer_id, Version.V12, False, None)
    judged.now += CONFIG.retain + 1
    judged.scores.add(again, judged.now)
    assert again.score == 0


def test_statistics_are_of_our_topics_alone():
    judged = Judged()
    peer = judged.add()
    judged.scores.invalid(peer, TOPIC, judged.now)
    judged.scores.stats(peer, "left since").first = 5.0
    judged.wait(1)
    assert peer.stats.keys() == {TOPIC}


def busy(net: RouterNet, author: Member, seconds: int = 20) -> None:
    for _ in range(seconds):
        for _ in range(30):
            net.publish(author, b"x")
        net.tick()


def test_a_silent_member_of_a_busy_mesh_is_pruned_where_there_is_another():
    mesh = MeshConfig(flood_publish=False, size=2, low=2, high=2, best=1, outbound=0)
    net = RouterNet(TopicsConfig(mesh=mesh))
    one, author, silent, other = (net.member() for _ in range(4))
    net.subscribe(one, author, silent)
    net.link(one, author)
    net.link(one, silent)
    net.tick()
    assert silent.peer_id in one.router.topics[TOPIC].mesh
    busy(net, author)
    assert silent.peer_id in one.router.topics[TOPIC].mesh
    net.subscribe(other)
    net.link(one, other)
    busy(net, author, 3)
    assert one.router.topics[TOPIC].mesh.keys() == {author.peer_id, other.peer_id}


def test_whoever_hears_all_from_one_peer_goes_on_to_hear_it():
    """It was taken for one that drops all, and got 1,800 of 12,000 messages."""
    net = RouterNet()
    author, middle, last = (net.member() for _ in range(3))
    net.subscribe(author, middle, last)
    net.link(author, middle)
    net.link(middle, last)
    net.tick()
    for _ in range(20):
        for _ in range(100):
            net.publish(author, b"x")
        net.tick()
    assert len(last.delivered) == len(middle.delivered) == 2000
    assert last.peer_id in middle.router.topics[TOPIC].mesh


@pytest.mark.parametrize(
    "values",
    [
        {"graylist_threshold": -1.0},
        {"first_decay": 1.0},
        {"invalid_weight": 1.0},
        {"first_weight": -1.0},
        {"network_peers": 0},
        {"mesh_delivery_floor": -20.0},
        {"mesh_delivery_floor": 0.0},
    ],
)
def test_scores_that_make_no_sense_are_refused(values):
    with pytest.raises(ConfigError):
        ScoreConfig(**values)
