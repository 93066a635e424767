"""Whatever the network and the peer do, an ICE agent ends in time and within its budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.traversal.punch.ice.agent import Failed, Nominated
from lattica.nat.traversal.punch.ice.candidates import (
    MAX_PAIRS,
    Candidate,
    CandidateType,
    TargetPolicy,
    form_pairs,
    pair_priority,
)
from lattica.nat.traversal.punch.ice.coordination import Opener, Responder
from lattica.nat.traversal.punch.ice.messages import (
    Answer,
    Description,
    Offer,
    decode,
    encode,
    new_credentials,
)
from lattica.nat.traversal.punch.ice.stun import is_stun, parse, recipient
from tests.support.ice_net import IceNet
from tools.netlab.spec.nat import NAMES

FEW = settings(max_examples=60)

hosts = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
candidates = st.builds(
    Candidate,
    st.sampled_from(CandidateType),
    hosts,
    st.integers(1, 65535),
    st.integers(1, (1 << 31) - 1),
    st.from_regex("[A-Za-z0-9+/]{1,32}", fullmatch=True),
)
descriptions = st.builds(
    Description,
    st.binary(min_size=24, max_size=24).map(lambda data: new_credentials(lambda n: data[:n])),
    st.lists(candidates, max_size=16).map(tuple),
)
nats = st.sampled_from(
    [*sorted(name for name, spec in NAMES.items() if spec.translate == "ports"), None]
)


@FEW
@given(
    nats,
    nats,
    st.floats(0.0, 0.5),
    st.floats(0.0, 0.3),
    st.floats(0.0, 3.0),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1 << 32),
)
def test_every_attempt_ends(nat_a, nat_b, loss, delay, skew, same_role, same_site, seed):
    net = IceNet(delay=delay, loss=loss, seed=seed)
    home = net.site(nat_a)
    a, b = net.peer("anna", home), net.peer("bert", home if same_site else net.site(nat_b))
    agents = net.agent(a, b, controlling=True), net.agent(b, a, controlling=same_role)
    net.start(a)
    net.start(b, skew)
    net.run(30)
    for peer, agent in zip((a, b), agents, strict=True):
        assert agent.next_timer() is None
        assert len([e for e in peer.events if isinstance(e, Nominated | Failed)]) == 1
        assert len(peer.sent) <= 400
    if isinstance(a.result, Nominated) and isinstance(b.result, Nominated):
        assert a.result.base == b.result.base == 0


@FEW
@given(nats, nats, st.integers(0, 1 << 32))
def test_without_loss_it_is_all_or_nothing(nat_a, nat_b, seed):
    net = IceNet(seed=seed)
    a, b = net.pair(nat_a, nat_b)
    net.punch(a, b)
    assert type(a.result) is type(b.result)


@given(st.lists(candidates, max_size=40), st.booleans())
def test_the_policy_lets_through_only_what_it_should(claims, allow_loopback):
    policy = TargetPolicy((), frozenset({"11.0.0.1"}), allow_loopback)
    chosen = policy.choose(claims)
    assert len({one.address for one in chosen}) == len(chosen) <= 16
    assert all(one in claims[:16] and policy.may_answer(one.host) for one in chosen)


@given(st.lists(candidates, max_size=20), st.lists(candidates, max_size=20), st.booleans())
def test_pairs_are_unique_and_in_order(local, remote, controlling):
    pairs = form_pairs(local, remote, controlling=controlling)
    assert len(pairs) <= MAX_PAIRS
    assert len({(ours.base, theirs.address) for ours, theirs in pairs}) == len(pairs)
    assert all(ours.version == theirs.version for ours, theirs in pairs)
    priorities = [
        pair_priority(ours.priority, theirs.priority, controlling=controlling)
        for ours, theirs in pairs
    ]
    assert priorities == sorted(priorities, reverse=True)


@given(descriptions, st.sampled_from([Offer, Answer]))
def test_descriptions_survive_the_wire(description, kind):
    data = encode(kind(description))
    assert decode(data[1 if data[0] < 0x80 else 2 :]) == kind(description)


@given(descriptions, descriptions, st.integers(1, 50))
def test_the_coordination_survives_any_pieces(ours, theirs, size):
    now = [0.0]
    opener, responder = Opener(ours, lambda: now[0]), Responder()
    heard = []
    for receiver, sender in ((responder, opener), (opener, responder), (responder, opener)):
        data = sender.data_to_send()
        for at in range(0, len(data), size):
            heard.append(receiver.receive(data[at : at + size]))
        if len([one for one in heard if one]) == 1:
            responder.answer(theirs)
    assert len([one for one in heard if one]) == 3


@given(st.binary(max_size=300), st.booleans())
def test_parsing_raises_one_error_only(data, framed):
    if framed:
        data = b"\0\1" + len(data).to_bytes(2, "big") + bytes.fromhex("2112a442") + data
        data = data[:2] + (len(data) - 20 & 0xFFFF).to_bytes(2, "big") + data[4:]
    recipient(data)
    try:
        parse(data)
    except RemoteProtocolError:
        pass
    else:
        assert is_stun(data)
