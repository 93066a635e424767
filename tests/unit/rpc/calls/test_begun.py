"""Unary calls of who has no task: what they come to is told by a callback."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.rpc import (
    DeadlineExceededError,
    NotFoundError,
    ResourceExhaustedError,
    RpcConfig,
    RpcError,
    with_options,
)
from lattica.rpc.client.begun import BegunCall
from lattica.rpc.client.stubs import UnaryMethod
from tests.support.rpc.pair import Pair, rpc_pair


class Told:
    """What a call came to."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.outcomes: list[tuple[Any, BaseException | None]] = []

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.outcomes.append((value, error))
        self.event.set()

    async def outcome(self) -> tuple[Any, BaseException | None]:
        await self.event.wait()
        (outcome,) = self.outcomes
        return outcome


def begin(method: Any, told: Told, *args: Any, **keywords: Any) -> BegunCall | None:
    assert isinstance(method, UnaryMethod)
    return method.begin(args, keywords, told)


async def connected(pair: Pair) -> None:
    assert begin(pair.stub.shout, Told(), "a") is None, "there is no stream yet"
    assert await pair.stub.shout("a") == "A"


def counted(pair: Pair, method: str) -> tuple[int, dict[str, int]]:
    (found,) = [
        each
        for each in pair.client.statistics().methods
        if each.method == f"Workshop.{method}" and each.side == "client"
    ]
    return found.active, found.codes


async def test_results_and_errors() -> None:
    async with rpc_pair() as pair:
        await connected(pair)
        told = Told()
        assert begin(pair.stub.shout, told, "b") is not None
        assert await told.outcome() == ("B", None)
        missing = Told()
        assert begin(pair.stub.missing, missing, "it") is not None
        _, error = await missing.outcome()
        assert isinstance(error, NotFoundError)
        assert counted(pair, "missing") == (0, {"NOT_FOUND": 1})
        with pytest.raises(TypeError):
            begin(pair.stub.shout, Told())


async def test_what_waits_for_something_is_left_to_a_task() -> None:
    async with rpc_pair() as pair:
        await connected(pair)
        told = Told()
        assert begin(pair.stub.echo, told, bytes(100_000)) is None
        for options in ({"hedge_after": 1.0}, {"attempt_timeout": 1.0}, {"adaptive_timeout": True}):
            assert begin(with_options(pair.stub, **options).shout, told, "a") is None
        assert not told.outcomes


async def test_a_large_result_is_fetched() -> None:
    async with rpc_pair() as pair:
        await connected(pair)
        told = Told()
        assert begin(pair.stub.zeros, told, 300_000) is not None
        value, error = await told.outcome()
        assert error is None
        assert bytes(value) == bytes(300_000)
        assert begin(pair.stub.zeros, told, 300_000) is None, "it is asked for otherwise now"


async def test_an_idempotent_call_is_made_again(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair(RpcConfig(max_calls_per_peer=1)) as pair:
        await connected(pair)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.stub.wait, 0.01)
            await wait_all_tasks_blocked()
            told = Told()
            assert begin(pair.stub.look, told, 7) is not None
            assert await told.outcome() == (1, None)
    assert pair.client.statistics().retries >= 1


async def test_what_is_refused_and_not_made_again_fails() -> None:
    async with rpc_pair(RpcConfig(max_calls_per_peer=1)) as pair:
        await connected(pair)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.stub.wait, 3600.0)
            await wait_all_tasks_blocked()
            told = Told()
            assert begin(with_options(pair.stub, retries=0).look, told, 7) is not None
            _, error = await told.outcome()
            assert isinstance(error, ResourceExhaustedError)
            nursery.cancel_scope.cancel()
    assert not pair.workshop.ran


async def test_the_end_of_the_node_ends_it() -> None:
    told = Told()
    async with rpc_pair() as pair:
        await connected(pair)
        assert begin(pair.stub.wait, told, 3600.0) is not None
    _, error = await told.outcome()
    assert isinstance(error, RpcError)


async def test_cancelled_the_handler_is_given_up_and_nobody_is_told() -> None:
    async with rpc_pair() as pair:
        await connected(pair)
        told = Told()
        call = begin(pair.stub.wait, told, 3600.0)
        assert call is not None
        assert await pair.stub.shout("a") == "A"
        call.cancel()
        call.cancel()
        await pair.workshop.until_ended("wait")
        assert not told.outcomes
        assert counted(pair, "wait") == (0, {"CANCELLED": 1})


async def test_a_deadline_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair() as pair:
        await connected(pair)
        told = Told()
        assert begin(with_options(pair.stub, timeout=5.0).wait, told, 3600.0) is not None
        _, error = await told.outcome()
        assert isinstance(error, DeadlineExceededError)
        assert trio.current_time() >= 5
