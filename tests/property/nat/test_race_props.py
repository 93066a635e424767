"""Whatever the attempts do and whenever the caller goes away, nothing is lost or left running."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from lattica.errors import DialError
from lattica.nat.swarm.dialing.race import race

times = st.integers(0, 12).map(lambda n: n / 10)


@dataclass(frozen=True)
class Plan:
    delay: float
    succeeds: bool
    shielded: bool


plans = st.builds(Plan, times, st.booleans(), st.booleans())


@settings(max_examples=300, deadline=None)
@given(st.lists(plans, max_size=6), times, times, times, st.none() | times)
def test_nothing_leaks(
    candidates: list[Plan], stagger: float, each: float, total: float, cancel_at: float | None
) -> None:
    open_now: set[int] = set()
    running = 0
    outcome: list[int | DialError] = []

    async def dial(index: int) -> int:
        nonlocal running
        running += 1
        try:
            plan = candidates[index]
            with trio.CancelScope(shield=plan.shielded):
                await trio.sleep(plan.delay)
            if not plan.succeeds:
                raise OSError(index)
            open_now.add(index)
            return index
        finally:
            running -= 1

    async def main() -> None:
        deadline = trio.current_time() + cancel_at if cancel_at is not None else float("inf")
        with trio.CancelScope(deadline=deadline):
            try:
                winner = await race(
                    range(len(candidates)),
                    dial,
                    stagger=stagger,
                    timeout_each=each,
                    timeout_total=total,
                    discard=open_now.remove,
                    target="x",
                )
                outcome.append(winner)
            except DialError as error:
                outcome.append(error)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert running == 0
    match outcome:
        case [int(kept)]:
            assert open_now == {kept}
        case [DialError(attempts=attempts)]:
            assert open_now == set()
            assert len(attempts) == len(candidates)
        case _:
            assert outcome == []
            assert cancel_at is not None
            assert open_now == set()
