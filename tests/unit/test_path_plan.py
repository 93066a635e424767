"""When to look for a direct path, and when to leave it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from lattica.nat.config_checks import FieldError
from lattica.nat.path_plan import PathConfig, PathPlan, WayReport

FAILED = {"tcp": WayReport("tcp", False, "refused")}
HOPELESS = {"udp": WayReport("udp", False, "both are symmetric", applicable=False)}
WORKED = {"tcp": WayReport("tcp", True, "")}


def new_plan(**changes: Any) -> PathPlan:
    return PathPlan(100.0, PathConfig(**changes), random.Random(1))


def test_the_first_attempt_is_due_at_once_and_later_ones_ever_later():
    plan = new_plan()
    assert plan.next_attempt == 100.0
    now, delays = 100.0, []
    while plan.next_attempt < math.inf:
        plan.failed(now, FAILED)
        if plan.next_attempt < math.inf:
            delays.append(plan.next_attempt - now)
            now = plan.next_attempt
    assert len(delays) == PathConfig().attempts - 1
    for number, delay in enumerate(delays):
        longest = min(300.0, PathConfig().first_delay * 2**number)
        assert longest / 2 <= delay <= longest
    assert plan.reports == tuple(FAILED.values())


def test_what_cannot_work_is_not_tried_again():
    plan = new_plan()
    plan.failed(100.0, HOPELESS)
    assert plan.next_attempt == math.inf
    plan.renew(200.0)
    assert plan.next_attempt == 200.0
    plan.failed(200.0, HOPELESS | FAILED)
    assert plan.next_attempt < math.inf


def test_success_ends_it_and_a_change_starts_it_anew():
    plan = new_plan(attempts=2)
    plan.failed(100.0, FAILED)
    plan.succeeded(WORKED)
    assert plan.next_attempt == math.inf
    plan.renew(300.0)
    plan.failed(300.0, FAILED)
    assert plan.next_attempt < math.inf
    plan.failed(400.0, FAILED)
    assert plan.next_attempt == math.inf


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
