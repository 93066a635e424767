"""The threads in which gRPC runs calls."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any

from lattica.nat.base.limits.shortages import shortage_in

logger = logging.getLogger(__name__)


class CallThreads(Executor):
    """At most so many threads, each begun when there is a call for it; one is there from the start.

    Where the system has no more threads, calls wait for those that there are. The pool of the
    standard library raises there, which ends the one thread of gRPC's that takes calls: from then
    on nothing is answered, and a server that is stopped waits for ever.

    Raises:
        RuntimeError: there is not one thread.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0
        self._is_short = False
        self._begin_thread()

    def submit(self, call: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        """Have it called in one of the threads. Not by two threads at a time."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call(*args, **keywords))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(run)
        if not self._idle.acquire(blocking=False) and self._count < self._most:
            self._begin_another()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once nothing is left to call. Waits for none, as they are daemons'."""
        for _ in range(self._count):
            self._calls.put(None)

    def _begin_another(self) -> None:
        try:
            self._begin_thread()
        except (RuntimeError, MemoryError) as error:
            if shortage_in(error) is None:
                raise
            if not self._is_short:
                logger.warning(
                    "no more than %d calls of the local API at a time: %s",
                    self._count, shortage_in(error),
                )  # fmt: skip
            self._is_short = True

    def _begin_thread(self) -> None:
        threading.Thread(target=self._run, name=f"{self._name}-{self._count}", daemon=True).start()
        self._count += 1

    def _run(self) -> None:
        while (call := self._next()) is not None:
            call()
            del call  # with the request

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._calls.get_nowait()
        except Empty:
            self._idle.release()
            return self._calls.get()
