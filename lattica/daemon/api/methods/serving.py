"""Services of other programs: peers' calls go to them, and their answers back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from lattica.daemon.api.methods.base import Emit, MemberMethods
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.values import pack, unpack
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.errors import (
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    RpcError,
    UnavailableError,
    error_of,
)
from lattica.rpc.services.context import CallContext
from lattica.rpc.services.definition import method as marked

if TYPE_CHECKING:
    from lattica.daemon.node.member import Member

MAX_WAITING: Final = 1024
"""Calls that wait for the answers of one program; more are refused with RESOURCE_EXHAUSTED."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A peer's call that has no answer."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Cancelled when the program is gone."""
    answered: trio.Event = field(default_factory=trio.Event)
    answer: object = None
    error: RpcError | None = None

    def settle(self, answer: object = None, error: RpcError | None = None) -> None:
        self.answer, self.error = answer, error
        self.answered.set()


class _Program:
    """What one program serves, while it does."""

    def __init__(
        self, name: str, emit: Emit[pb.ServedCall], waiting: dict[int, _Waiting], ids: Any
    ) -> None:
        self._name = name
        self._emit = emit
        self._of_all = waiting
        self._own: dict[int, _Waiting] = {}
        self._ids = ids
        self._is_gone = False

    async def call(self, method: str, context: CallContext, args: Any, keywords: Any) -> Any:
        """Have the program answer a peer's call. Raises RpcError."""
        if self._is_gone:
            raise self._gone()
        if len(self._own) >= MAX_WAITING:
            raise ResourceExhaustedError(
                f"{MAX_WAITING} calls of {self._name} wait for answers", may_have_run=False
            )
        number = next(self._ids)
        message = _call_message(number, method, context, args, keywords)
        waiting = self._of_all[number] = self._own[number] = _Waiting()
        is_told = False
        try:
            with waiting.scope:
                await self._emit.send(message)
                is_told = True
                await waiting.answered.wait()
        finally:
            del self._of_all[number], self._own[number]
            if is_told and not waiting.answered.is_set():
                with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                    self._emit.offer(pb.ServedCall(id=number, cancelled=True))
        if waiting.error is not None:
            raise waiting.error
        if not waiting.answered.is_set():
            raise self._gone()
        return waiting.answer

    def end(self) -> None:
        """The program is gone: nobody waits for it any more."""
        self._is_gone = True
        for waiting in self._own.values():
            waiting.scope.cancel()

    def _gone(self) -> UnavailableError:
        return UnavailableError(f"the program that served {self._name} is gone")


class ServingMethods(MemberMethods):
    """See `node.proto`."""

    def __init__(self, member: Member) -> None:
        super().__init__(member)
        self._waiting: dict[int, _Waiting] = {}
        self._ids = itertools.count(1)

    async def serve(self, request: pb.ServeRequest, emit: Emit[pb.ServedCall]) -> None:
        name, rpc = request.service, self.node.rpc
        if not request.methods or len(set(request.methods)) < len(request.methods):
            raise LocalProtocolError("name the methods that are served, each once")
        program = _Program(name, emit, self._waiting, self._ids)
        handlers = {f"method_{i}": _handler(program, of) for i, of in enumerate(request.methods)}
        service = type("Served", (), handlers)()
        rpc.serve(service, name=name, allow=[*request.allow] if request.allow else None)
        try:
            await emit.send(pb.ServedCall())
            await trio.sleep_forever()
        finally:
            rpc.withdraw(name)
            program.end()

    async def answer(self, request: pb.AnswerRequest) -> pb.AnswerReply:
        waiting = self._waiting.get(request.id)
        if waiting is None or waiting.answered.is_set():
            return pb.AnswerReply(wanted=False)
        if request.code:
            waiting.settle(error=error_of(request.code, request.message))
            return pb.AnswerReply(wanted=True)
        try:
            waiting.settle(unpack(request.result))
        except LocalProtocolError:
            waiting.settle(error=InternalError("the handler's answer is no plain data"))
            raise
        return pb.AnswerReply(wanted=True)


def _handler(program: _Program, name: str) -> Callable[..., Any]:
    @marked(name=name)
    async def handle(_: object, *args: Any, context: CallContext, **keywords: Any) -> Any:
        return await program.call(name, context, args, keywords)

    return handle


def _call_message(
    number: int, method: str, context: CallContext, args: Any, keywords: Any
) -> pb.ServedCall:
    try:
        packed = pack(args), pack(keywords) if keywords else b""
    except LocalProtocolError as error:
        raise InvalidArgumentError(str(error), may_have_run=False) from None
    remaining = context.remaining
    return pb.ServedCall(
        id=number,
        method=method,
        arguments=packed[0],
        keywords=packed[1],
        peer_id=str(context.peer),
        timeout_seconds=max(remaining, 0.001) if remaining < math.inf else 0.0,
    )
