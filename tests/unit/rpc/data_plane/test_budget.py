"""Who gives memory back when there is not enough: bodies that hold most and move least."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.limits.places import Source
from lattica.rpc import ResourceExhaustedError
from lattica.rpc.data_plane.budget import SLOW, ReceiveBudget

TOTAL, PER_PEER = 100, 60


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Body:
    budget: ReceiveBudget
    network: str = "a"
    peer: PeerId = field(default_factory=lambda: Identity.generate().peer_id)
    held: int = 0
    waits_since: float = 0.0
    yielded: bool = False

    @property
    def source(self) -> Source:
        return Source(self.peer, self.network)

    def take(self, size: int) -> None:
        self.budget.reserve(self.peer, size)
        self.held += size

    def wait(self, since: float) -> None:
        self.waits_since = since
        self.budget.waiting.add(self)

    def give_up(self) -> None:
        self.yielded = True
        self.budget.release(self.peer, self.held)
        self.budget.waiting.discard(self)
        self.held = 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> ReceiveBudget:
    return ReceiveBudget(TOTAL, PER_PEER, clock)


def body(budget: ReceiveBudget, held: int, since: float | None, network: str = "a") -> Body:
    made = Body(budget, network)
    made.take(held)
    if since is not None:
        made.wait(since)
    return made


def test_the_slowest_yields_and_no_more_than_is_needed(budget: ReceiveBudget, clock: Clock) -> None:
    large, slow, fast = (
        body(budget, 40, 8.0, "a"),
        body(budget, 30, 0.0, "b"),
        body(budget, 30, 9.9),
    )
    clock.now = 10.0
    other = Body(budget, "c")
    other.take(20)
    # 30 bytes for 10 s, against 40 for 2 s.
    assert [each.yielded for each in (large, slow, fast)] == [False, True, False]
    assert budget.used == 90
    other.take(20)
    assert large.yielded
    assert not fast.yielded
    assert budget.used == 70


def test_many_of_one_network_yield_before_one_of_another(
    budget: ReceiveBudget, clock: Clock
) -> None:
    flood = [body(budget, 15, 0.0, "a") for _ in range(4)]
    honest = body(budget, 40, 0.0, "b")
    clock.now = 10.0
    Body(budget, "c").take(10)
    assert sum(each.yielded for each in flood) == 1
    assert not honest.yielded


def test_what_comes_fast_or_is_there_keeps_its_memory(budget: ReceiveBudget, clock: Clock) -> None:
    there = body(budget, 50, None)
    fast = body(budget, 50, 0.0)
    clock.now = SLOW - 0.1
    with pytest.raises(ResourceExhaustedError, match="receive_memory is 100 bytes") as caught:
        Body(budget).take(1)
    assert caught.value.retry_after == 0.5
    clock.now = SLOW
    Body(budget).take(1)
    assert fast.yielded
    assert not there.yielded
    assert budget.used == 51


def test_who_only_says_that_much_will_come_takes_nothing(
    budget: ReceiveBudget, clock: Clock
) -> None:
    slow = body(budget, 50, 0.0)
    body(budget, 50, None)
    clock.now = 10.0
    newcomer = Identity.generate().peer_id
    budget.check(newcomer, 50)
    assert not slow.yielded
    # What does not wait stays.
    with pytest.raises(ResourceExhaustedError, match="of which 50 are in use"):
        budget.check(newcomer, 51)


def test_a_peer_s_own_limit_takes_nothing_from_others(budget: ReceiveBudget, clock: Clock) -> None:
    slow = body(budget, 40, 0.0)
    own = body(budget, 60, None)
    clock.now = 10.0
    with pytest.raises(ResourceExhaustedError, match="receive_memory_per_peer"):
        own.take(1)
    assert not slow.yielded
