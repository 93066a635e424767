"""Nothing that came with a call stays when it is over: no argument, result or error, without the
cycle collector's help.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import trio

from lattica.rpc import NotFoundError, RpcError
from tests.support.rpc.pair import rpc_pair


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Taker:
    """Remembers what it got, but does not keep it."""

    def __init__(self) -> None:
        self.taken: list[weakref.ref[Any]] = []

    async def take(self, value: Any) -> int:
        self.taken.append(weakref.ref(value))
        return 1

    async def take_slowly(self, value: Any) -> int:
        self.taken.append(weakref.ref(value))
        await trio.sleep(1)
        return 1

    async def lose(self, value: Any) -> int:
        self.taken.append(weakref.ref(value))
        raise NotFoundError("nothing here")


@pytest.mark.parametrize("method", ["take", "take_slowly", "lose"])
@pytest.mark.parametrize("size", [3, 100_000], ids=["control-plane", "data-plane"])
async def test_a_server_keeps_no_arguments(method: str, size: int, autojump_clock) -> None:
    async with rpc_pair() as pair:
        taker = Taker()
        pair.server.serve(taker)
        stub: Any = pair.client.stub(pair.server_host.peer_id, Taker)
        for number in range(3):
            try:
                await getattr(stub, method)(np.zeros(size))
            except NotFoundError:
                assert method == "lose"
            await trio.sleep(1)
            assert [each() for each in taker.taken] == [None] * (number + 1)


@pytest.mark.parametrize("size", [3, 100_000], ids=["control-plane", "data-plane"])
async def test_a_caller_keeps_neither_results_nor_errors(size: int, autojump_clock) -> None:
    async with rpc_pair() as pair:
        pair.server.serve(Taker())
        got = weakref.ref(await pair.stub.echo(np.zeros(size)))
        await trio.sleep(1)
        assert got() is None
        stub = pair.client.stub(pair.server_host.peer_id, Taker)
        errors: list[weakref.ref[RpcError]] = []
        try:
            await stub.lose(np.zeros(size))
        except NotFoundError as error:
            errors.append(weakref.ref(error))
        await trio.sleep(1)
        assert [each() for each in errors] == [None]
