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


def test_who_hurries_waits_no_longer_than_that_and_goes_on_as_always_then():
    backoff = Backoff(1.0, 300.0, random.Random(1), 0.0)
    pauses(backoff, 0.0, 12)
    now = backoff.due
    backoff.failed(now)
    backoff.hurry(now, 8.0)
    due = backoff.due
    assert 4 <= due - now <= 8
    backoff.hurry(now + 1, 8.0)
    assert backoff.due == due  # asked again and again, it is no later, nor sooner
    backoff.failed(due)
    assert backoff.due - due >= 150  # what has failed so often is left alone


def test_a_pause_that_is_short_anyway_is_left_as_it_is():
    backoff = Backoff(0.1, 0.5, random.Random(1), 0.0)
    pauses(backoff, 0.0, 10)
    due = backoff.due
    backoff.hurry(due - 0.2, 8.0)
    assert backoff.due == due
