"""A thread that runs trio, and calls into it from other threads and from asyncio.

The blocking and the asyncio facade both stand on :class:`Bridge`. It starts a daemon thread
with a trio loop, opens one resource in it (the node), and runs functions there on behalf of
anybody: `call` blocks the calling thread, `acall` suspends the calling asyncio task.

What holds for every call:

- It runs as a trio task of its own. Coroutine functions that were submitted at the same time
  begin in any order; plain functions run at once and in order, before whatever comes later.
- Its exception is raised in the caller with its own type.
- A caller that goes away (`KeyboardInterrupt` in the calling thread, cancellation of the
  asyncio task) cancels the trio task *and waits for its end*, so that nothing is still at
  work on the caller's buffers afterwards. A result that comes out nevertheless is handed to
  the call's `give_back`, so that it is not lost.
- When the bridge closes, calls in flight are cancelled and raise `LocalProtocolError`.

`trio.from_thread.run` and anyio's portal do not have the last two, and the portal costs about
twice as much a call.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - registers itself, see the end
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from enum import Enum
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, TypeVarTuple

import trio

from lattica.facades.threads.call import Call
from lattica.nat.base.errors import LatticaError, LocalProtocolError

logger = logging.getLogger(__name__)

E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _End(Enum):
    END = 0


EXIT_GRACE = 5.0
"""Seconds that the interpreter's exit waits for bridges that nobody closed."""


class Bridge(Generic[R]):
    """A trio thread that holds one resource open between `start` and `close`.

    `open_resource` makes the async context manager of the resource; it is called, entered and
    left in the trio thread. `name` is for the thread and for messages. A bridge is used once:
    it cannot be started again. All methods may be called from any thread, none of them from
    inside the trio thread (that raises `LocalProtocolError`, for it would wait for itself). In
    a forked child, where the thread does not exist, everything but closing raises it too.
    """

    def __init__(
        self, open_resource: Callable[[], AbstractAsyncContextManager[R]], *, name: str
    ) -> None:
        self.name = name
        self.nursery: trio.Nursery | None = None
        """For `Call`, in the trio thread only: where calls run, None unless the bridge is open."""
        self.background: trio.Nursery | None = None
        """Where tasks run that nobody waits for; in the trio thread only, None as `nursery`."""
        self.linger = 3.0
        """Seconds that the background has, when the bridge closes, to finish."""
        self._open_resource = open_resource
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None
        self._whole: trio.CancelScope | None = None
        self._stop_requested = False
        self._failure: BaseException | None = None
        self._failure_told = False
        self._ready: Future[R] = Future()
        self._ended: Future[None] = Future()
        self._live: set[Call[Any]] = set()
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        """What is to be run in the trio thread, in order."""
        self._is_told = False
        """The trio thread has been woken for it, and not yet looked: one wake-up is enough."""

    # Calls

    def call(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        timeout: float | None = None,
        give_back: Callable[[T], object] | None = None,
    ) -> T:
        """Run the coroutine function in the trio thread; block until it has finished.

        Raises what `fn` raises.

        Raises:
            TimeoutError: after `timeout` seconds; also for `trio.TooSlowError`.
            LocalProtocolError: the bridge is not open, or is closed meanwhile.
        """
        return self.wait_for(Call(self, fn, args, timeout=timeout, give_back=give_back))

    def call_plain(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run an ordinary function, that does not block, in the trio thread."""
        return self.wait_for(Call(self, fn, args, plain=True))

    def call_reporting(
        self,
        fn: Callable[[Callable[[E], None]], Awaitable[T]],
        on_event: Callable[[E], object],
        *,
        timeout: float | None = None,
    ) -> T:
        """`call` of a function that is given a callback, by which it tells how it gets on.

        `on_event` gets what the callback was given, in order, in the calling thread; what it raises
        cancels the call.
        """
        events: SimpleQueue[E | _End] = SimpleQueue()
        call: Call[T] = Call(self, fn, (events.put,), timeout=timeout)
        call.future.add_done_callback(lambda _: events.put(_End.END))

        def listen() -> T:
            while (item := events.get()) is not _End.END:
                on_event(item)
            return call.future.result()

        return self._wait(call, listen)

    async def acall(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        timeout: float | None = None,
        give_back: Callable[[T], object] | None = None,
    ) -> T:
        """`call`, for asyncio. Cancelling the asyncio task cancels the call, and waits for it."""
        return await self.await_call(Call(self, fn, args, timeout=timeout, give_back=give_back))

    async def acall_plain(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """`call_plain`, for asyncio."""
        return await self.await_call(Call(self, fn, args, plain=True))

    async def acall_reporting(
        self,
        fn: Callable[[Callable[[E], None]], Awaitable[T]],
        on_event: Callable[[E], object],
        *,
        timeout: float | None = None,
    ) -> T:
        """`call_reporting`, for asyncio; `on_event` runs on the loop."""
        loop = asyncio.get_running_loop()
        errors: list[BaseException] = []

        def relay(item: E) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(receive, item)

        def receive(item: E) -> None:
            if not errors:
                try:
                    on_event(item)
                except BaseException as exc:
                    errors.append(exc)
                    call.abandon()

        call: Call[T] = Call(self, fn, (relay,), timeout=timeout)
        try:
            result = await self.await_call(call)
        except Exception:
            if errors:
                raise errors[0] from None
            raise
        if errors:
            raise errors[0]
        return result

    def submit(
        self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts, timeout: float | None = None
    ) -> Call[T]:
        """Begin `call`, and go on: its `future` has the result, `abandon` gives it up.

        Raises:
            LocalProtocolError: at once, if the bridge is not open.
        """
        call: Call[T] = Call(self, fn, args, timeout=timeout)
        self.submit_call(call)
        return call

    def submit_plain(self, fn: Callable[[*Ts], T], *args: *Ts) -> Future[T]:
        """Have an ordinary function run in the trio thread, before any later call.

        Raises:
            LocalProtocolError: at once, if the bridge is not open.
        """
        call: Call[T] = Call(self, fn, args, plain=True)
        self.submit_call(call)
        return call.future

    def soon(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Have `fn` run in the trio thread, before any later call; it must not raise.

        Nothing happens when the thread does not run or is another process's.
        """
        token = self._token
        if token is not None and self._pid == os.getpid():
            with suppress(trio.RunFinishedError):
                self._post(token, fn, *args)

    def check(self) -> None:
        """Raise `LocalProtocolError`, saying why, unless a call can be made now."""
        if threading.current_thread() is self._thread:
            self._check_process()
            raise LocalProtocolError(
                f"a blocking call from the thread in which {self.name} itself runs would wait "
                "for ever; make it from another thread"
            )
        self.check_runs()

    def check_runs(self) -> None:
        """As :meth:`check`, for what waits for nothing, in the node's own thread, too."""
        self._check_process()
        if self.closing:
            raise self.closed_error()
        if not self._ready.done():
            raise LocalProtocolError(
                f"{self.name} is not started: use it in a `with` block, or call start()"
            )

    def closed_error(self) -> LatticaError:
        """A new error that says why no call is possible any more."""
        if self._stop_requested:
            return LocalProtocolError(f"{self.name} is closed")
        error = LatticaError(f"{self.name} has stopped because of an error in its own thread")
        error.__cause__ = self._failure
        self._failure_told = True
        return error

    @property
    def closing(self) -> bool:
        """Whether the bridge has been told to close, or has closed."""
        return self._stop_requested or self._ended.done()

    @property
    def is_open(self) -> bool:
        """Whether calls can be made, as far as is known now."""
        return self._ready.done() and not self.closing and self._pid == os.getpid()

    def forget(self, call: Call[Any]) -> None:
        """For `Call`: it has finished."""
        self._live.discard(call)

    # Life

    def start(self) -> R:
        """Start the thread and open the resource; raises what opening raises.

        Returns at once when it is open already. If the caller is interrupted, the bridge is
        closed.
        """
        try:
            return self._launch().result()
        except BaseException:
            if self._request_stop():
                self._ended.result()
            raise

    async def astart(self) -> R:
        """`start`, for asyncio."""
        self._check_loop()
        ready = self._launch()
        try:
            await _settled(ready, self._request_stop)
            return ready.result()
        except BaseException as exc:
            if self._request_stop() and not isinstance(exc, GeneratorExit):
                await _settled(self._ended)
            raise

    def close(self, timeout: float | None = None) -> bool:
        """Cancel all calls, leave the resource, end the thread. Any number of times.

        Returns whether it has ended within `timeout` seconds (None: however long it takes; the
        resource bounds the time of its own shutdown). The first close raises what ended the
        thread, if that has not been told to anybody. In a forked child it does nothing.
        """
        if not self._request_stop():
            return True
        try:
            self._ended.result(timeout)
        except TimeoutError:
            return False
        self._raise_failure()
        return True

    async def aclose(self) -> None:
        """`close`, for asyncio. It is carried through even if the task is cancelled."""
        self._check_loop()
        if self._request_stop():
            await _settled(self._ended)
            self._raise_failure()

    # Private

    def _check_loop(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise LocalProtocolError(
                f"{self.name} runs under asyncio: use lattica.Node with trio, and lattica.Lattica "
                "in programs without a loop"
            ) from None

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise LocalProtocolError(
                f"{self.name} was made in process {self._pid} and cannot be used after a fork "
                f"(this is {os.getpid()}): make a new one in the child, or start processes by "
                "the 'spawn' method"
            )

    def submit_call(self, call: Call[Any]) -> None:
        """Begin a call, as :meth:`submit`."""
        self.check()
        token = self._token
        if token is None:  # another thread is in the middle of start()
            raise LocalProtocolError(f"{self.name} is not started yet")
        self._live.add(call)
        try:
            self._post(token, call.start)
        except trio.RunFinishedError:
            call.fail(self.closed_error())

    def _post(
        self, token: trio.lowlevel.TrioToken, fn: Callable[[*Ts], object], *args: *Ts
    ) -> None:
        """Have `fn` run in the trio thread. Raises trio.RunFinishedError."""
        self._inbox.append((fn, args))
        if not self._is_told:
            try:
                self._is_told = True
                token.run_sync_soon(self._take)
            except BaseException:  # an interrupt, too, must not leave others waiting
                self._is_told = False
                raise

    def _take(self) -> None:
        """In the trio thread: run what is in the inbox, but not what comes meanwhile."""
        self._is_told = False
        for _ in range(len(self._inbox)):
            fn, args = self._inbox.popleft()
            fn(*args)

    def wait_for(self, call: Call[T]) -> T:
        """Begin a call, and block until it has finished, as :meth:`call`."""
        return self._wait(call, call.future.result)

    def _wait(self, call: Call[T], result: Callable[[], T]) -> T:
        try:
            self.submit_call(call)
            return result()
        except BaseException:
            if not call.future.done() or call.future.exception() is None:
                call.abandon()
                if call in self._live:
                    call.future.exception()
            raise

    async def await_call(self, call: Call[T]) -> T:
        """:meth:`wait_for`, for asyncio."""
        self._check_loop()
        self.submit_call(call)
        await _settled(call.future, call.abandon)
        return call.future.result()

    def _launch(self) -> Future[R]:
        self._check_process()
        with self._lock:
            if self._stop_requested:
                raise LocalProtocolError(f"{self.name} is closed, and cannot be started again")
            if self._thread is None:
                thread = threading.Thread(target=self._thread_main, name=self.name, daemon=True)
                self._thread = thread  # before the start, which can be interrupted half-way
                try:
                    thread.start()
                except RuntimeError:
                    self._thread = None
                    raise
                _started.add(self)
        return self._ready

    def _request_stop(self) -> bool:
        """Tell the thread to end; False when there is none to wait for."""
        if self._pid != os.getpid():
            return False
        with self._lock:
            self._stop_requested = True
            if self._thread is None:
                return False
        if threading.current_thread() is self._thread:
            raise LocalProtocolError(f"{self.name} cannot be closed from its own thread")
        self.soon(self._begin_stop)
        return True

    def _begin_stop(self) -> None:
        if self.nursery is None and not self._ready.done():
            assert self._whole is not None
            self._whole.cancel()  # still opening: there is nothing to be left in good order
        elif self._stop is not None:
            self._stop.set()

    def _raise_failure(self) -> None:
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None and not self._failure_told and self._ready.exception() is None:
            raise failure

    def _thread_main(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as exc:
            self._failure = exc
            if self._ready.done() and not self._stop_requested:
                self._log_failure(exc)
        finally:
            if not self._ready.done():
                self._stop_requested = True  # it never ran, and cannot be started again
                self._ready.set_exception(self._failure or self.closed_error())
            self._ended.set_result(None)
            # Only a crash of trio itself leaves any; their callers must not wait for ever.
            for call in list(self._live):
                call.fail(self.closed_error())

    def _log_failure(self, exc: BaseException) -> None:
        logger.error("%s has stopped because of an error", self.name, exc_info=exc)

    async def _main(self) -> None:
        self._stop = trio.Event()
        with trio.CancelScope() as self._whole:
            self._token = trio.lowlevel.current_trio_token()
            if self._stop_requested:  # by somebody who saw no token yet
                self._whole.cancel()
            async with self._open_resource() as resource, trio.open_nursery() as self.background:
                try:
                    async with trio.open_nursery() as self.nursery:
                        self._ready.set_result(resource)
                        try:
                            await self._stop.wait()
                        finally:
                            nursery, self.nursery = self.nursery, None
                            for call in list(self._live):
                                call.stop()
                        nursery.cancel_scope.cancel()
                finally:
                    background, self.background = self.background, None
                background.cancel_scope.deadline = trio.current_time() + self.linger


async def _settled(future: Future[Any], on_cancel: Callable[[], object] | None = None) -> None:
    """Wait, in asyncio, until the future is done. It is waited for even if the task is cancelled.

    Then `on_cancel` is called first, and the cancellation raised at the end.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def wake(_: Future[Any]) -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:  # the loop was closed without waiting for its tasks
            if on_cancel is not None:
                on_cancel()

    future.add_done_callback(wake)
    try:
        await done.wait()
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        while not done.is_set():
            try:
                await done.wait()
            except asyncio.CancelledError:
                continue
        raise
    except GeneratorExit:  # the loop is gone, and nothing can be awaited any more
        if on_cancel is not None:
            on_cancel()
        raise


_started: weakref.WeakSet[Bridge[Any]] = weakref.WeakSet()


def _close_all() -> None:
    """At the end of the main thread: close what nobody closed, within a bounded time.

    The threads are daemons, so one that does not end in time is simply cut off.
    """
    bridges = [bridge for bridge in list(_started) if not bridge._ended.done()]
    for bridge in bridges:
        bridge._request_stop()
    deadline = time.monotonic() + EXIT_GRACE
    for bridge in bridges:
        try:
            bridge.close(max(0.0, deadline - time.monotonic()))
        except BaseException as exc:
            logger.warning("closing %s at exit: %r", bridge.name, exc)


# When the main thread has ended, and before other threads are waited for: those that wait in a call
# would never end. The last registered runs first, so it is registered after that of the pools of
# threads, which waits for theirs.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
