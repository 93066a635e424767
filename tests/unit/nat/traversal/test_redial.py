"""When to dial a peer that is to stay connected."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import LocalProtocolError
from lattica.nat.traversal.redial import Change, Phase, Redial, RedialPolicy

POLICY = RedialPolicy()


def new_redial(now: float = 100.0, seed: int = 0) -> Redial:
    return Redial(now, random.Random(seed))


def connect(redial: Redial, now: float) -> None:
    redial.begin(now)
    redial.connected(now)
    assert redial.phase is Phase.CONNECTED


def phase_of(redial: Redial) -> Phase:
    return redial.phase  # mypy takes an attribute for unchanged after a method was called


def fail(redial: Redial) -> float:
    """Fail when the next attempt is due, and return when that was."""
    now = redial.next_wake
    redial.begin(now)
    redial.failed(now)
    return now


def test_the_first_attempt_is_due_at_once():
    redial = new_redial(100.0)
    assert phase_of(redial) is Phase.WAITING
    assert redial.next_wake == 100.0
    assert redial.observe(100.0, False) is None
    with pytest.raises(LocalProtocolError, match="due"):
        redial.begin(99.9)
    redial.begin(100.0)
    assert phase_of(redial) is Phase.DIALING
    assert redial.next_wake == math.inf
    with pytest.raises(LocalProtocolError, match="due"):
        redial.begin(100.0)


def test_delays_double_up_to_the_limit_and_differ():
    redial = new_redial()
    due = [fail(redial) for _ in range(12)]
    delays = [after - before for before, after in pairwise(due)]
    for delay, longest in zip(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60], strict=True):
        assert longest / 2 <= delay <= longest
    assert len(set(delays[-5:])) == 5
    last = [fail(redial) for _ in range(2000)][-1]
    assert 30 <= redial.next_wake - last <= 60


def test_a_good_one_that_is_lost_is_dialed_often_for_two_minutes():
    redial = new_redial()
    connect(redial, redial.next_wake)
    lost = 100.0 + POLICY.lasting
    assert redial.observe(lost, False) is None
    due = [fail(redial) for _ in range(40)]
    delays = [(before - lost, after - before) for before, after in pairwise(due)]
    assert max(delay for t, delay in delays if t < POLICY.soon_for) <= 8
    assert delays[-1][0] > POLICY.soon_for
    assert all(delay >= 30 for t, delay in delays if t >= POLICY.soon_for)


def test_who_is_alone_dials_often_for_as_long_as_it_is():
    redial = new_redial()
    for _ in range(200):
        now = redial.next_wake
        redial.begin(now)
        redial.failed(now, is_alone=True)
        assert redial.next_wake - now <= 8
    last = fail(redial)
    assert redial.next_wake - last >= 30


def test_the_same_seed_gives_the_same_delays():
    one, same, other = new_redial(seed=3), new_redial(seed=3), new_redial(seed=4)
    due = [fail(one) for _ in range(5)]
    assert [fail(same) for _ in range(5)] == due
    assert [fail(other) for _ in range(5)] != due


def test_one_that_lasted_is_replaced_at_once():
    redial = new_redial()
    for _ in range(6):
        fail(redial)
    now = redial.next_wake
    for _ in range(3):
        connect(redial, now)
        redial.observe(now + 5, True)
        assert redial.next_wake == math.inf
        now += POLICY.lasting
        assert redial.observe(now, False) is None
        assert redial.phase is Phase.WAITING
        assert redial.next_wake == now
    # And the delays begin anew.
    redial.begin(now)
    assert redial.failed(now) is Change.UNREACHABLE
    assert redial.next_wake <= now + 1


def test_one_that_was_lost_soon_is_replaced_at_once_when_it_is_old_enough():
    redial = new_redial()
    connect(redial, 100.0)
    assert redial.observe(101.5, False) is None
    assert redial.next_wake == 101.5


def test_a_peer_that_takes_connections_and_drops_them_is_dialed_ever_more_seldom():
    redial, now = new_redial(), 100.0
    due, changes = [], []
    for _ in range(10):
        due.append(now)
        connect(redial, now)
        changes.append(redial.observe(now + 0.1, False))
        now = redial.next_wake
    delays = [after - before for before, after in pairwise(due)]
    for delay, longest in zip(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert longest / 2 <= delay <= longest
    assert changes == [Change.UNREACHABLE] + [None] * 9
    # It now fails altogether: no reason to be quicker.
    redial.begin(now)
    assert redial.failed(now) is None
    assert redial.next_wake >= now + 30


def test_changes_are_told_once():
    redial = new_redial()
    redial.begin(100.0)
    assert redial.failed(100.0) is Change.UNREACHABLE
    now = redial.next_wake
    redial.begin(now)
    assert redial.failed(now) is None
    now = redial.next_wake
    connect(redial, now)
    assert redial.next_wake == now + POLICY.settled
    assert redial.observe(now + 1, True) is None
    assert redial.observe(redial.next_wake, True) is Change.BACK
    assert redial.observe(now + 100, True) is None
    assert redial.observe(now + 200, False) is None
    redial.begin(now + 200)
    assert redial.failed(now + 215) is Change.UNREACHABLE
    # The delay counts from the end of the attempt.
    assert now + 215.5 <= redial.next_wake <= now + 216


def test_a_peer_that_dials_us_needs_no_dialing():
    redial = new_redial()
    fail(redial)
    assert redial.observe(100.1, True) is None
    assert redial.phase is Phase.CONNECTED
    redial = new_redial()
    redial.begin(100.0)
    redial.observe(100.1, True)
    assert redial.failed(100.2) is None
    assert redial.phase is Phase.CONNECTED


def test_a_released_peer_is_left_alone():
    for phase in (Phase.WAITING, Phase.DIALING, Phase.CONNECTED):
        redial = new_redial()
        fail(redial)
        due = redial.next_wake
        if phase is not Phase.WAITING:
            redial.begin(due)
        if phase is Phase.CONNECTED:
            redial.connected(due)
        redial.release()
        assert redial.next_wake == math.inf
        assert redial.failed(200.0) is None
        assert redial.observe(200.0, True) is None
        assert redial.observe(201.0, False) is None
        assert redial.phase is Phase.RELEASED
        with pytest.raises(LocalProtocolError):
            redial.begin(300.0)
        redial.resume(300.0)
        assert redial.next_wake == 300.0
        connect(redial, 300.0)
        assert redial.observe(310.0, True) is None


def test_resuming_what_was_not_released():
    redial = new_redial()
    fail(redial)
    due = redial.next_wake
    redial.resume(100.1)
    assert redial.next_wake == due


@dataclass
class World:
    """A peer and what happens to it, one thing after the other."""

    redial: Redial
    now: float = 100.0
    is_connected: bool = False
    made_at: float = 0.0
    attempts: list[float] = field(default_factory=list)
    last_loss: float = -math.inf
    changes: list[Change] = field(default_factory=list)
    released: bool = False

    def tell(self, change: Change | None) -> None:
        if change is not None:
            self.changes.append(change)

    def set_connected(self, is_connected: bool) -> None:
        if is_connected and not self.is_connected:
            self.made_at = self.now
        if self.is_connected and not is_connected:
            self.last_loss = self.now
        self.is_connected = is_connected
        self.tell(self.redial.observe(self.now, is_connected))

    def step(self, action: str, seconds: float) -> None:
        redial = self.redial
        self.now += seconds
        match action:
            case "answer" | "refuse" if redial.phase is Phase.DIALING:
                if action == "refuse":
                    self.tell(redial.failed(self.now))
                else:
                    redial.connected(self.now)
                    self.set_connected(True)
            case "inbound":
                self.set_connected(True)
            case "lose":
                self.set_connected(False)
            case "release":
                redial.release()
                self.released = True
                self.changes.clear()
                self.set_connected(False)
            case "resume":
                redial.resume(self.now)
                self.released = False
        self.tell(redial.observe(self.now, self.is_connected))
        if redial.phase is Phase.WAITING and redial.next_wake <= self.now:
            redial.begin(self.now)
            self.attempts.append(self.now)


steps = st.tuples(
    st.sampled_from(["answer", "refuse", "inbound", "lose", "wait", "release", "resume"]),
    st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 200)),
)


@given(st.lists(steps, max_size=80), st.integers(0, 10))
def test_whatever_happens(history: list[tuple[str, float]], seed: int) -> None:
    world = World(new_redial(seed=seed))
    for action, seconds in history:
        before = len(world.attempts)
        world.step(action, seconds)
        redial, now = world.redial, world.now
        # One attempt at a time, and none when there is no need.
        assert len(world.attempts) - before <= 1
        if len(world.attempts) > before:
            assert not world.is_connected
            assert not world.released
        # It is either connected, being dialed, or dialed before long.
        assert world.released == (redial.phase is Phase.RELEASED)
        if not world.released:
            assert world.is_connected == (redial.phase is Phase.CONNECTED)
        if redial.phase is Phase.WAITING:
            assert now < redial.next_wake <= now + POLICY.limit
        # The two changes take turns.
        turns = [Change.UNREACHABLE, Change.BACK] * len(world.changes)
        assert world.changes == turns[: len(world.changes)]


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 0.01)), min_size=20, max_size=60),
    st.integers(0, 10),
)
def test_no_hectic(outcomes: list[tuple[bool, float]], seed: int) -> None:
    """Whether it refuses or takes connections to drop them: n attempts take their time."""
    world = World(new_redial(seed=seed))
    for answers, seconds in outcomes:
        world.now = max(world.now, world.redial.next_wake)
        world.step("wait", 0)
        assert world.redial.phase is Phase.DIALING
        world.step("answer" if answers else "refuse", seconds)
        if answers:
            world.step("lose", seconds)
    gaps = [b - a for a, b in pairwise(world.attempts)]
    assert all(gap >= POLICY.first / 2 for gap in gaps)
    # A connection makes up for attempts that failed, but not for connections that were dropped.
    dropped = sum(answers for answers, _ in outcomes)
    assert sum(gaps) >= sum(min(60, 2**n) / 2 for n in range(max(dropped - 1, 0)))
