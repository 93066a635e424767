"""A unary call from another thread, without a task where it needs none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.call import Call
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.client.stubs import unary_of

if TYPE_CHECKING:
    from lattica.rpc.client.begun import BegunCall, Done
    from lattica.rpc.client.stubs import NamedStub, UnaryMethod

Begin = Callable[["Done"], "BegunCall | None"]
"""Begins a call in the trio thread; None if that takes a task. Raises TypeError."""


class UnaryCall(Call[Any]):
    """A call that `begin` begins or, where that is for a task, `run` makes."""

    __slots__ = ("_begin", "_begun")

    def __init__(self, bridge: Bridge[Any], begin: Begin, run: Callable[[], Any]) -> None:
        super().__init__(bridge, run, ())
        self._begin = begin
        self._begun: BegunCall | None = None

    def start(self) -> None:
        """In the trio thread: begin."""
        if self.future.done() or self._bridge.nursery is None:
            super().start()
            return
        try:
            self._begun = self._begin(self._end)
        except BaseException as error:
            self.fail(error)
            return
        if self._begun is None:
            super().start()

    def stop(self) -> None:
        """The bridge closes: its tasks are cancelled, and this has none."""
        if self._begun is not None and not self.future.done():
            self._begun.cancel()
            self.fail(self._bridge.closed_error())

    def _end(self, value: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self._finish(value)
        else:
            self.fail(error)

    def _cancel(self) -> None:
        if self._begun is None:
            super()._cancel()
        elif not self.future.done():
            self._begun.cancel()
            self.fail(LocalProtocolError("the caller abandoned the call"))


def unary_call(
    bridge: Bridge[Any], method: UnaryMethod, args: tuple[Any, ...], keywords: dict[str, Any]
) -> UnaryCall:
    """A call of a method of a stub."""
    return UnaryCall(
        bridge,
        lambda done: method.begin(args, keywords, done),
        lambda: method(*args, **keywords),
    )


def named_call(
    bridge: Bridge[Any], stub: NamedStub, name: str, args: tuple[Any, ...], keywords: dict[str, Any]
) -> UnaryCall:
    """A call of a method that is known by its name."""
    return UnaryCall(
        bridge,
        lambda done: unary_of(stub, name).begin(args, keywords, done),
        lambda: unary_of(stub, name)(*args, **keywords),
    )
