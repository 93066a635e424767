"""When to look for a direct path, and when to leave it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from lattica.nat.base.checks import FieldError
from lattica.nat.swarm.status import StrategyReport
from lattica.nat.traversal.path_plan import PathConfig, PathPlan

FAILED = {"tcp": StrategyReport("tcp", False, "refused")}
HOPELESS = {"udp": StrategyReport("udp", False, "both are symmetric", applicable=False)}
WORKED = {"tcp": StrategyReport("tcp", True, "")}
CONFIG = PathConfig()


def new_plan(**changes: Any) -> PathPlan:
    return PathPlan(100.0, PathConfig(**changes), random.Random(1))


def give_up(plan: PathPlan, now: float) -> None:
    plan.failed(now, HOPELESS)
    assert plan.given_up


def test_the_first_attempt_is_due_at_once_and_later_ones_ever_later():
    plan = new_plan()
    assert plan.next_attempt == 100.0
    now, delays = 100.0, []
    while plan.next_attempt < math.inf:
        plan.failed(now, FAILED)
        if plan.next_attempt < math.inf:
            delays.append(plan.next_attempt - now)
            now = plan.next_attempt
    assert len(delays) == CONFIG.attempts - 1
    for number, delay in enumerate(delays):
        longest = min(300.0, CONFIG.first_delay * 2**number)
        assert longest / 2 <= delay <= longest
    assert plan.reports == tuple(FAILED.values())


def test_what_cannot_work_is_not_tried_again():
    plan = new_plan()
    give_up(plan, 100.0)
    plan.renew(200.0)
    assert plan.next_attempt == 200.0
    plan.failed(200.0, HOPELESS | FAILED)
    assert not plan.given_up


def test_success_ends_it_and_the_end_of_a_good_path_starts_it_anew():
    plan = new_plan(attempts=2)
    plan.failed(100.0, FAILED)
    plan.direct(101.0, WORKED)
    assert plan.reports == tuple(WORKED.values())
    assert plan.next_attempt == math.inf
    assert not plan.given_up
    plan.direct(110.0)  # nothing new
    plan.renew(120.0)  # it need not be looked for
    assert plan.next_attempt == math.inf
    plan.relayed(101.0 + CONFIG.lasting)
    assert plan.next_attempt == 101.0 + CONFIG.lasting
    plan.failed(300.0, FAILED)
    assert not plan.given_up
    plan.failed(400.0, FAILED)
    assert plan.given_up


def test_direct_paths_that_die_soon_are_like_failures():
    plan = new_plan()
    now, delays = 100.0, []
    for _ in range(6):
        plan.direct(now)
        plan.relayed(now + 1)
        delays.append(plan.next_attempt - now - 1)
        now = plan.next_attempt
    assert delays[0] >= CONFIG.first_delay / 2
    assert delays[-1] > 8 * CONFIG.first_delay


def test_a_peer_that_comes_again_gets_one_attempt_and_not_too_soon():
    plan = new_plan()
    give_up(plan, 100.0)
    plan.relayed(101.0)
    assert plan.next_attempt == 100.0 + CONFIG.revival
    plan.failed(130.0, HOPELESS)
    assert plan.given_up
    plan.relayed(1000.0)
    assert plan.next_attempt == 1000.0
    plan.failed(1000.0, FAILED)
    due = plan.next_attempt
    plan.relayed(1000.1)  # that it comes again and again changes nothing
    assert plan.next_attempt == due


def test_delays_have_a_limit():
    plan = new_plan(attempts=2000, longest_delay=30.0)
    for _ in range(1500):
        plan.failed(0.0, FAILED)
        assert plan.next_attempt <= 30.0


@pytest.mark.parametrize(
    "changes", [{"attempts": 0}, {"grace": 0.0}, {"timeout": math.inf}, {"max_concurrent": 0}]
)
def test_settings_out_of_range(changes):
    with pytest.raises(FieldError):
        PathConfig(**changes)
