"""Retries, balancing and what a deadline learns: pure."""

from __future__ import annotations

import random

import pytest

from lattica.errors import LocalProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.rpc import (
    AbortedError,
    CallOptions,
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    RpcError,
    StatusCode,
    UnavailableError,
    UnknownError,
)
from lattica.rpc.client.balance import BAN, Balancer
from lattica.rpc.client.latency import Latencies
from lattica.rpc.client.retry import RetryBudget, pause_before

PEERS = [Identity.generate().peer_id for _ in range(5)]


def pause(
    error: RpcError, attempt: int = 1, *, idempotent: bool = False, elsewhere: bool = False
) -> float | None:
    return pause_before(
        error,
        attempt,
        idempotent=idempotent,
        elsewhere=elsewhere,
        retries=4,
        budget=RetryBudget(),
        rng=random.Random(1),
    )


def test_what_is_made_again() -> None:
    ran, not_run = UnavailableError("x"), UnavailableError("x", may_have_run=False)
    assert pause(ran) is None
    assert pause(ran, elsewhere=True) is None
    assert pause(ran, idempotent=True) is not None
    assert pause(not_run) is None
    assert pause(not_run, elsewhere=True) == 0
    assert pause(not_run, idempotent=True) is not None
    assert pause(AbortedError("x"), idempotent=True) is not None
    assert pause(DeadlineExceededError("x"), idempotent=True) is not None
    for final in (UnknownError("x"), InvalidArgumentError("x"), ResourceExhaustedError("x")):
        assert pause(final, idempotent=True, elsewhere=True) is None
    assert pause(ran, 5, idempotent=True) is None
    busy = ResourceExhaustedError("busy", may_have_run=False, retry_after=0.4)
    assert 0.4 <= (pause(busy) or 0) <= 0.5
    assert pause(busy, elsewhere=True) == 0


def test_pauses_grow_and_are_jittered() -> None:
    pauses = [pause(UnavailableError("x"), attempt, idempotent=True) for attempt in (1, 2, 3, 4)]
    for number, seconds in enumerate(pauses):
        assert seconds is not None
        assert 0.025 * 2**number <= seconds <= 0.05 * 2**number


def test_retries_are_a_tenth_of_the_calls() -> None:
    budget = RetryBudget()
    retries = 0
    for _ in range(1000):
        budget.called()
        while budget.take():
            retries += 1
    assert retries <= 1000 / 10 + 10


def test_the_less_loaded_of_two_is_called() -> None:
    now = 0.0
    balancer = Balancer(lambda: now, random.Random(1))
    balancer.update(PEERS[:2])
    for _ in range(10):
        balancer.started(PEERS[0])
    assert {balancer.choose(PEERS[:2]) for _ in range(20)} == {PEERS[1]}
    for _ in range(10):
        balancer.ended(PEERS[0], StatusCode.OK, 0.010)
    balancer.started(PEERS[1])
    balancer.ended(PEERS[1], StatusCode.OK, 0.100)
    assert {balancer.choose(PEERS[:2]) for _ in range(20)} == {PEERS[0]}


def test_whoever_was_slow_once_is_tried_again():
    now = 0.0
    balancer = Balancer(lambda: now, random.Random(1))
    balancer.update(PEERS[:2])
    balancer.started(PEERS[0])
    balancer.ended(PEERS[0], StatusCode.OK, 0.100)  # its connection had to be made first
    for _ in range(200):
        now += 1.0
        peer = balancer.choose(PEERS[:2])
        assert peer is not None
        balancer.started(peer)
        balancer.ended(peer, StatusCode.OK, 0.001)
        if peer == PEERS[0]:
            break
    else:
        pytest.fail("it was never tried again")
    now += 10_000_000.0
    assert balancer.choose(PEERS[:2]) in PEERS[:2]


def test_whoever_is_busy_for_long_does_not_count_as_fast():
    now = 0.0
    balancer = Balancer(lambda: now, random.Random(1))
    balancer.update(PEERS[:2])
    for peer in PEERS[:2]:
        balancer.started(peer)
        balancer.ended(peer, StatusCode.OK, 60.0)
    balancer.started(PEERS[0])
    balancer.started(PEERS[0])
    balancer.started(PEERS[1])
    now = 60.0
    assert {balancer.choose(PEERS[:2]) for _ in range(20)} == {PEERS[1]}
    balancer.ended(PEERS[1], StatusCode.OK, 60.0)
    assert {balancer.choose(PEERS[:2]) for _ in range(20)} == {PEERS[1]}


def test_who_fails_is_left_out_for_a_while() -> None:
    now = 0.0
    balancer = Balancer(lambda: now, random.Random(1))
    balancer.update(PEERS)
    for peer in PEERS[:4]:
        balancer.started(peer)
        balancer.ended(peer, StatusCode.UNAVAILABLE, 1.0)
    assert {balancer.choose(PEERS) for _ in range(50)} == {PEERS[4]}
    balancer.started(PEERS[4])
    balancer.ended(PEERS[4], StatusCode.NOT_FOUND, 1.0)  # an answer like any other
    assert not balancer.is_banned(PEERS[4])
    assert balancer.choose(PEERS[:2]) in PEERS[:2]  # rather than nobody
    assert balancer.choose(PEERS, avoid=PEERS[3:]) in PEERS[:3]
    now = BAN + 0.1
    assert len({balancer.choose(PEERS) for _ in range(100)}) == 5
    assert balancer.choose([]) is None


def test_a_deadline_learns() -> None:
    latencies = Latencies()
    for _ in range(7):
        latencies.add(0.1)
    assert latencies.deadline is None
    latencies.add(0.3)
    assert latencies.deadline == pytest.approx(0.1)
    for _ in range(60):
        latencies.add(0.2)
    latencies.add(0.4)
    assert latencies.deadline == pytest.approx(0.2)
    for seconds in (0.1, 0.3) * 32:
        latencies.add(seconds)
    assert latencies.deadline == pytest.approx(0.2 + 4 * 0.1)


@pytest.mark.parametrize(
    "options", [{"timeout": -1}, {"retries": 5}, {"hedge_after": float("nan")}, {"retries": -1}]
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(LocalProtocolError):
        CallOptions(**options)  # type: ignore[arg-type]
