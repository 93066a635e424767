"""The threads of the local API, and whether there is room for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lattica.daemon.api.call_threads import CallThreads
from lattica.daemon.api.room import check_room
from lattica.daemon.errors import DaemonError

TIMEOUT = 20


@pytest.fixture
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def start(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    return lambda: monkeypatch.setattr(threading.Thread, "start", start)


def test_calls_run_beside_each_other_and_no_more_than_so_many() -> None:
    threads = CallThreads(2, "api")
    together = threading.Barrier(3)
    first = [threads.submit(together.wait, TIMEOUT) for _ in range(2)]
    third = threads.submit(lambda a, b: a + b, 1, b=2)
    assert not third.done()
    together.wait(TIMEOUT)
    assert all(each.result(TIMEOUT) is not None for each in first)
    assert third.result(TIMEOUT) == 3
    failed = threads.submit(int, "x")
    assert isinstance(failed.exception(TIMEOUT), ValueError)
    threads.shutdown()


def test_a_thread_that_is_idle_takes_the_next_call() -> None:
    threads = CallThreads(64, "api")
    used = set()
    for _ in range(20):
        used.add(threads.submit(threading.get_ident).result(TIMEOUT))
    assert len(used) <= 2
    threads.shutdown()


def test_where_no_more_threads_are_to_be_had_calls_wait_for_those_there_are(
    no_more_threads: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    threads = CallThreads(4, "api")
    no_more_threads()
    go_on = threading.Event()
    first = threads.submit(go_on.wait, TIMEOUT)
    others = [threads.submit(int, str(number)) for number in range(3)]
    go_on.set()
    assert first.result(TIMEOUT)
    assert [each.result(TIMEOUT) for each in others] == [0, 1, 2]
    assert len([line for line in caplog.messages if "no more than 1 calls" in line]) == 1
    threads.shutdown()


def test_without_one_thread_there_are_none(no_more_threads: Callable[[], None]) -> None:
    no_more_threads()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        CallThreads(4, "api")
    with pytest.raises(DaemonError, match="no room"):
        check_room()


def test_the_threads_of_the_look_for_room_end() -> None:
    before = threading.active_count()
    check_room()
    assert threading.active_count() <= before


def test_without_address_space_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(DaemonError, match="ulimit -v"):
        check_room()
