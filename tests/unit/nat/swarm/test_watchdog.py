"""When a person is told that this process was kept from running, and what."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import time

import pytest
import trio

from lattica.nat.swarm.upkeep import watchdog
from lattica.nat.swarm.upkeep.watchdog import PERIOD, REST, STALL, Vigil, stacks, watching, where


@pytest.fixture(autouse=True)
def _silent_watchdog():
    """Here it is heard."""


def test_waking_in_time_is_no_news():
    vigil = Vigil(100.0, 5.0)
    for step in range(1, 100):
        assert vigil.look(100.0 + step * (PERIOD + 0.1), 5.0) is None


@pytest.mark.parametrize(("worked", "busy"), [(6.0, True), (0.1, False)])
def test_a_late_wake_up_says_how_long_and_whether_the_process_worked(worked, busy):
    vigil = Vigil(100.0, 5.0)
    assert vigil.look(100.0 + PERIOD, 5.0) is None
    stall = vigil.look(100.0 + 2 * PERIOD + 6.0, 5.0 + worked)
    assert stall is not None
    assert stall.seconds == pytest.approx(6.0, abs=PERIOD)
    assert (stall.busy, stall.untold) == (busy, 0)


def test_from_three_seconds_on():
    assert Vigil(0.0, 0.0).look(PERIOD + STALL - 0.01, 3.0) is None
    assert Vigil(0.0, 0.0).look(PERIOD + STALL, 3.0) is not None


def test_one_in_a_while_and_the_others_are_counted():
    vigil = Vigil(0.0, 0.0)
    now, told = 0.0, []
    for _ in range(20):
        now += PERIOD + 5.0
        told.append(vigil.look(now, now))
    first, second = (stall for stall in told if stall is not None)
    assert (first.untold, told[0]) == (0, first)
    assert second.untold == told.index(second) - 1 == int(REST // (PERIOD + 5.0))


def test_a_stack_is_a_line_with_the_innermost_call_first():
    line = where(inspect.currentframe())
    assert line.startswith("test_a_stack_is_a_line")
    assert "swarm/test_watchdog.py:" in line
    assert "\n" not in line


def test_threads_that_wait_are_left_out():
    done = threading.Event()
    waiting = threading.Thread(target=done.wait)
    waiting.start()
    assert waiting.ident is not None
    try:
        names = {waiting.ident: "waiter", threading.get_ident(): "worker"}
        while "wait" not in where(sys._current_frames()[waiting.ident]):
            time.sleep(0.001)
        frames = sys._current_frames()
        line = stacks({ident: frames[ident] for ident in names}, names)
    finally:
        done.set()
        waiting.join()
    assert "worker: test_threads_that_wait" in line
    assert "waiter" not in line


async def test_a_blocked_loop_is_told_of_with_the_place(caplog, monkeypatch):
    monkeypatch.setattr(watchdog, "PERIOD", 0.02)
    monkeypatch.setattr(watchdog, "STALL", 0.3)
    monkeypatch.setattr(watchdog, "_watchdog", watchdog._Watchdog())
    caplog.set_level(logging.WARNING, watchdog.__name__)
    with watching(trio.lowlevel.current_trio_token()):
        await trio.sleep(0.1)
        block(lambda: any("so far" in r.getMessage() for r in caplog.records))
        while not any("was kept" in r.getMessage() for r in caplog.records):
            await trio.sleep(0.01)
    # A busy machine may keep the whole process from running as well, and that is told, too.
    line = next(m for r in caplog.records if "so far" in (m := r.getMessage()))
    assert line.startswith("trio is kept from running for")
    assert "block (swarm/test_watchdog.py:" in line


def block(until):
    """Code that does not give way to other tasks."""
    while not until():
        time.sleep(0.01)


async def test_the_thread_ends_with_the_last_loop(monkeypatch):
    monkeypatch.setattr(watchdog, "PERIOD", 0.02)
    monkeypatch.setattr(watchdog, "_watchdog", watchdog._Watchdog())
    before = set(threading.enumerate())
    token = trio.lowlevel.current_trio_token()
    with watching(token), watching(token):
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
    await trio.to_thread.run_sync(thread.join)
