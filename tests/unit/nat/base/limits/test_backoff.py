"""Pauses between attempts that fail."""

from __future__ import annotations

import random

from lattica.nat.base.limits.backoff import Backoff


def pauses(backoff: Backoff, now: float, count: int) -> list[float]:
    found = []
    for _ in range(count):
        backoff.failed(now)
        found.append(backoff.due - now)
        now = backoff.due
    return found


def test_pauses_double_to_the_limit():
    found = pauses(Backoff(1.0, 300.0, random.Random(1), 0.0), 0.0, 12)
    longest = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert all(most / 2 <= each <= most for each, most in zip(found, longest, strict=True))


def test_who_hurries_makes_no_long_pause_before_a_time_and_goes_on_as_always_then():
    backoff = Backoff(1.0, 300.0, random.Random(1), 0.0)
    backoff.hurry(120.0, 8.0)
    now = 0.0
    within: list[float] = []
    after: list[float] = []
    while len(after) < 3:
        backoff.failed(now)
        (within if now < 120 else after).append(backoff.due - now)
        now = backoff.due
    assert max(within) <= 8
    assert len(within) > 15
    assert min(after) > 100  # what has failed so often is left alone


def test_a_limit_below_the_one_of_a_hurry_holds():
    backoff = Backoff(0.1, 0.5, random.Random(1), 0.0)
    backoff.hurry(100.0, 8.0)
    assert max(pauses(backoff, 0.0, 10)) <= 0.5
