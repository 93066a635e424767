"""Lookups over networks that know, lie, invent and are silent."""

from __future__ import annotations

import math
import random

import pytest

from lattica.dht.kademlia.config import LookupConfig
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.lookup import Lookup, _Candidate
from tests.support.dht.kademlia import CONFIG, StillNet, at, contact, run_lookup
from tests.support.freed import freed_at_once


@pytest.fixture(scope="module")
def net() -> StillNet:
    return StillNet(400, 7)


def seeds(net: StillNet, own: Contact, target: int) -> list[Contact]:
    return net.tables[own.key].closest(target, 20)


def test_the_twenty_nearest_are_found(net):
    rng = random.Random(1)
    for _ in range(20):
        own, target = rng.choice(net.contacts), rng.getrandbits(256)
        lookup = Lookup(target, seeds(net, own, target), CONFIG, own=own.key)
        run_lookup(lookup, net.honest(target))
        expected = [key for key in net.nearest(target, 21) if key != own.key][:20]
        assert [c.key for c in lookup.closest()] == expected
        assert 1 <= lookup.hops <= 5
        assert lookup.queries <= 60


def test_a_lookup_that_has_ended_is_freed_at_once(net):
    """Peers tell of each other."""
    own, target = net.contacts[0], random.Random(1).getrandbits(256)
    with freed_at_once(_Candidate):
        lookup = Lookup(target, seeds(net, own, target), CONFIG, own=own.key)
        run_lookup(lookup, net.honest(target))
        del lookup


def test_each_path_has_one_question_at_a_time_until_the_end_is_near():
    peers = [contact(at("1") + n) for n in range(9)]
    lookup = Lookup(0, peers, LookupConfig(count=9, near=3), own=1)
    first = lookup.next_queries(0.0)
    assert first == peers[:3]
    assert lookup.next_queries(0.0) == []
    lookup.answered(first[0].key, [], 0.0)
    assert lookup.next_queries(0.0) == [peers[3]]
    lookup.answered(first[1].key, [], 0.0)
    lookup.answered(first[2].key, [], 0.0)
    # The three nearest have answered.
    assert lookup.next_queries(0.0) == peers[4:]
    assert lookup.deadline == CONFIG.patience  # of peers[3], which was asked on a path
    lookup.answered(peers[3].key, [], 0.2)
    assert lookup.deadline == CONFIG.last_patience


def test_a_few_more_than_are_looked_for_are_asked_so_that_one_that_is_gone_holds_up_nothing():
    peers = [contact(at("1") + n) for n in range(9)]
    lookup = Lookup(0, peers, LookupConfig(paths=1, count=4, near=1, spare=2), own=1)
    assert lookup.next_queries(0.0) == peers[:1]
    lookup.answered(peers[0].key, [], 0.0)
    assert lookup.next_queries(0.0) == peers[1:6]
    for one in (2, 3, 4):
        lookup.answered(peers[one].key, [], 0.1)
    assert lookup.deadline == CONFIG.last_patience
    assert lookup.next_queries(CONFIG.last_patience) == []  # peers[1] keeps its place
    assert lookup.is_done
    assert lookup.closest() == [peers[0], *peers[2:5]]


def test_more_slow_ones_than_spares_lose_their_places():
    peers = [contact(at("1") + n) for n in range(9)]
    lookup = Lookup(0, peers, LookupConfig(paths=1, count=3, near=1, spare=1), own=1)
    lookup.next_queries(0.0)
    lookup.answered(peers[0].key, [], 0.0)
    assert lookup.next_queries(0.0) == peers[1:4]
    # One of the three that make us wait keeps its place, so two more are asked.
    assert lookup.next_queries(CONFIG.last_patience) == peers[4:6]
    for one in peers[4:6]:
        lookup.answered(one.key, [], 1.1)
    assert lookup.is_done
    assert lookup.closest() == [peers[0], *peers[4:6]]


def test_what_a_peer_says_leads_only_its_own_path():
    peers = [contact(at("1") + n) for n in range(3)]
    lookup = Lookup(0, peers, CONFIG, own=1)
    assert lookup.next_queries(0.0) == peers
    lies = [contact(at("01") + n) for n in range(20)]
    lookup.answered(peers[0].key, lies, 0.0)
    assert lookup.next_queries(0.0) == [lies[0]]
    assert lookup.next_queries(0.0) == []


def test_who_knows_one_peer_has_all_paths_by_its_answer():
    only = contact(at("1"))
    lookup = Lookup(0, [only], CONFIG, own=1)
    assert lookup.next_queries(0.0) == [only]
    lookup.answered(only.key, [contact(at("01") + n) for n in range(20)], 0.0)
    assert len(lookup.next_queries(0.0)) == 3


def test_a_path_goes_on_without_a_slow_peer_and_uses_what_it_says_later():
    slow, other = contact(at("01")), contact(at("1"))
    lookup = Lookup(0, [slow, other], LookupConfig(paths=1, near=1, patience=1.0), own=1)
    assert lookup.next_queries(0.0) == [slow]
    assert lookup.deadline == 1.0
    assert lookup.next_queries(0.9) == []
    assert lookup.next_queries(1.0) == [other]
    assert lookup.deadline == 2.0
    nearest = contact(at("001"))
    lookup.answered(slow.key, [nearest], 1.5)
    assert lookup.next_queries(1.5) == []  # the path has a question open
    lookup.answered(other.key, [], 1.6)
    assert lookup.next_queries(1.6) == [nearest]
    lookup.answered(nearest.key, [], 1.7)
    assert lookup.is_done
    assert lookup.closest() == [nearest, slow, other]
    assert lookup.hops == 2


def test_a_question_has_failed_at_its_timeout():
    silent = contact(at("1"))
    lookup = Lookup(0, [silent], CONFIG, own=1)
    assert lookup.next_queries(0.0) == [silent]
    lookup.next_queries(CONFIG.patience)  # and waits on: it is all there is
    assert lookup.deadline == CONFIG.timeout
    lookup.next_queries(CONFIG.timeout)
    assert lookup.is_done
    assert lookup.closest() == []
    assert lookup.hops == 0
    assert lookup.deadline == math.inf


@pytest.mark.parametrize("now", [0.1, 1 / 3, 1e9 / 7, 86_400.123456789])
def test_at_its_deadline_a_question_is_late_however_the_clock_rounds(now):
    config = LookupConfig(patience=0.7, last_patience=0.7, timeout=3.3)
    lookup = Lookup(0, [contact(at("1"))], config, own=1)
    lookup.next_queries(now)
    deadlines = []
    while not lookup.is_done:
        deadlines.append(lookup.deadline)
        assert len(deadlines) <= 2
        lookup.next_queries(lookup.deadline)
    assert deadlines == [now + 0.7, now + 3.3]


def test_invented_peers_cost_a_few_questions(net):
    rng = random.Random(3)
    own, target = net.contacts[0], rng.getrandbits(256)
    liar = seeds(net, own, target)[0]
    invented = {target ^ n for n in range(1, 21)}

    asked: list[int] = []
    tell = net.honest(target)

    def answer(one: Contact) -> list[Contact] | None:
        asked.append(one.key)
        if one.key in invented:
            return None
        return [contact(key) for key in invented] if one == liar else tell(one)

    lookup = Lookup(target, seeds(net, own, target), CONFIG, own=own.key)
    run_lookup(lookup, answer)
    assert len(invented.intersection(asked)) == CONFIG.distrust_after
    expected = [key for key in net.nearest(target, 21) if key != own.key][:20]
    assert [c.key for c in lookup.closest()] == expected


def test_who_is_distrusted_is_asked_where_somebody_else_tells_of_it():
    liar, honest = contact(at("1")), contact(at("1") + 1)
    told = [contact(at("001") + n) for n in range(6)]
    lookup = Lookup(0, [liar, honest], LookupConfig(paths=2, distrust_after=3), own=1)
    assert lookup.next_queries(0.0) == [liar, honest]
    lookup.answered(liar.key, told, 0.0)
    for one in told[:3]:
        assert lookup.next_queries(0.0) == [one]
        lookup.failed(one.key)
    assert lookup.next_queries(0.0) == []
    lookup.answered(honest.key, [told[5]], 0.0)
    assert told[5] in lookup.next_queries(0.0)


def test_whoever_is_told_of_by_the_only_peer_known_is_asked_although_some_are_gone():
    only = contact(at("1"))
    told = [contact(at("01") + n) for n in range(10)]
    lookup = Lookup(0, [only], CONFIG, own=1)
    gone = {c.key for c in told[:4]}
    tell = {only.key: told}
    run_lookup(lookup, lambda c: None if c.key in gone else tell.get(c.key, []))
    assert lookup.closest() == [*told[4:], only]


def test_many_of_one_network_in_an_answer_are_junk():
    source = contact(at("1"))
    many = [contact(at("01") + n, f"/ip4/1.2.3.{n}/tcp/1") for n in range(10)]
    lookup = Lookup(0, [source], LookupConfig(paths=1), own=1)
    lookup.next_queries(0.0)
    lookup.answered(source.key, many, 0.0)
    assert lookup.junk == {source.key: 7}
    asked = []
    while not lookup.is_done:
        for one in lookup.next_queries(0.0):
            asked.append(one)
            lookup.answered(one.key, [], 0.0)
    assert asked == many[:3]


def test_an_answer_to_no_question_is_not_heard():
    peers = [contact(at("1") + n) for n in range(2)]
    lookup = Lookup(0, peers, LookupConfig(paths=1), own=1)
    assert lookup.next_queries(0.0) == [peers[0]]
    lookup.answered(peers[1].key, [contact(5)], 0.0)
    lookup.answered(99, [contact(5)], 0.0)
    lookup.answered(peers[0].key, [], 0.0)
    assert lookup.next_queries(0.0) == [peers[1]]


def test_there_is_an_end_to_what_is_asked():
    lookup = Lookup(0, [contact(at("1"))], LookupConfig(max_queries=30), own=1)
    rng = random.Random(1)
    depth = iter(range(1, 10_000))

    def nearer_and_nearer(_: Contact) -> list[Contact]:
        return [contact(at("1") >> next(depth) % 200 | rng.getrandbits(40)) for _ in range(20)]

    run_lookup(lookup, nearer_and_nearer)
    assert lookup.queries == 30


def test_a_lookup_that_is_stopped_asks_no_more():
    peers = [contact(at("1") + n) for n in range(9)]
    lookup = Lookup(0, peers, CONFIG, own=1)
    lookup.next_queries(0.0)
    lookup.stop()
    assert lookup.is_done
    assert lookup.next_queries(0.0) == []


def test_a_node_that_is_told_of_itself_does_not_ask_itself():
    own, peer = 1, contact(at("1"))
    lookup = Lookup(0, [peer, contact(own)], CONFIG, own=own)
    run_lookup(lookup, lambda _: [contact(own)])
    assert lookup.closest() == [peer]


def test_likely_nearest_are_asked_as_soon_as_they_are_heard_of():
    config = LookupConfig(paths=1, eager=2)
    one, other = contact(at("1")), contact(at("1") + 1)
    likely = [contact(at("0001") + n) for n in range(6)]
    lookup = Lookup(0, [one, other], config, own=1, reach=at("001"))
    assert lookup.next_queries(0.0) == [one]
    lookup.answered(one.key, likely, 0.0)
    # Two of whom it alone has told, and the next of the path.
    assert lookup.next_queries(0.0) == likely[:3]
    assert lookup.deadline == config.patience
    lookup.answered(likely[1].key, [], 0.1)
    assert likely[3] in lookup.next_queries(0.1)


def test_likely_nearest_of_whom_several_have_told_are_all_asked():
    config = LookupConfig(paths=2, eager=1)
    tellers = [contact(at("1")), contact(at("1") + 1)]
    likely = [contact(at("0001") + n) for n in range(6)]
    lookup = Lookup(0, tellers, config, own=1, reach=at("001"))
    assert lookup.next_queries(0.0) == tellers
    for teller in tellers:
        lookup.answered(teller.key, likely, 0.0)
    assert lookup.next_queries(0.0) == likely


def test_invented_peers_within_reach_cost_no_more_than_is_asked_at_once(net):
    rng = random.Random(5)
    own, target = net.contacts[0], rng.getrandbits(256)
    invented = {target ^ n for n in range(1, 21)}
    liar = seeds(net, own, target)[0]
    tell = net.honest(target)
    asked: list[int] = []

    def answer(one: Contact) -> list[Contact] | None:
        asked.append(one.key)
        if one.key in invented:
            return None
        return [contact(key) for key in invented] if one == liar else tell(one)

    reach = 20 * 2**256 // 400
    lookup = Lookup(target, seeds(net, own, target), CONFIG, own=own.key, reach=reach)
    run_lookup(lookup, answer)
    assert len(invented.intersection(asked)) <= CONFIG.eager + 1
    expected = [key for key in net.nearest(target, 21) if key != own.key][:20]
    assert [c.key for c in lookup.closest()] == expected


def test_the_last_few_have_less_time_and_the_very_nearest_more():
    config = LookupConfig(paths=3, count=6, near=1, spare=0, few=2, nearest=1)
    tellers = [contact(at("1") + n) for n in range(3)]
    peers = [contact(at("01") + n) for n in range(6)]
    lookup = Lookup(0, tellers, config, own=1, reach=at("1"))
    lookup.next_queries(0.0)
    for teller in tellers:
        lookup.answered(teller.key, peers, 0.0)
    assert lookup.next_queries(0.0) == peers
    assert lookup.deadline == config.last_patience
    for one in peers[1:5]:
        lookup.answered(one.key, [], 0.2)
    lookup.next_queries(0.2)
    assert lookup.deadline == config.few_patience
    done = []
    for now in (config.few_patience, config.last_patience, config.nearest_patience):
        lookup.next_queries(now)
        done.append((lookup.is_done, lookup.deadline))
    assert done == [
        (False, config.last_patience),  # peers[5] is waited for no longer
        (False, config.nearest_patience),
        (True, config.timeout),
    ]
    assert peers[0] not in lookup.closest()


def test_of_one_network_only_some_are_asked_while_there_are_others():
    many = [contact(at("001") + n, f"/ip4/1.2.3.{n}/tcp/1") for n in range(9)]
    others = [contact(at("01") + n, f"/ip4/1.2.{n + 10}.1/tcp/1") for n in range(9)]

    def run(count: int) -> list[Contact]:
        config = LookupConfig(count=count, group_in_answer=9)
        lookup = Lookup(0, [*many, *others], config, own=1, group_limit=2)
        run_lookup(lookup, lambda _: [*many, *others])
        return lookup.closest()

    assert run(8) == [*many[:2], *others[:6]]
    assert run(18) == [*many, *others]  # there are not enough without them


def test_those_of_a_wider_search_count_as_nearest_too():
    peers = [contact(at("1") + n) for n in range(3)]
    lookup = Lookup(0, peers, CONFIG, own=1)
    run_lookup(lookup, lambda _: [])
    wide = [contact(at("01")), peers[1], contact(at("11"))]
    lookup.widen(wide)
    assert lookup.nearest() == peers
    assert lookup.closest() == [wide[0], *peers, wide[2]]
    assert lookup.heard() == peers


def test_for_what_a_few_can_say_only_some_are_asked_at_a_time():
    config = LookupConfig(paths=1)
    peers = [contact(at("0001") + n) for n in range(12)]
    lookup = Lookup(0, peers, config, own=1, reach=at("001"), at_once=4)
    asked = lookup.next_queries(0.0)
    assert asked == peers[:5]  # four, and one of the path
    assert lookup.next_queries(0.0) == []
    # For each that answers or fails, or makes us wait, the next.
    lookup.answered(peers[0].key, [], 0.1)
    lookup.failed(peers[1].key)
    assert lookup.next_queries(0.1) == peers[5:6]
    assert lookup.next_queries(config.last_patience) == peers[6:9]


def test_with_few_at_a_time_the_same_is_found(net):
    rng = random.Random(8)
    for _ in range(10):
        own, target = rng.choice(net.contacts), rng.getrandbits(256)
        reach = 20 * 2**256 // 400
        lookup = Lookup(
            target, seeds(net, own, target), CONFIG, own=own.key, reach=reach, at_once=3
        )
        run_lookup(lookup, net.honest(target))
        expected = [key for key in net.nearest(target, 21) if key != own.key][:20]
        assert [c.key for c in lookup.closest()] == expected
