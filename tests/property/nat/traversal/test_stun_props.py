"""STUN: what is written is read back, noise is refused, and no set of lies breaks the judgement."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.swarm.addresses.nat_report import Behaviour
from lattica.nat.traversal.stun import codec as stun
from lattica.nat.traversal.stun.behaviour import (
    Findings,
    Observation,
    Responder,
    believed,
    judge,
)
from lattica.nat.traversal.stun.codec import BindingError, BindingRequest, BindingResponse
from lattica.nat.traversal.stun.responder import (
    AMPLIFICATION,
    StunResponderCore,
    StunResponderLimits,
)
from lattica.nat.traversal.stun.transaction import StunTiming, Transaction
from tools.netlab.packets import stun as lab_stun

names = st.binary(min_size=12, max_size=12)
ports = st.integers(0, 65535)
endpoints = st.tuples(st.ip_addresses().map(str), ports)
requests = st.builds(
    BindingRequest,
    names,
    change_ip=st.booleans(),
    change_port=st.booleans(),
    response_port=st.none() | ports,
    fingerprint=st.booleans(),
)
responses = st.builds(
    BindingResponse,
    names,
    endpoints,
    st.none() | endpoints,
    st.none() | endpoints,
    fingerprint=st.booleans(),
)
errors = st.builds(
    BindingError,
    names,
    st.integers(300, 699),
    st.text(max_size=40),
    st.lists(ports, max_size=8).map(tuple),
    fingerprint=st.booleans(),
)


@given(requests | responses | errors)
def test_round_trip(message):
    data = stun.encode(message)
    assert stun.decode(data) == message
    assert stun.is_request_for_responder(data) is isinstance(message, BindingRequest)


@given(requests | responses)
def test_the_labs_own_codec_agrees(message):
    data = stun.encode(message)
    theirs = lab_stun.decode(data)
    assert theirs.transaction == message.transaction
    if isinstance(message, BindingResponse):
        assert (theirs.mapped, theirs.other) == (message.mapped, message.other)
    else:
        assert theirs.change_ip == message.change_ip
        assert theirs.response_port == message.response_port


@given(requests | responses | errors, st.data())
def test_one_flipped_bit(message, data):
    encoded = bytearray(stun.encode(message))
    place = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[place // 8] ^= 1 << place % 8
    try:
        decoded = stun.decode(bytes(encoded))
    except RemoteProtocolError:
        return
    # The checksum finds it, unless it is the mark of the checksum itself that was hit.
    assert not message.fingerprint or not decoded.fingerprint


@given(st.binary(max_size=600))
def test_noise(data):
    with suppress(RemoteProtocolError):
        stun.decode(data)


@given(requests, endpoints, st.integers(0, 3))
def test_no_answer_is_much_longer_than_its_request(request, source, socket):
    sockets = [(host, port) for host in ("192.0.2.1", "192.0.2.2") for port in (1, 2)]
    core = StunResponderCore(sockets, StunResponderLimits(), lambda: 0.0)
    data = stun.encode(request)
    answer = core.receive(data, source, socket)
    if answer is not None:
        assert len(answer.data) <= AMPLIFICATION * len(data)
        assert answer.destination[0] == source[0]


@given(
    st.builds(
        StunTiming,
        st.floats(0.01, 10),
        st.integers(1, 10),
        st.floats(0.01, 10),
    ),
    st.lists(st.floats(0, 5), max_size=30),
)
def test_a_request_is_sent_so_often_and_no_more(timing, waits):
    transaction = Transaction(BindingRequest(bytes(12)), ("192.0.2.1", 1), (), timing)
    now, sent = 0.0, 0
    for wait in [*waits, *[timing.total * 2] * 20]:
        sent += transaction.due(now) is not None
        now += wait
    assert sent == timing.requests
    assert transaction.timed_out


# --- judgement ---

hosts = st.sampled_from([f"8.8.{n}.1" for n in range(6)])
responders = st.builds(Responder, hosts, st.integers(1, 3), st.none() | st.integers(0, 3))
claims = st.tuples(
    st.sampled_from(["9.9.9.9", "9.9.9.8", "10.0.0.1", "127.0.0.1", "0.0.0.0", "2001:4860::1"]),
    st.integers(0, 3),
)
observations = st.lists(st.builds(Observation, responders, claims), max_size=12)
LOCAL = frozenset({"10.0.0.1", "127.0.0.1"})
tests = st.none() | st.booleans()


@given(observations, tests, tests, tests)
def test_whatever_is_claimed(seen, other_address, other_port, hairpin):
    findings = Findings(
        1,
        LOCAL,
        tuple(each.responder for each in seen),
        tuple(seen),
        other_address=other_address,
        other_port=other_port,
        hairpin=hairpin,
    )
    report = judge(findings)
    for mapped in report.mapped:
        assert ipaddress.ip_address(mapped[0]).is_global
        assert mapped[1]
    if report.mapping is Behaviour.ENDPOINT_INDEPENDENT:
        assert len(report.mapped) == 1
    assert (report.udp_works is True) is bool(seen)


@given(st.integers(2, 6), st.data())
def test_a_minority_of_liars_changes_nothing(honest, data):
    """Behind a NAT that maps alike for all: whatever fewer liars say."""
    truth = ("9.9.9.9", 5)
    seen = [Observation(Responder(f"8.8.{n}.1", 1, n), truth) for n in range(honest)]
    for n in range(data.draw(st.integers(0, honest - 1))):
        lies = st.builds(Observation, st.builds(Responder, hosts, ports, st.just(-n - 1)), claims)
        seen += data.draw(st.lists(lies, max_size=4))
    assert {each.mapped for each in believed(seen, LOCAL)} == {truth}
