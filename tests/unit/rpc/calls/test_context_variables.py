"""What a handler sets in its context is nothing for other calls, though they share tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar

import numpy as np
import trio

from tests.support.rpc.pair import rpc_pair

user: ContextVar[str] = ContextVar("user", default="nobody")
LARGE = np.zeros(100_000, np.uint8)


class Desk:
    def __init__(self) -> None:
        self.has_set = trio.Event()
        self.may_end = trio.Event()

    async def wait(self, name: str) -> str:
        user.set(name)
        self.has_set.set()
        await self.may_end.wait()
        return user.get()

    async def set_at_once(self, name: str) -> None:
        user.set(name)

    async def who(self) -> str:
        return user.get()

    async def large(self, name: str, array: np.ndarray) -> str:
        was = user.get()
        user.set(name)
        return was

    async def stream(self, name: str) -> AsyncIterator[str]:
        yield user.get()
        user.set(name)
        await trio.sleep(0)
        yield user.get()


async def test_on_the_control_plane() -> None:
    async with rpc_pair() as pair, trio.open_nursery() as nursery:
        desk = Desk()
        pair.server.serve(desk)
        stub = pair.client.stub(pair.server_host.peer_id, Desk)
        answers: list[str] = []

        async def wait() -> None:
            answers.append(await stub.wait("anna"))

        nursery.start_soon(wait)
        await desk.has_set.wait()
        # Its worker was started by the handler that waits.
        assert await stub.who() == "nobody"
        await stub.set_at_once("berta")
        assert await stub.who() == "nobody"
        desk.may_end.set()
    assert answers == ["anna"]


async def test_on_a_stream_of_the_data_plane() -> None:
    async with rpc_pair() as pair:
        pair.server.serve(Desk())
        stub = pair.client.stub(pair.server_host.peer_id, Desk)
        for _ in range(2):
            assert await stub.large("anna", LARGE) == "nobody"
            assert [item async for item in stub.stream("berta")] == ["nobody", "berta"]
