"""The judgement of a soak, and its scenario: pure."""

from __future__ import annotations

import math
import random

import pytest

from tools.netlab.spec.fault import Kill, lasts
from tools.soak.in_use import in_use
from tools.soak.scenario import members, scenario, watched
from tools.soak.trend import Bound, floor_of, trend
from tools.soak.watch import WORK, Watcher

BOUND = Bound(8.0, 0.05)
MINUTES_30 = range(0, 1800, 2)


def sawtooth(t: float) -> float:
    """What a process holds that works: 80, and up to 30 more for a while."""
    return 80.0 + 30.0 * (t % 20) / 20 + random.Random(t).random()


@pytest.mark.parametrize(
    ("leak_per_hour", "is_flat"), [(0.0, True), (10.0, True), (60.0, False), (300.0, False)]
)
def test_a_leak_shows_below_work_that_goes_up_and_down(leak_per_hour, is_flat):
    samples = [(t, sawtooth(t) + leak_per_hour * t / 3600) for t in MINUTES_30]
    judged = trend(samples, BOUND)
    assert judged is not None
    assert judged.is_flat == is_flat
    assert judged.seconds == pytest.approx(1200, abs=4)
    assert judged.per_hour == pytest.approx(leak_per_hour, abs=3)


def test_what_fills_in_the_first_third_is_no_leak():
    samples = [(t, 80 + 40 * (1 - math.exp(-t / 100))) for t in MINUTES_30]
    judged = trend(samples, BOUND)
    assert judged is not None
    assert judged.is_flat
    assert judged.start == pytest.approx(120, abs=1)


def test_what_shrinks_is_flat_and_few_samples_are_not_judged():
    judged = trend([(t, 200 - t / 10) for t in MINUTES_30], BOUND)
    assert judged is not None
    assert judged.growth < -100
    assert judged.is_flat
    assert trend([], BOUND) is None
    assert trend([(0.0, 1.0), (1.0, 2.0)], BOUND) is None
    assert trend([(5.0, 1.0)] * 10, BOUND) is None  # no time has passed


def test_the_floor_and_the_line():
    assert floor_of([(0.0, 5.0), (1.0, 3.0), (2.0, 9.0)], parts=2) == [(0.5, 5.0), (1.5, 3.0)]
    judged = trend([(float(t), 1.0 + 2.0 * t) for t in range(401)], BOUND, warmup=0.0)
    assert judged is not None
    assert (judged.growth, judged.per_hour) == pytest.approx((800.0, 7200.0))


def test_the_watcher_tells_what_grew_and_what_was_not_done():
    watcher = Watcher(("relay-1", "anchor"))
    for t in MINUTES_30:
        for name in watcher.names:
            watcher.samples[name, "MiB"].append((float(t), 80.0))
            watcher.samples[name, "files"].append((float(t), 30.0))
        watcher.hear("guest-1", {"event": "sample", "t": t, "tasks": 10 * t, "done": {}})
        done = dict.fromkeys(WORK, t + 1)
        event = {"event": "sample", "t": t, "tasks": 100, "done": done, "failed": {"call": t}}
        watcher.hear("anchor", event)
    assert watcher.grown() == []
    assert watcher.undone(["anchor"]) == []
    assert all(each["flat"] for each in watcher.as_json()["figures"])

    watcher.samples["relay-1", "files"] = [(float(t), 30 + t / 60) for t in MINUTES_30]
    (grown,) = watcher.grown()
    assert grown.startswith("relay-1: files grew from ")
    del watcher.samples["anchor", "MiB"], watcher.samples["anchor", "files"]
    del watcher.samples["anchor", "tasks"]
    assert "anchor: too few samples to judge" in watcher.grown()

    last = watcher.last["anchor"]
    watcher.last["anchor"] = {**last, "done": {**last["done"], "fetch": 0, "call": 10}}
    assert watcher.undone(["anchor"]) == [
        f"anchor: call: {last['failed']['call']} of {last['failed']['call'] + 10} failed",
        "anchor: did not fetch once",
    ]
    assert len(watcher.undone(["home-1"])) == len(WORK)  # it has said nothing


def test_a_leak_is_told_from_holes_in_the_heap():
    """Resident memory that grows to where it holds what comes, and what of it is in use."""
    holes, leak = Watcher(("anchor",)), Watcher(("anchor",))
    for watcher, per_minute in ((holes, 0.0), (leak, 0.5)):
        for t in MINUTES_30:
            said = {"heap": 28.0 + per_minute * t / 60, "objects": 380.0}
            watcher.hear("anchor", {"event": "sample", "t": t, "tasks": 100, **said})
            watcher.samples["anchor", "MiB"].append((float(t), 98.0 + 7 * min(1, t / 1200)))
    assert not holes.grown()
    assert [text.split(" grew")[0] for text in leak.grown()] == ["anchor: heap"]


def test_what_a_process_has_in_use():
    before, kept = in_use(), [bytes(100) for _ in range(100_000)]
    after = in_use()
    assert after["objects"] - before["objects"] > 90
    assert len(kept) == 100_000


def test_a_short_run_is_not_asked_to_be_flat():
    watcher = Watcher(("anchor",))
    watcher.samples["anchor", "MiB"] = [(float(t), 60.0 + t) for t in range(20)]
    assert watcher.grown() == []
    watcher.samples["anchor", "MiB"] = [(float(t), 60.0 + 20 * t) for t in range(20)]
    assert len(watcher.grown()) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_scenario_ends_none_of_those_that_are_watched_and_lasts_as_long_as_was_asked(seed):
    made = scenario(seed, 600, homes=2, guest_count=2)
    assert made == scenario(seed, 600, homes=2, guest_count=2)
    killed = {fault.program for fault in made.faults if isinstance(fault, Kill)}
    assert killed == {"guest-1", "guest-2", "relay-2"}
    assert not killed & {*watched(2)}
    assert {*members(2)} < {*watched(2)}
    last = max(fault.at_s + (lasts(fault) or 0) for fault in made.faults)
    assert last + made.settle_s >= 600
    assert len(made.faults) > 40
