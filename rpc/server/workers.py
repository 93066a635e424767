"""Threads that run functions for the trio thread, several of them one after the other.

To hand a function to a thread and its result back takes two wake-ups of threads, of which only one
at a time runs Python. Where functions are short, that is most of what they cost. So there is one
line: a thread that has ended a function takes the next one that waits there, and what has ended
meanwhile goes back together. Another thread is woken only when no one takes anything: at once if
all have been at theirs for :data:`_STUCK`, and else within :data:`_TICK`. A function that blocks
holds up none of the others for longer.

Where there is nothing else to do for the threads, the trio thread waits for a moment itself, if
functions of that kind have been short (:class:`Patience`): to go back to its loop, to be woken
there and to come round to the task costs several times as much.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, Final, Generic, TypeVar, cast

import outcome
import trio

from lattica.nat.base.concurrency.tasks import Tasks

T = TypeVar("T")

_IDLE: Final = 2.0
"""Seconds that a thread waits for work before it ends."""
_STUCK: Final = 0.0002
"""Seconds without any function begun after which threads count as busy for long."""
_TICK: Final = 0.001
"""Seconds between two looks at who waits, while somebody does."""
_SHORT: Final = 4
"""Functions that each thread begins in such a time where they are short."""
_MORE: Final = 4
"""By which the threads that a look wakes are multiplied while they are not enough."""
_PATIENCE: Final = 0.0001
"""Seconds for which the trio thread waits for a function that is expected to be short."""
_LONGEST_REST: Final = 1024
"""Functions for which it does not wait, at most, until it tries again."""
_AT_ONCE: Final = 32
"""Functions whose results go back before other tasks have their turn."""


class Patience:
    """Whether the trio thread waits for functions of a kind: while they are short.

    After one that was not, it does not wait for the next, and after each further one for twice as
    many of them.
    """

    __slots__ = ("_left", "_rest")

    def __init__(self) -> None:
        self._left = 0
        self._rest = 1

    def is_due(self) -> bool:
        """Whether it waits for the one that begins now."""
        if self._left:
            self._left -= 1
            return False
        return True

    def learn(self, *, was_short: bool) -> None:
        """It has waited, until the function had ended, or in vain."""
        if was_short:
            self._rest = 1
        else:
            self._left = self._rest
            self._rest = min(2 * self._rest, _LONGEST_REST)


class _Job(Generic[T]):
    """A function on its way through a thread."""

    __slots__ = ("bell", "context", "ended", "function", "is_parked", "result", "task")

    def __init__(self, function: Callable[[], T], ended: Callable[[], None]) -> None:
        self.bell: threading.Lock | None = None
        """Free to be taken when it has ended, for a trio thread that waits."""
        self.is_parked = False
        """The task is to be rescheduled."""
        self.function: Callable[[], T] | None = function
        self.context: Context | None = copy_context()
        self.ended = ended
        """Called in the trio thread, once no thread works on it any more."""
        self.result: outcome.Outcome[T] | None = None
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        """Who waits; None if nobody does any more."""

    def run(self) -> None:
        """In a thread. What leads to the function's frame does not outlive this but by the result,
        which is not kept if nobody wants it.
        """
        function, context = self.function, self.context
        self.function = self.context = None
        assert function is not None
        assert context is not None
        result: outcome.Outcome[T] = outcome.capture(cast("Any", context.run), function)
        if self.task is not None:
            self.result = result
        del result  # an error's traceback leads to this frame


class _Worker:
    """One of the threads; `bell` is free to be taken when there is work."""

    __slots__ = ("bell",)

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()


class Workers:
    """The threads. As many as work at once are made, and end when there is nothing to do for them;
    whoever calls says how many that may be. They are :func:`trio.to_thread.run_sync`'s, so that
    `trio.from_thread` is to be had in them.

    Args:
        tasks: where they are held. When these are cancelled, threads are left alone with what they
            are at, and begin nothing more.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._token = trio.lowlevel.current_trio_token()
        self._line: deque[_Job[Any]] = deque()
        self._ended: deque[_Job[Any]] = deque()
        self._is_told = False
        """The trio thread has been told of what ended, and not yet looked."""
        self._count = 0
        """Threads there are; in the trio thread only."""
        self._idle: dict[_Worker, None] = {}
        """Those that wait for work; the last one is the first to have some."""
        self._woken: dict[_Worker, None] = {}
        """Those that were woken and have not taken anything yet."""
        self._begun = 0
        """Functions, about: threads count them beside each other."""
        self._last_begun = 0.0
        self._is_watched = False
        self._is_closed = False

    @property
    def count(self) -> int:
        """Threads that there are."""
        return self._count

    async def run(
        self,
        function: Callable[[], T],
        ended: Callable[[], None],
        patience: Patience | None = None,
    ) -> T:
        """Run a function in a thread. Raises what it does.

        Cancelled, it is left alone if it has begun, and what it returns is lost; else it never
        begins. `ended` is called when it does not run any more, in either case. With `patience` it
        is no checkpoint if that was rewarded.
        """
        job = _Job(function, ended)
        del function
        if patience is not None and self._idle and len(self._idle) == self._count:
            if patience.is_due():
                self._wait_for(job)
                patience.learn(was_short=job.result is not None)
            else:
                self._put(job)
        else:
            self._put(job)
        if job.result is None:
            await self._park(job)
        result, job.result = job.result, None
        assert result is not None
        try:
            return result.unwrap()
        finally:
            del result  # as above: it would wait for the collector with the frame

    # --- in the trio thread ---

    async def _park(self, job: _Job[Any]) -> None:
        """Wait in a task until it has ended."""

        def abort(_: object) -> trio.lowlevel.Abort:
            job.task = job.result = None
            try:
                self._line.remove(job)
            except ValueError:  # a thread has it
                pass
            else:
                job.ended()
            return trio.lowlevel.Abort.SUCCEEDED

        job.is_parked = True
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wait_for(self, job: _Job[Any]) -> None:
        """Have an idle thread run it, and wait for that for a moment."""
        bell = job.bell = threading.Lock()
        bell.acquire()
        self._is_told = True  # it looks without being told
        self._put(job)
        bell.acquire(timeout=_PATIENCE)
        self._deliver()

    def _put(self, job: _Job[Any]) -> None:
        self._line.append(job)
        is_none_awake = self._count == len(self._idle)
        are_stuck = not self._woken and time.perf_counter() > self._last_begun + _STUCK
        if is_none_awake or are_stuck:
            self._wake()
        elif not self._is_watched:
            self._is_watched = True
            self._tasks.start_soon(self._watch)

    def _wake(self) -> None:
        try:
            worker, _ = self._idle.popitem()
        except KeyError:
            worker = _Worker()
            self._woken[worker] = None
            self._count += 1
            self._tasks.start_soon(self._keep, worker)
        else:
            self._woken[worker] = None
            worker.bell.release()

    async def _keep(self, worker: _Worker) -> None:
        """Have a thread for as long as it wants to be."""
        try:
            await trio.to_thread.run_sync(
                self._work, worker, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
        except trio.Cancelled:
            self._is_closed = True
            if self._is_idle_no_more(worker):
                worker.bell.release()
            raise
        finally:
            self._count -= 1
            self._woken.pop(worker, None)

    async def _watch(self) -> None:
        """Wake threads while there are too few for how long functions take."""
        more = 1
        try:
            while self._line:
                begun, now = self._begun, time.perf_counter()
                await trio.sleep(_TICK)
                ticks = (time.perf_counter() - now) / _TICK
                awake = self._count - len(self._idle)
                if self._begun - begun >= _SHORT * ticks * awake:
                    more = 1
                    continue
                for _ in range(min(more, len(self._line))):
                    self._wake()
                more *= _MORE
        finally:
            self._is_watched = False

    def _deliver(self) -> None:
        self._is_told = False
        for _ in range(min(_AT_ONCE, len(self._ended))):
            job = self._ended.popleft()
            job.ended()
            task, job.task = job.task, None
            if task is not None and job.is_parked:
                trio.lowlevel.reschedule(task)
        if self._ended:
            self._tell()

    # --- in the threads ---

    def _work(self, worker: _Worker) -> None:
        while not self._is_closed:
            try:
                job = self._line.popleft()
            except IndexError:
                if not self._wait(worker):
                    return
                continue
            self._woken.pop(worker, None)
            self._begun += 1
            self._last_begun = time.perf_counter()
            job.run()
            self._ended.append(job)
            self._tell()
            if job.bell is not None:
                job.bell.release()
            del job  # it need not stay until the next one

    def _tell(self) -> None:
        """Have the trio thread look at what has ended."""
        if not self._is_told:
            self._is_told = True
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._deliver)

    def _wait(self, worker: _Worker) -> bool:
        """Wait for work; False if the thread is to end."""
        self._woken.pop(worker, None)
        self._idle[worker] = None
        # Whoever has put something there before that has woken nobody.
        if self._line and self._is_idle_no_more(worker):
            return True
        if worker.bell.acquire(timeout=_IDLE):
            return True
        if self._is_idle_no_more(worker):
            return bool(self._line)
        return worker.bell.acquire()  # it is just being woken

    def _is_idle_no_more(self, worker: _Worker) -> bool:
        """Whether it was idle until now."""
        return self._idle.pop(worker, _BUSY) is None


_BUSY: Final = object()
