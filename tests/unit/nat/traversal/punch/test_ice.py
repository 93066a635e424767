"""ICE agents against each other over simulated NATs, and against liars."""

from __future__ import annotations

from itertools import pairwise

import pytest
from aioice import stun

from lattica.nat.traversal.punch.ice.agent import Failed, IceAgent, Nominated, PairValid
from lattica.nat.traversal.punch.ice.candidates import CandidateType, local_candidate
from lattica.nat.traversal.punch.ice.stun import ROLE_CONFLICT, check, parse, role_conflict, success
from tests.support.ice_net import IceNet, Peer, failure, nominated
from tools.netlab.spec.nat import NAMES

CONES = ["full-cone", "restricted-cone", "port-restricted", "port-restricted-random", "cgnat"]
EASY = [
    *((a, b) for a in CONES for b in CONES),
    *((a, "symmetric-random") for a in ("full-cone", "restricted-cone", "cgnat", None)),
    *(("symmetric-random", b) for b in ("full-cone", "restricted-cone", "cgnat", None)),
    ("address-dependent", "restricted-cone"),
    ("linux-masquerade", "port-restricted"),
    ("port-restricted", None),
    (None, None),
]


def check_agree(a: Peer, b: Peer) -> None:
    """Both have chosen the same pair, as seen from their sides."""
    ours, theirs = nominated(a), nominated(b)
    seen_by_b = next(
        e.mapped for e in a.events if isinstance(e, PairValid) if e.remote == ours.remote
    )
    seen_by_a = next(
        e.mapped for e in b.events if isinstance(e, PairValid) if e.remote == theirs.remote
    )
    assert theirs.remote == seen_by_b
    assert ours.remote == seen_by_a


# --- what works ---


@pytest.mark.parametrize(("nat_a", "nat_b"), EASY)
def test_a_pair_is_found(nat_a, nat_b):
    net = IceNet()
    a, b = net.pair(nat_a, nat_b)
    took = net.punch(a, b)
    check_agree(a, b)
    assert took < 0.3  # of simulated time, at 50 ms round trip


@pytest.mark.parametrize("skew", [-0.5, -0.02, 0.02, 0.3, 1.5])
def test_who_starts_late_costs_only_the_wait(skew):
    net = IceNet()
    a, b = net.pair("port-restricted", "port-restricted")
    took = net.punch(a, b, skew=skew) if skew > 0 else net.punch(b, a, skew=-skew)
    check_agree(a, b)
    assert took < abs(skew) + 0.3


@pytest.mark.parametrize("seed", range(10))
def test_a_third_of_all_packets_is_lost(seed):
    net = IceNet(loss=0.3, seed=seed)
    a, b = net.pair("port-restricted", "port-restricted")
    took = net.punch(a, b)
    check_agree(a, b)
    assert took < 4.0


@pytest.mark.parametrize("nat", ["port-restricted", "symmetric-random"])
def test_neighbours_use_their_own_network(nat):
    net = IceNet()
    home = net.site(nat)
    a, b = net.peer("anna", home), net.peer("bert", home)
    net.punch(a, b)
    assert nominated(a).remote == b.address
    assert nominated(b).remote == a.address


def test_a_detour_that_works_waits_for_the_direct_way():
    net = IceNet()
    home = net.site("full-cone")  # with a hairpin
    a, b = net.peer("anna", home), net.peer("bert", home)
    net.agent(a, b, controlling=True)
    net.agent(b, a, controlling=False, remote=b.candidates()[:0])
    a.lan_loss = True  # its first packet on the network is lost, so that the hairpin is faster
    net.start(a)
    net.start(b)
    net.run(5)
    valid = [e.remote for e in a.events if isinstance(e, PairValid)]
    assert valid[0] == b.mapped[0]
    assert nominated(a).remote == b.address


def test_the_port_of_a_symmetric_nat_is_learned_from_its_checks():
    net = IceNet()
    a, b = net.pair("restricted-cone", "symmetric-random")
    net.punch(a, b)
    assert nominated(a).remote[0] == b.site.external
    assert nominated(a).remote not in b.mapped
    assert nominated(b).remote == a.mapped[0]


def test_a_peer_without_any_address_is_learned_too():
    net = IceNet()
    a, b = net.pair(None, "port-restricted")
    net.agent(a, b, controlling=True, remote=[])
    net.agent(b, a, controlling=False)
    net.start(a)
    net.start(b, 1.0)
    net.run()
    check_agree(a, b)


def test_checks_of_the_peer_are_answered_before_the_start():
    net = IceNet()
    a, b = net.pair("full-cone", "full-cone")
    net.agent(a, b, controlling=True)
    agent = net.agent(b, a, controlling=False)
    net.start(a)
    net.run(0.08)
    assert agent.next_timer() is None
    assert any(isinstance(e, PairValid) for e in a.events)
    net.start(b)
    net.run(5)
    check_agree(a, b)


# --- what does not ---


@pytest.mark.parametrize(
    ("nat_a", "nat_b"),
    [
        ("symmetric-random", "symmetric-random"),
        ("port-restricted", "symmetric-random"),
        ("udp-blocked", "full-cone"),
        ("udp-blocked", "udp-blocked"),
    ],
)
def test_hopeless_pairs_fail_in_time_and_cost_little(nat_a, nat_b):
    net = IceNet()
    a, b = net.pair(nat_a, nat_b)
    took = net.punch(a, b)
    for peer in (a, b):
        assert failure(peer).startswith(("no answer over UDP", "the peer has no UDP address"))
        assert len(peer.sent) <= 40
        assert peer.agent is not None
        assert peer.agent.next_timer() is None
    assert took <= 6.0


def test_one_side_that_is_not_heard_is_told_so():
    net = IceNet()
    a, b = net.pair("full-cone", "full-cone")
    a.mute = True
    net.punch(a, b)
    assert failure(a).startswith("the peer's packets arrive, ours do not")
    assert failure(b).startswith("no answer")


def test_a_peer_that_is_silent_and_has_no_address():
    net = IceNet()
    a, b = net.pair("port-restricted", "port-restricted")
    agent = net.agent(a, b, controlling=True, remote=[], patience=2.0)
    net.start(a)
    net.run()
    assert failure(a) == "the peer has no UDP address that may be tried from here"
    assert not a.sent
    assert agent.next_timer() is None


def test_ten_thousand_candidates_get_few_packets():
    net = IceNet()
    a, b = net.pair("port-restricted", "port-restricted")
    claims = (
        local_candidate(CandidateType.HOST, f"11.9.{i >> 8}.{i & 255}", 9, base=0, rank=i)
        for i in range(10_000)
    )
    net.agent(a, b, controlling=True, remote=claims)
    net.start(a)
    net.run()
    assert failure(a) == "no answer over UDP (6 addresses tried)"
    assert len(a.sent) <= 6 * 10


def test_packets_are_paced_and_counted():
    net = IceNet()
    a, b = net.pair("port-restricted", "port-restricted")
    claims = [
        local_candidate(CandidateType.HOST, "11.9.0.1", port, base=0, rank=port)
        for port in range(1, 40)
    ]
    agent = net.agent(a, b, controlling=True, remote=claims, max_datagrams=50)
    times: list[float] = []
    agent.start()
    times += [net.now] * len(agent.datagrams_to_send())
    while (due := agent.next_timer()) is not None:
        assert due >= net.now - 1e-9
        net.now = max(net.now, due)
        agent.on_timer()
        times += [net.now] * len(agent.datagrams_to_send())
    assert [e.reason for e in agent.events() if isinstance(e, Failed)] == [
        "gave up after 50 packets"
    ]
    assert len(times) == 50
    assert all(later - earlier > 0.019 for earlier, later in pairwise(times))


# --- roles ---


@pytest.mark.parametrize("controlling", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_two_with_the_same_role_settle_it(controlling, seed):
    net = IceNet(seed=seed)
    a, b = net.pair("port-restricted", "port-restricted")
    first = net.agent(a, b, controlling=controlling)
    second = net.agent(b, a, controlling=controlling)
    net.start(a)
    net.start(b)
    net.run()
    check_agree(a, b)
    assert first.controlling is not second.controlling


def test_a_nomination_that_gets_lost_is_repeated():
    net = IceNet()
    a, b = net.pair("full-cone", "full-cone")
    net.agent(a, b, controlling=True)
    net.agent(b, a, controlling=False)
    net.start(a)
    net.start(b)
    while not any(isinstance(e, PairValid) for e in a.events):
        net.run(0.001)
        net.now += 0.001
    b.mute = True  # does not get to answer the nomination
    net.run(0.25)
    net.now += 0.25
    assert a.result is None
    assert b.result is not None
    b.mute = False
    net.run()
    check_agree(a, b)


# --- lies ---


def lone_agent() -> tuple[IceNet, Peer, Peer, IceAgent]:
    """An agent in the open whose peer is played by the test."""
    net = IceNet()
    a, b = net.pair(None, None)
    agent = net.agent(a, b, controlling=False)
    agent.start()
    return net, a, b, agent


def request(a: Peer, b: Peer, **changes: object) -> bytes:
    """A check of `b` for `a`."""
    fields: dict[str, object] = {
        "username": f"{a.credentials.ufrag}:{b.credentials.ufrag}",
        "password": a.credentials.password,
        "priority": 1,
        "controlling": True,
        "tie_breaker": 1,
        "use_candidate": False,
        **changes,
    }
    return check(b"transaction!", **fields)  # type: ignore[arg-type]


def answered(agent: IceAgent) -> list[tuple[str, int]]:
    return [o.destination for o in agent.datagrams_to_send() if o.data[:2] != b"\0\1"]


def test_an_honest_check_is_answered():
    _, a, b, agent = lone_agent()
    agent.receive(request(a, b), 0, b.address)
    assert answered(agent) == [b.address]


@pytest.mark.parametrize(
    "changes",
    [
        {"password": "x" * 24},
        {"username": "annafrag:somebody"},
        {"username": "somebody:bertfrag"},
        {"username": "annafrag"},
        {"username": ""},
    ],
)
def test_strangers_are_not_answered(changes):
    _, a, b, agent = lone_agent()
    agent.receive(request(a, b, **changes), 0, b.address)
    assert answered(agent) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "224.0.0.1", "169.254.0.1", "0.0.0.0", "fe80::1%2"])
def test_forged_sources_where_nothing_goes_are_not_answered(host):
    _, a, b, agent = lone_agent()
    agent.receive(request(a, b), 0, (host, 4001))
    assert answered(agent) == []


def test_damaged_messages_do_nothing():
    _, a, b, agent = lone_agent()
    agent.datagrams_to_send()
    good = request(a, b)
    for at in range(len(good)):
        agent.receive(good[:at], 0, b.address)
        agent.receive(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :], 0, b.address)
    assert agent.datagrams_to_send() == []


def test_a_check_that_is_replayed_from_everywhere_costs_little():
    net, a, b, agent = lone_agent()
    for i in range(1000):
        agent.receive(request(a, b), 0, (f"11.8.{i >> 8}.{i & 255}", 9))
    net.collect(a)
    while (due := agent.next_timer()) is not None:
        net.now = due
        agent.on_timer()
        net.collect(a)
    assert len(a.sent) <= 400
    checked = {to for to, data in a.sent if data[:2] == b"\0\1"}
    assert len(checked - {b.address}) <= 8
    assert isinstance(a.result, Failed)


def sent_check(agent: IceAgent) -> bytes:
    (outgoing,) = [o for o in agent.datagrams_to_send() if o.data[:2] == b"\0\1"]
    return outgoing.data


def test_only_the_right_answer_counts():
    net, a, b, agent = lone_agent()
    transaction = sent_check(agent)[8:20]
    right = success(transaction, seen=a.address, password=b.credentials.password)
    wrong = success(transaction, seen=a.address, password="x" * 24)
    agent.receive(wrong, 0, b.address)
    agent.receive(right, 0, ("11.7.7.7", 1))  # from somewhere else
    agent.receive(success(b"x" * 12, seen=a.address, password=b.credentials.password), 0, b.address)
    assert agent.events() == []
    agent.receive(right, 0, b.address)
    assert [type(event) for event in agent.events()] == [PairValid]
    agent.receive(right, 0, b.address)  # once more
    assert agent.events() == []
    agent.receive(request(a, b, use_candidate=True), 0, b.address)
    assert agent.events() == [Nominated(0, b.address)]
    agent.receive(request(a, b, use_candidate=True), 0, b.address)
    assert agent.events() == []
    assert len(answered(agent)) == 2
    assert net.now == 1000.0


def test_a_role_conflict_that_is_no_such_thing_is_survived():
    net, _, b, agent = lone_agent()
    role = agent.controlling
    for _ in range(4):
        transaction = sent_check(agent)[8:20]
        conflict = role_conflict(transaction, password=b.credentials.password)
        agent.receive(conflict, 0, b.address)
        role = not role
        assert agent.controlling is role
        due = agent.next_timer()
        assert due is not None
        net.now = due
        agent.on_timer()


def test_an_error_fails_the_pair():
    net, a, b, agent = lone_agent()
    message = stun.Message(
        stun.Method.BINDING, stun.Class.ERROR, sent_check(agent)[8:20], {"ERROR-CODE": (500, "no")}
    )
    message.add_message_integrity(b.credentials.password.encode())
    agent.receive(bytes(message), 0, b.address)
    net.collect(a)
    net.run()
    assert failure(a).startswith("no answer")
    assert len(a.sent) == 0


def test_a_conflict_is_refused_by_who_has_the_larger_number():
    _, a, b, agent = lone_agent()  # controlled
    agent.datagrams_to_send()
    agent.receive(request(a, b, controlling=False, tie_breaker=(1 << 64) - 1), 0, b.address)
    assert not agent.controlling
    (refusal,) = [o.data for o in agent.datagrams_to_send() if o.data[:2] == b"\1\x11"]
    answer = parse(refusal)
    assert getattr(answer, "error", None) == ROLE_CONFLICT
    agent.receive(request(a, b, controlling=False, tie_breaker=0), 0, b.address)
    assert agent.controlling


def test_the_nats_are_those_of_the_lab():
    assert set(CONES) <= set(NAMES)
