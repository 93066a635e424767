"""One call into the trio thread of a :class:`~lattica.facades.threads.bridge.Bridge`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from lattica.nat.base.checks import check_timeout
from lattica.nat.base.errors import LocalProtocolError

if TYPE_CHECKING:
    from lattica.facades.threads.bridge import Bridge

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Call(Generic[T]):
    """One function to be run in the trio thread, and the future of its result.

    `fn` is a coroutine function, or with `plain` an ordinary one, which then runs without a
    task of its own and must not block. `timeout` is in seconds, for coroutine functions.
    `give_back` gets the result of a call whose caller has gone, in any thread.
    """

    __slots__ = ("_abandoned", "_args", "_bridge", "_fn", "_give_back", "_lock", "_plain",
                 "_scope", "_timeout", "_value", "future")  # fmt: skip

    def __init__(
        self,
        bridge: Bridge[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        plain: bool = False,
        timeout: float | None = None,
        give_back: Callable[[T], object] | None = None,
    ) -> None:
        self.future: Future[T] = Future()
        self._bridge = bridge
        self._fn = fn
        self._args = args
        self._plain = plain
        self._timeout = check_timeout(timeout)
        self._give_back = give_back
        self._scope: trio.CancelScope | None = None
        self._lock = threading.Lock()
        self._abandoned = False
        self._value: tuple[T] | None = None

    def abandon(self) -> None:
        """From any thread: nobody wants the result any more. The future finishes soon.

        When it has, or if it had already, the result has been given back.
        """
        with self._lock:
            if self._abandoned:
                return
            self._abandoned = True
            value = self._value
        if value is None:
            self._bridge.soon(self._cancel)
        else:
            self._return(value[0])

    def start(self) -> None:
        """In the trio thread: begin."""
        if self.future.done():
            return
        nursery = self._bridge.nursery
        if nursery is None:
            self.fail(self._bridge.closed_error())
        elif not self._plain:
            nursery.start_soon(self._run)
        else:
            try:
                value = self._fn(*self._args)
            except BaseException as exc:
                self.fail(exc)
            else:
                self._finish(value)

    def stop(self) -> None:
        """In the trio thread: the bridge closes, and cancels all tasks."""

    def fail(self, exc: BaseException) -> None:
        """Finish with an exception; nothing happens when the call has finished already."""
        if not self.future.done():
            self.future.set_exception(exc)
        self._bridge.forget(self)

    async def _run(self) -> None:
        if self.future.done():
            return
        scope = self._scope = trio.CancelScope(deadline=trio.current_time() + self._timeout)
        try:
            with scope:
                value = await self._fn(*self._args)
        except trio.Cancelled:
            self.fail(self._bridge.closed_error())
            raise
        except BaseExceptionGroup as group:
            cancelled, _ = group.split(trio.Cancelled)
            self.fail(group if cancelled is None else self._bridge.closed_error())
            if cancelled is not None:
                raise cancelled from None
        except trio.TooSlowError as exc:
            error = TimeoutError(str(exc) or "the operation timed out")
            error.__cause__ = exc
            self.fail(error)
        except BaseException as exc:
            self.fail(exc)
        else:
            if not scope.cancelled_caught:
                self._finish(value)
            elif self._abandoned:
                self.fail(LocalProtocolError("the caller abandoned the call"))
            else:
                self.fail(TimeoutError(f"not finished within {self._timeout:g} s"))

    def _finish(self, value: T) -> None:
        with self._lock:
            self._value = (value,)
            abandoned = self._abandoned
        if abandoned:
            self._return(value)
        self.future.set_result(value)
        self._bridge.forget(self)

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
        else:  # it has not begun, and now does not begin
            self.fail(LocalProtocolError("the caller abandoned the call"))

    def _return(self, value: T) -> None:
        if self._give_back is not None:
            try:
                self._give_back(value)
            except Exception:
                logger.exception("the result of an abandoned call could not be disposed of")
