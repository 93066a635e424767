"""The birthday method under any input: bounded, and deaf to strangers."""

from __future__ import annotations

import contextlib
import random

from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.nat.swarm.addresses.nat_report import Behaviour
from lattica.nat.traversal.punch.birthday import messages
from lattica.nat.traversal.punch.birthday.core import (
    BirthdayEasy,
    BirthdayHard,
    Kind,
    decode,
    encode,
)
from lattica.nat.traversal.punch.birthday.messages import Hello, Met, Ready, Refusal
from lattica.nat.traversal.punch.probe_budget import ProbeBudget

TOKENS = st.binary(min_size=16, max_size=16)
PORTS = st.integers(1, 65535)
HOSTS = st.ip_addresses(v=4).map(str)
BEHAVIOURS = st.none() | st.sampled_from(list(Behaviour))
HELLOS = st.builds(
    Hello,
    TOKENS,
    BEHAVIOURS,
    BEHAVIOURS,
    st.lists(st.tuples(HOSTS, PORTS), max_size=messages.MAX_MAPPED).map(tuple),
)
PRINTABLE = st.text(st.characters(categories=("L", "N")), max_size=200)
MESSAGES = (
    HELLOS
    | st.builds(Refusal, PRINTABLE, st.booleans())
    | st.builds(Ready, PORTS)
    | st.builds(Met, PORTS)
)


@given(MESSAGES)
def test_messages_survive_the_way(message):
    assert messages.decode(messages.encode(message)) == message


@given(st.binary(max_size=200))
def test_nonsense_is_a_message_or_the_peers_fault(data):
    with contextlib.suppress(RemoteProtocolError):
        messages.decode(data)


@given(TOKENS, TOKENS, st.sampled_from(list(Kind)), st.binary(max_size=40))
def test_only_the_token_opens(token: bytes, other: bytes, kind: Kind, noise: bytes) -> None:
    assert decode(encode(kind, token), token) is kind
    if other != token:
        assert decode(encode(kind, other), token) is None
    assert decode(noise, token) in (None, Kind.PROBE, Kind.ANSWER)


@given(
    st.lists(PORTS, max_size=8),
    st.integers(1, 3000),
    st.floats(1, 1000),
    st.lists(st.floats(0, 30), max_size=40),
    st.integers(0, 1 << 32),
)
def test_the_easy_side_keeps_to_its_count_and_rate(hints, probes, rate, pauses, seed):
    now = 0.0
    core = BirthdayEasy(
        bytes(16),
        "11.0.0.1",
        hints=hints,
        probes=probes,
        rate=rate,
        clock=lambda: now,
        rng=random.Random(seed),
    )
    sent: list[int] = []
    for pause in pauses:
        now += pause
        sent += [port for _, port in core.poll()]
    assert len(sent) == len(set(sent)) == core.sent <= probes
    assert core.sent <= now * rate + 2
    assert all(1024 <= port <= 65535 for port in sent)
    timer = core.next_timer()
    assert core.has_failed if timer is None else timer > now or not pauses


@given(st.integers(1, 300), st.floats(0.5, 60), st.lists(st.floats(0, 30), max_size=40))
def test_the_hard_side_keeps_to_its_rate(sockets, refresh, pauses):
    now = 0.0
    core = BirthdayHard(
        bytes(16), ("11.0.0.1", 1), sockets=sockets, refresh=refresh, clock=lambda: now
    )
    sent: list[int] = []
    for pause in pauses:
        now += pause
        sent += core.poll()
    assert all(0 <= index < sockets for index in sent)
    assert len(sent) <= sockets + 1 + 2 * now * sockets / refresh + 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3600)), max_size=200))
def test_the_budget_holds_over_any_hour(takes):
    now = 0.0
    budget = ProbeBudget(5, 8, clock=lambda: now)
    granted: list[tuple[float, str]] = []
    for host, pause in takes:
        now += pause
        if budget.take(host):
            granted.append((now, host))
    for start, _ in granted:
        hour = [host for t, host in granted if start <= t < start + 3600]
        assert len(hour) <= 2 * 8
        assert all(hour.count(host) <= 2 * 5 for host in "abc")
