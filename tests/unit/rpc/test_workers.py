"""Threads that run functions one after the other."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from itertools import pairwise

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.nat.base.concurrency.tasks import Tasks
from lattica.rpc.server import workers as workers_module
from lattica.rpc.server.workers import Patience, Workers

number = ContextVar("number", default=0)


@asynccontextmanager
async def some_workers() -> AsyncIterator[Workers]:
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        yield Workers(tasks)
        tasks.cancel()


async def test_results_and_errors_come_back() -> None:
    async with some_workers() as workers:
        ended: list[int] = []

        async def add(a: int) -> None:
            assert await workers.run(lambda: a + 1, lambda: ended.append(a)) == a + 1

        async with trio.open_nursery() as nursery:
            for a in range(200):
                nursery.start_soon(add, a)
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0, lambda: ended.append(200))
    assert sorted(ended) == [*range(201)]


async def test_an_error_does_not_wait_for_the_collector() -> None:
    class FailedError(Exception):
        """Of which weak references can be made."""

    made: list[weakref.ref[FailedError]] = []

    def fail() -> None:
        error = FailedError()
        made.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async with some_workers() as workers:
        gc.disable()
        try:
            for _ in range(3):
                with suppress(FailedError):
                    await workers.run(fail, lambda: None)
                await workers.run(lambda: None, lambda: None)
            assert [each() for each in made] == [None] * 3
        finally:
            gc.enable()


async def test_blocked_functions_hold_up_none() -> None:
    async with some_workers() as workers:
        gate, entered = threading.Event(), threading.Semaphore(0)

        def block() -> None:
            entered.release()
            assert gate.wait(60)

        async with trio.open_nursery() as nursery:
            try:
                for _ in range(40):
                    nursery.start_soon(workers.run, block, lambda: None)
                for _ in range(40):
                    await trio.to_thread.run_sync(entered.acquire)
                assert await workers.run(lambda: "free", lambda: None) == "free"
                assert workers.count > 40
            finally:
                gate.set()


async def test_what_has_ended_together_goes_back_beside_others() -> None:
    """1,800 that had ended at the same moment went on in one pass of 102 ms."""
    count = 200
    async with some_workers() as workers:
        gate, entered = threading.Event(), threading.Semaphore(0)
        ended: list[None] = []
        seen = [0]

        def block() -> None:
            entered.release()
            assert gate.wait(60)

        async with trio.open_nursery() as nursery:
            try:
                for _ in range(count):
                    nursery.start_soon(workers.run, block, lambda: ended.append(None))
                for _ in range(count):
                    await trio.to_thread.run_sync(entered.acquire)
            finally:
                gate.set()
            while len(workers._ended) < count:  # so that this thread gives nothing back meanwhile
                time.sleep(0.001)
            while len(ended) < count:
                await trio.lowlevel.checkpoint()
                seen.append(len(ended))
    assert max(after - before for before, after in pairwise(seen)) <= 64


async def test_what_is_cancelled_before_it_begins_never_does() -> None:
    async with some_workers() as workers:
        gate, ran, ended = threading.Event(), [0], [0]

        def end() -> None:
            ended[0] += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, lambda: gate.wait(60), end)
            await wait_all_tasks_blocked()
            workers._wake = lambda: None  # type: ignore[method-assign]
            with trio.CancelScope() as scope:
                scope.cancel()
                await workers.run(lambda: ran.append(1), end)
            assert ended == [1]
            gate.set()
    assert ran == [0]
    assert ended == [2]


async def test_what_has_begun_is_left_alone_and_ends_later() -> None:
    async with some_workers() as workers:
        gate, begun, ended = threading.Event(), threading.Event(), trio.Event()

        def block() -> None:
            begun.set()
            assert gate.wait(60)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, block, ended.set)
            await trio.to_thread.run_sync(begun.wait)
            nursery.cancel_scope.cancel()
        assert not ended.is_set()
        gate.set()
        await ended.wait()


async def test_trio_is_to_be_had_in_them_and_variables_are_the_callers() -> None:
    async with some_workers() as workers:
        seen: list[int] = []

        def look() -> None:
            number.set(number.get() + 1)
            trio.from_thread.run_sync(seen.append, number.get())

        for value in (1, 10):
            number.set(value)
            await workers.run(look, lambda: None)
        assert seen == [2, 11]
        assert number.get() == 10


async def test_threads_end_with_the_service() -> None:
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        workers = Workers(tasks)
        await workers.run(int, lambda: None)
        assert workers.count == 1
        assert tasks.count == 1
        tasks.cancel()
        await tasks.wait_ended()
        assert workers.count == 0


async def test_short_functions_of_a_kind_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_PATIENCE", 60.0)
    async with some_workers() as workers, trio.open_nursery() as nursery:
        patience, ended, others = Patience(), [0], trio.Event()
        await workers.run(lambda: None, lambda: None, patience)  # there is a thread
        while not workers._idle:
            await trio.sleep(0.001)
        nursery.start_soon(_set, others)
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0, lambda: ended.append(1), patience)
        assert ended == [0, 1]
        assert not others.is_set()  # nobody else ran meanwhile


async def _set(event: trio.Event) -> None:
    event.set()


async def test_functions_that_are_not_short_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_PATIENCE", 0.0)
    async with some_workers() as workers, trio.open_nursery() as nursery:
        patience, gate = Patience(), threading.Event()
        await workers.run(lambda: None, lambda: None)
        while not workers._idle:
            await trio.sleep(0.001)
        nursery.start_soon(_open, gate)
        assert await workers.run(lambda: gate.wait(60), lambda: None, patience)
        assert not patience.is_due()


async def _open(gate: threading.Event) -> None:
    gate.set()


def test_patience_rests_longer_each_time_that_it_is_disappointed() -> None:
    patience = Patience()

    def waited_for(count: int) -> int:
        due = [patience.is_due() for _ in range(count)]
        return due.count(True)

    assert waited_for(10) == 10
    for rest in (1, 2, 4, 8):
        patience.learn(was_short=False)
        assert waited_for(rest + 1) == 1
    for _ in range(20):
        patience.learn(was_short=False)
    assert waited_for(1025) == 1
    patience.learn(was_short=True)
    patience.learn(was_short=False)
    assert waited_for(2) == 1
