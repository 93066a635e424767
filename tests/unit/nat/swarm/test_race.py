"""The race of dials, on a virtual clock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from lattica.errors import DialError, RemoteProtocolError
from lattica.nat.swarm.dialing.race import _Race, race
from tests.support.freed import freed_at_once

NEVER = float("inf")


@dataclass(frozen=True)
class Plan:
    """What a candidate does: after `delay` seconds it connects, or raises `error`."""

    name: str
    delay: float
    error: Exception | None = None
    shielded: bool = False
    """It connects even if it is cancelled meanwhile: a success that comes too late."""

    def __str__(self) -> str:
        return self.name


class Dialer:
    """Keeps account of who was dialed when, and of what is open."""

    def __init__(self) -> None:
        self.begun = trio.current_time()
        self.started: dict[str, float] = {}
        self.running = 0
        self.open: set[str] = set()

    async def dial(self, plan: Plan) -> str:
        self.started[plan.name] = self.now
        self.running += 1
        try:
            with trio.CancelScope(shield=plan.shielded):
                await trio.sleep(plan.delay)
            if plan.error is not None:
                raise plan.error
            self.open.add(plan.name)
            return plan.name
        finally:
            self.running -= 1

    @property
    def now(self) -> float:
        return round(trio.current_time() - self.begun, 3)

    async def race(
        self,
        plans: Sequence[Plan],
        *,
        stagger: float = 0.25,
        each: float = 10,
        total: float = 30,
        discard: Callable[[str], object] | None = None,
    ) -> str:
        return await race(
            plans,
            self.dial,
            stagger=stagger,
            timeout_each=each,
            timeout_total=total,
            discard=discard or self.open.remove,
            target="the peer",
        )


async def test_the_first_is_preferred(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    assert await dialer.race([Plan("a", 0.1), Plan("b", 0)]) == "a"
    assert dialer.started == {"a": 0}
    assert dialer.open == {"a"}


async def test_a_black_hole_costs_one_stagger(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    assert await dialer.race([Plan("hole", NEVER), Plan("good", 0.1), Plan("c", 0)]) == "good"
    assert dialer.started == {"hole": 0, "good": 0.25}
    assert dialer.now == 0.35
    assert (dialer.open, dialer.running) == ({"good"}, 0)


async def test_a_failure_starts_the_next_at_once(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    refused = ConnectionRefusedError(111, "Connection refused")
    plans = [Plan("a", 0.01, refused), Plan("b", 0, refused), Plan("c", 1), Plan("d", 1)]
    assert await dialer.race(plans) == "c"
    assert dialer.started == {"a": 0, "b": 0.01, "c": 0.01, "d": 0.26}


async def test_a_late_failure_of_an_early_one_starts_the_next(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    plans = [Plan("a", 0.3, OSError("x")), Plan("b", NEVER), Plan("c", 0)]
    assert await dialer.race(plans) == "c"
    assert dialer.started == {"a": 0, "b": 0.25, "c": 0.3}


async def test_all_fail(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    plans = [
        Plan("a", 0, ConnectionRefusedError(111, "Connection refused")),
        Plan("b", NEVER),
        Plan("c", 0, RemoteProtocolError("spoke HTTP")),
        Plan("d", 0, OSError()),
        Plan("e", 0, trio.TooSlowError()),
    ]
    with pytest.raises(DialError) as caught:
        await dialer.race(plans, each=5)
    assert [(attempt.address, attempt.error) for attempt in caught.value.attempts] == [
        ("a", "Connection refused"),
        ("b", "timed out after 5 s"),
        ("c", "spoke HTTP"),
        ("d", "OSError"),
        ("e", "timed out"),
    ]
    assert caught.value.target == "the peer"
    assert "the peer" in str(caught.value)
    assert dialer.now == 5


@pytest.mark.parametrize("outcome", ["one wins", "all fail", "too late"])
async def test_what_failed_is_freed_at_once(autojump_clock: MockClock, outcome: str) -> None:
    """An error has the frames that it went through, and so the state of the race."""

    async def dial(name: str) -> str:
        if name == "last":
            await trio.sleep(100 if outcome == "too late" else 1)
        if name != "last" or outcome == "all fail":
            raise RemoteProtocolError(name)
        return name

    with freed_at_once(_Race, RemoteProtocolError), suppress(DialError):
        await race(
            ["first", "second", "last"],
            dial,
            stagger=0.25,
            timeout_each=200,
            timeout_total=10,
            discard=str,
            target="the peer",
        )


async def test_nobody_to_dial(autojump_clock: MockClock) -> None:
    with pytest.raises(DialError, match="no address known"):
        await Dialer().race([])


async def test_the_total_time_is_bounded(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    plans = [Plan(name, NEVER) for name in "abcd"]
    with pytest.raises(DialError) as caught:
        await dialer.race(plans, each=10, total=0.6)
    assert [attempt.error for attempt in caught.value.attempts] == [
        "gave up after 0.6 s in total",
        "gave up after 0.6 s in total",
        "gave up after 0.6 s in total",
        "not tried: gave up after 0.6 s in total",
    ]
    assert dialer.now == 0.6
    assert (dialer.open, dialer.running) == (set(), 0)


async def test_simultaneous_successes_leave_one(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    plans = [Plan("a", 0.5), Plan("b", 0.25), Plan("c", 0)]
    assert await dialer.race(plans) in {"a", "b", "c"}
    assert len(dialer.open) == 1


async def test_a_success_that_comes_too_late_is_discarded(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    discarded: list[str] = []
    plans = [Plan("late", 0.5, shielded=True), Plan("good", 0.1)]
    assert await dialer.race(plans, discard=discarded.append) == "good"
    assert discarded == ["late"]


async def test_a_success_at_the_very_end_counts(autojump_clock: MockClock) -> None:
    dialer = Dialer()
    assert await dialer.race([Plan("a", 2, shielded=True)], each=1) == "a"
    assert await dialer.race([Plan("b", 2, shielded=True)], total=1) == "b"


async def test_none_is_a_result_like_any_other(autojump_clock: MockClock) -> None:
    async def dial(candidate: int) -> None:
        await trio.sleep(candidate)

    await race(
        [1, 2],
        dial,
        stagger=0,
        timeout_each=5,
        timeout_total=5,
        discard=lambda result: None,
        target="x",
    )


async def test_a_bug_in_one_way_leaves_the_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    dialer = Dialer()
    with caplog.at_level(logging.ERROR):
        assert await dialer.race([Plan("a", 0, KeyError("bug")), Plan("b", 1)]) == "b"
    assert "unexpected error while dialing a" in caplog.text


async def test_a_bug_in_discard_is_only_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def discard(result: str) -> None:
        raise ValueError("bug")

    dialer = Dialer()
    plans = [Plan("late", 0.5, shielded=True), Plan("good", 0)]
    with caplog.at_level(logging.ERROR):
        assert await dialer.race(plans, discard=discard) == "good"
    assert "unexpected error while discarding" in caplog.text


async def test_what_is_no_exception_ends_the_race(autojump_clock: MockClock) -> None:
    class Stop(BaseException):
        pass

    dialer = Dialer()

    async def dial(plan: Plan) -> str:
        if plan.name == "stop":
            await trio.sleep(1)
            raise Stop
        return await dialer.dial(plan)

    with pytest.raises(BaseExceptionGroup) as caught:
        await race(
            [Plan("stop", 0), Plan("a", NEVER)],
            dial,
            stagger=0.1,
            timeout_each=5,
            timeout_total=5,
            discard=dialer.open.remove,
            target="x",
        )
    assert caught.group_contains(Stop)
    assert dialer.running == 0


@pytest.mark.parametrize("moment", [0, 0.1, 0.25, 0.3, 0.5, 0.55, 0.6])
async def test_cancellation_at_any_time_leaks_nothing(
    autojump_clock: MockClock, moment: float
) -> None:
    dialer = Dialer()
    plans = [
        Plan("a", NEVER),
        Plan("b", 0.3, shielded=True),
        Plan("c", 0.05, shielded=True),
        Plan("d", 1),
    ]
    kept: set[str] = set()
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + moment
        kept.add(await dialer.race(plans))
    assert dialer.open == kept
    assert dialer.running == 0


async def test_a_caller_that_is_cancelled_after_the_win_still_gets_it(
    autojump_clock: MockClock,
) -> None:
    # A shielded loser holds the race back after it was won at 0.1 s.
    dialer = Dialer()
    plans = [Plan("slow", 1, shielded=True), Plan("won", 0.1)]
    kept: set[str] = set()
    with trio.move_on_after(0.5):
        kept.add(await dialer.race(plans, stagger=0))
    assert dialer.open == kept == {"won"}


async def test_a_winner_is_discarded_when_the_race_breaks(autojump_clock: MockClock) -> None:
    class Stop(BaseException):
        pass

    dialer = Dialer()

    async def dial(plan: Plan) -> str:
        try:
            return await dialer.dial(plan)
        except trio.Cancelled:
            raise Stop from None

    with pytest.raises(BaseExceptionGroup) as caught:
        await race(
            [Plan("stop", NEVER), Plan("won", 1)],
            dial,
            stagger=0.1,
            timeout_each=5,
            timeout_total=5,
            discard=dialer.open.remove,
            target="x",
        )
    assert caught.group_contains(Stop)
    assert dialer.open == set()
