"""Handlers that end in ways nobody thought of: their caller hears of it at once, and the next call
is answered as ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import trio

from lattica.nat.base.concurrency.exception_groups import leaves
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc import (
    CallContext,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    RpcError,
    UnknownError,
    method,
)
from tests.support.rpc.pair import Pair, rpc_pair


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Pytest's workers cannot send lone surrogates in what was logged."""
    caplog.set_level(logging.CRITICAL, "lattica")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Leaver(Exception):
    def __str__(self) -> str:
        sys.exit(3)


class Wordless(NotFoundError):
    """Its maker did not call that of its base."""

    def __init__(self, key: object) -> None:
        self.key = key


class Own(BaseException):
    pass


def _wrong(**attributes: Any) -> RpcError:
    error = RpcError("wrong")
    error.__dict__.update(attributes)
    return error


MAKERS: dict[str, Callable[[], BaseException]] = {
    "surrogates": lambda: ValueError("cannot open caf\udce9.bin"),
    "surrogates of a file": lambda: FileNotFoundError(2, "none", "caf\udce9.bin"),
    "told surrogates": lambda: NotFoundError("caf\udce9.bin"),
    "mute": Mute,
    "mute in ours": lambda: NotFoundError(Mute()),  # type: ignore[arg-type]
    "a text that leaves": Leaver,
    "without init": lambda: Wordless("key"),
    "wrong code": lambda: _wrong(code="many"),
    "code of success": lambda: _wrong(code=0),
    "wrong pause": lambda: _wrong(retry_after=object()),
    "huge": lambda: ValueError("x" * 5_000_000),
    "told huge": lambda: NotFoundError("\udce9" * 200_000),
    "name": lambda: type("caf\udce9" * 1000, (Exception,), {})(),
    "group": lambda: ExceptionGroup("both", [ValueError("\udce9"), Mute()]),
    "exit in a group": lambda: BaseExceptionGroup("", [SystemExit(3)]),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "asyncio": asyncio.CancelledError,
    "stop": StopIteration,
    "async stop": StopAsyncIteration,
    "own": Own,
    "base": BaseException,
}


class Odd:
    async def later(self, how: str) -> int:
        await trio.lowlevel.checkpoint()
        raise MAKERS[how]()

    async def at_once(self, how: str) -> int:
        raise MAKERS[how]()

    async def in_a_nursery(self, how: str) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(self.later, how)
        return 1

    def thread(self, how: str) -> int:
        raise MAKERS[how]()

    @method(inline=True)
    def inline(self, how: str) -> int:
        raise MAKERS[how]()

    async def stream(self, how: str) -> AsyncIterator[int]:
        yield 1
        raise MAKERS[how]()

    def thread_stream(self, how: str) -> Iterator[int]:
        yield 1
        raise MAKERS[how]()

    async def sum_up(self, how: str, items: AsyncIterator[int]) -> int:
        raise MAKERS[how]()

    async def ok(self) -> int:
        return 1


async def _failed(call: Awaitable[object]) -> RpcError:
    with pytest.raises(RpcError) as caught:
        with trio.fail_after(60):
            await call
    return caught.value


async def _unary(stub: Any, way: str, how: str) -> RpcError:
    return await _failed(getattr(stub, way)(how))


async def _streamed(stub: Any, way: str, how: str) -> RpcError:
    async def read() -> None:
        async for item in getattr(stub, way)(how):
            assert item == 1

    return await _failed(read())


async def _summed(stub: Any, way: str, how: str) -> RpcError:
    async def items() -> AsyncIterator[int]:
        yield 1

    return await _failed(getattr(stub, way)(how, items()))


WAYS = {
    "later": _unary,
    "at_once": _unary,
    "in_a_nursery": _unary,
    "thread": _unary,
    "inline": _unary,
    "stream": _streamed,
    "thread_stream": _streamed,
    "sum_up": _summed,
}


def _serve(pair: Pair, **options: Any) -> Odd:
    pair.server.serve(Odd(), **options)
    return pair.client.stub(pair.server_host.peer_id, Odd)


@pytest.mark.parametrize("way", WAYS)
async def test_an_odd_error_fails_its_call_and_no_other(way: str) -> None:
    async with rpc_pair() as pair:
        stub = _serve(pair)
        for how in MAKERS:
            error = await WAYS[way](stub, way, how)
            assert error.code, how
            assert "\n" not in error.error_type, how
            with trio.fail_after(60):
                assert await stub.ok() == 1, how


async def test_what_is_told() -> None:
    async with rpc_pair() as pair:
        stub = _serve(pair)
        error = await _unary(stub, "later", "surrogates")
        assert isinstance(error, UnknownError)
        assert error.message == "ValueError: cannot open caf\\udce9.bin"
        error = await _unary(stub, "later", "told surrogates")
        assert isinstance(error, NotFoundError)
        assert error.message == "caf\\udce9.bin"
        for way in WAYS:
            error = await WAYS[way](stub, way, "exit")
            assert isinstance(error, UnknownError), way
            assert (error.message, error.error_type) == ("SystemExit: 3", "SystemExit"), way
            for how, name in (("stop", "StopIteration"), ("async stop", "StopAsyncIteration")):
                error = await WAYS[way](stub, way, how)
                assert (error.message, error.error_type) == (name, name), way
        assert isinstance(await _unary(stub, "at_once", "without init"), NotFoundError)
        assert all(each.active == 0 for each in pair.server.statistics().methods)


async def test_the_hook_that_authorizes_may_raise_anything() -> None:
    how = ""

    def authorize(context: CallContext) -> None:
        if not context.method.endswith("ok"):
            raise MAKERS[how]()

    async with rpc_pair() as pair:
        stub = _serve(pair, authorize=authorize)
        for how in MAKERS:
            await _unary(stub, "later", how)
            await _streamed(stub, "stream", how)
            with trio.fail_after(60):
                assert await stub.ok() == 1, how


async def test_a_hook_that_authorizes_in_vain_lets_nobody_in() -> None:
    async def nobody(context: CallContext) -> bool:
        return False

    class Nobody:
        async def __call__(self, context: CallContext) -> bool:
            return False

    async with rpc_pair() as pair:
        for authorize in (nobody, Nobody()):
            with pytest.raises(LocalProtocolError, match="must be a plain one"):
                _serve(pair, authorize=authorize)
        stub = _serve(pair, authorize=lambda context: nobody(context))
        with pytest.raises(PermissionDeniedError, match="authorize is async"):
            await stub.ok()


async def test_what_a_handler_has_not_implemented_has_run() -> None:
    """Unimplemented is what the server does not know, and says that nothing has run."""

    class Unfinished:
        async def work(self) -> None:
            raise NotImplementedError("later")

    async with rpc_pair() as pair:
        pair.server.serve(Unfinished())
        stub = pair.client.stub(pair.server_host.peer_id, Unfinished)
        with pytest.raises(UnknownError, match="NotImplementedError: later") as caught:
            await stub.work()
        assert caught.value.may_have_run


async def test_a_defect_costs_the_call_and_not_those_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rpc_pair() as pair:
        stub = _serve(pair)

        def failure(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a defect of ours")

        with monkeypatch.context() as patched:
            patched.setattr("lattica.rpc.server.methods.ServedMethod.failure", failure)
            for way in ("at_once", "later", "thread"):
                error = await _unary(stub, way, "surrogates")
                assert error.code == 13, way
                with trio.fail_after(60):
                    assert await stub.ok() == 1


@dataclass
class Picky:
    """Checks its fields when it is made, which is done again where it arrives."""

    how: str
    armed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.armed:
            raise MAKERS[self.how]()


async def test_the_maker_of_an_argument_may_raise_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Takes:
        async def take(self, value: Picky) -> int:
            return 1

        async def ok(self) -> int:
            return 1

    made = {how: Picky(how) for how in MAKERS}
    monkeypatch.setattr(Picky, "armed", True)
    async with rpc_pair() as pair:
        pair.server.serve(Takes())
        stub = pair.client.stub(pair.server_host.peer_id, Takes)
        for how, value in made.items():
            error = await _failed(stub.take(value))
            assert isinstance(error, InvalidArgumentError), how
            with trio.fail_after(60):
                assert await stub.ok() == 1, how


async def test_a_context_that_cannot_be_compared_costs_nothing() -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    variable.set(np.zeros(2))

    class Arrays:
        async def leave(self) -> int:
            variable.set(np.ones(2))
            return 1

    async with rpc_pair() as pair:
        pair.server.serve(Arrays())
        stub = pair.client.stub(pair.server_host.peer_id, Arrays)
        for _ in range(3):
            with trio.fail_after(60):
                assert await stub.leave() == 1


async def test_an_iterator_of_requests_that_leaves_fails_the_call_of_its_caller() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        sys.exit(3)

    class Sums:
        async def sum_up(self, items: AsyncIterator[int]) -> int:
            return sum([item async for item in items])

    async with rpc_pair() as pair:
        pair.server.serve(Sums())
        stub = pair.client.stub(pair.server_host.peer_id, Sums)
        with pytest.raises(SystemExit), trio.fail_after(60):
            await stub.sum_up(items())
        assert await _serve(pair).ok() == 1


def test_ctrl_c_in_a_handler_ends_the_program() -> None:
    class Interrupted:
        async def now(self) -> int:
            signal.raise_signal(signal.SIGINT)
            return 1

    async def main() -> None:
        async with rpc_pair() as pair:
            pair.server.serve(Interrupted())
            with trio.fail_after(60):
                await pair.client.stub(pair.server_host.peer_id, Interrupted).now()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
            trio.run(main)
    finally:
        signal.signal(signal.SIGINT, before)
    assert any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(caught.value))
