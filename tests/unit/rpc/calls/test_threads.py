"""Handlers that are not async."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from lattica.rpc import DeadlineExceededError, RpcConfig, with_options
from tests.support.rpc.pair import rpc_pair


async def test_512_blocked_handlers_starve_nobody() -> None:
    async with rpc_pair() as pair, trio.open_nursery() as nursery:
        done: list[int] = []

        async def call(number: int) -> None:
            done.append(await pair.stub.block(number))  # type: ignore[misc]

        try:
            for number in range(520):
                nursery.start_soon(call, number)
            while pair.workshop.entered < 520:
                await trio.sleep(0.005)
            assert await pair.stub.shout("a") == "A"
            assert await pair.stub.add(1, b=2) == 3  # type: ignore[misc]
            assert pair.server.statistics().threads == 520
            assert not done
        finally:
            pair.workshop.gate.set()
    assert sorted(done) == [*range(520)]


async def test_a_handler_in_a_thread_is_left_at_its_deadline() -> None:
    async with rpc_pair(RpcConfig(max_threads=4)) as pair:
        try:
            with pytest.raises(DeadlineExceededError):
                await with_options(pair.stub, timeout=0.05).block(1)  # type: ignore[misc]
            assert await pair.stub.add(1, b=2) == 3  # type: ignore[misc]
        finally:
            pair.workshop.gate.set()


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("gives_up", [False, True])
async def test_a_handler_in_a_thread_sees_that_nobody_waits(streams: bool, gives_up: bool) -> None:
    async with rpc_pair() as pair:
        # Any: for checkers the context is an argument.
        stub: Any = pair.stub if gives_up else with_options(pair.stub, timeout=0.05)

        async def call() -> None:
            if streams:
                async with stub.watch_streaming() as stream:
                    await anext(stream)
            else:
                await stub.watch()

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def give_up() -> None:
                    while not pair.workshop.entered:
                        await trio.sleep(0.001)
                    scope.cancel()

                if gives_up:
                    nursery.start_soon(give_up)
                    await call()
                while not gives_up and not pair.workshop.entered:  # else it was too late to begin
                    with pytest.raises(DeadlineExceededError):
                        await call()
        assert await trio.to_thread.run_sync(pair.workshop.left.wait, 10)
        assert await pair.stub.shout("a") == "A"
