"""Tasks that read requests and run them: no task for each call, where that needs none.

One worker leads: it reads, and runs what it has read itself, one request after the other. A
handler that does not wait for anything costs no switch of tasks. Just before one does wait for the
first time, another worker takes the lead, and the first one is the handler's until that has ended;
then it rests. So a handler that waits holds up nobody. (The leader/followers pattern: Schmidt et
al., PLoP 2000.)
"""

from __future__ import annotations

import time
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Final, Generic, TypeVar

import outcome
import trio

from lattica.nat.base.concurrency.tasks import Tasks

T = TypeVar("T")

_MAX_RESTING: Final = 16
"""Workers of a crew that wait for the next handler which waits."""
_TURN: Final = 0.005
"""Seconds of work, whenever it was done, after which others have their turn."""


class Worker(Generic[T]):
    """One of the tasks. `job` is what it runs, for as long as that waits for something."""

    __slots__ = ("job", "scope", "stopped")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.job: T | None = None
        self.stopped = False
        """The job was given up, and the scope cancelled for that."""

    def stop(self) -> None:
        """Cancel the job."""
        self.stopped = True
        self.scope.cancel()


class Crew(Generic[T]):
    """Workers for one source of jobs.

    Args:
        tasks: where they run.
        read: waits for more jobs and returns them; None when there will be none.
        run: starts a job: a coroutine that does it; None if there is nothing to wait for.
        waits: told of a job that is about to wait for the first time, with its worker, whose scope
            may be cancelled while it does.
        cut_off: told of a job whose worker was cancelled.
        failed: told of a job that has raised an Exception, which costs that job and nothing else.
        let_others: has others work; awaited by the one who leads.
    """

    def __init__(
        self,
        tasks: Tasks,
        *,
        read: Callable[[], Awaitable[list[T] | None]],
        run: Callable[[T], Coroutine[Any, Any, object] | None],
        waits: Callable[[T, Worker[T]], None],
        cut_off: Callable[[T, Worker[T]], None],
        failed: Callable[[T, Exception], None],
        let_others: Callable[[], Awaitable[None]],
    ) -> None:
        self._tasks = tasks
        self._read = read
        self._run = run
        self._waits = waits
        self._cut_off = cut_off
        self._failed = failed
        self._let_others = let_others
        self.worked = 0.0
        """Seconds of work since others had their turn; whoever reads adds what that takes."""
        self._jobs: deque[T] = deque()
        self._resting: list[trio.lowlevel.Task] = []
        self._context = copy_context()
        self._ended = False
        self.done = trio.Event()
        """There is nothing more to read; jobs may still run."""

    def start(self, jobs: list[T]) -> None:
        """Begin, with what has been read already."""
        self._jobs.extend(jobs)
        self._start_worker()

    def _start_worker(self) -> None:
        # A task has the context of who starts it, which may be a handler with variables of its own.
        worker: Worker[T] = Worker()
        self._context.run(self._tasks.start_in, worker.scope, self._work, worker)

    def _pass_lead(self) -> None:
        if self._resting:
            trio.lowlevel.reschedule(self._resting.pop(), outcome.Value(True))
        else:
            self._start_worker()

    async def _work(self, worker: Worker[T]) -> None:
        """Lead and rest by turns, until there is no use for that or a job has been cancelled."""
        before = copy_context()
        job: T | None = None
        work: Coroutine[Any, Any, object] | None = None
        more: list[T] | None = None
        try:
            while True:
                began = time.perf_counter()
                while self._jobs:
                    now = time.perf_counter()
                    self.worked += now - began
                    began = now
                    if self.worked > _TURN:
                        self.worked = 0.0
                        await self._let_others()
                        began = time.perf_counter()
                    job = self._jobs.popleft()
                    try:
                        work = self._run(job)
                        if work is None:
                            continue
                        await _drive(work, self._suspend, job, worker)
                    except Exception as defect:
                        self._failed(job, defect)
                    if worker.job is not None:  # somebody else leads
                        worker.job = None
                        if worker.stopped or worker.scope.cancel_called:
                            return
                        job = work = more = None  # what came need not stay meanwhile
                        if _is_changed(before) or not await self._rest():
                            return
                    elif _is_changed(before):
                        # What it left in the context is nothing for the next one.
                        self._pass_lead()
                        return
                self.worked += time.perf_counter() - began
                job = work = more = None
                more = await self._read()
                if more is None:
                    self._end()
                    return
                self._jobs.extend(more)
        except BaseException:
            if worker.job is None:  # the one who reads: nobody would go on
                self._end()
            raise
        finally:
            if worker.job is not None:
                self._cut_off(worker.job, worker)

    def _suspend(self, job: T, worker: Worker[T]) -> None:
        worker.job = job
        self._waits(job, worker)
        self._pass_lead()

    async def _rest(self) -> bool:
        """Wait to be asked to lead; False if there is no use for that."""
        if self._ended or len(self._resting) >= _MAX_RESTING:
            return False
        task = trio.lowlevel.current_task()
        self._resting.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._resting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        leads: bool = await trio.lowlevel.wait_task_rescheduled(abort)
        return leads

    def _end(self) -> None:
        self._ended = True
        for task in self._resting:
            trio.lowlevel.reschedule(task, outcome.Value(False))
        self._resting.clear()
        self.done.set()


def _is_changed(before: Context) -> bool:
    """Whether a job has left something in the context; its values are compared by `==`."""
    try:
        return copy_context() != before
    except Exception:  # that of an array, say
        return True


@types.coroutine
def _drive(
    work: Coroutine[Any, Any, object],
    suspended: Callable[[T, Worker[T]], None],
    job: T,
    worker: Worker[T],
) -> Generator[Any, Any, None]:
    """Run a coroutine in this task, and tell just before it waits for the first time."""
    try:
        wait = work.send(None)
    except StopIteration:
        return
    suspended(job, worker)
    # What comes may be an exception, which leads to this frame: no variable of it may keep it.
    answers: list[Any] = []
    while True:
        try:
            answers.append((yield wait))
        except BaseException as error:
            try:
                wait = work.throw(error)
            except StopIteration:
                return
        else:
            try:
                wait = work.send(answers.pop())
            except StopIteration:
                return
