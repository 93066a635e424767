"""Calls by the original's protocols, both roles ours, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from lattica.compat.calls.decorators import rpc_method, rpc_stream, rpc_stream_iter
from lattica.compat.errors import CompatError
from lattica.compat.pickles.reader import read_pickle
from lattica.compat.pickles.writer import write_pickle
from lattica.compat.wire.client import OriginalClient
from lattica.compat.wire.messages import STREAM, UNARY
from lattica.compat.wire.server import OriginalServer
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.config import MIB
from lattica.nat.mux.stream import Stream
from lattica.rpc.data_plane.budget import ReceiveBudget
from tests.support.doubles.memory_host import memory_net


class Service:
    @rpc_method
    def echo(self, x: Any) -> Any:
        return x

    @rpc_stream
    def big(self, x: Any) -> Any:
        return x

    @rpc_stream_iter
    def letters(self, n: int) -> Iterator[str]:
        for number in range(n):
            yield f"s{number}"

    @rpc_method
    def leave(self) -> None:
        raise SystemExit("bye")

    @rpc_stream
    def leave_streamed(self) -> None:
        raise SystemExit("bye")

    @rpc_stream_iter
    def leave_between(self) -> Iterator[str]:
        yield "s0"
        raise SystemExit("bye")


@asynccontextmanager
async def served() -> AsyncIterator[tuple[OriginalClient, PeerId, ReceiveBudget]]:
    async with memory_net() as net, trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        budget = ReceiveBudget(64 * MIB, 64 * MIB, trio.current_time)
        there, here = net.host(), net.host()
        server = OriginalServer(there, tasks, budget, 4)
        server.register(Service())
        yield OriginalClient(here, tasks, budget), there.peer_id, budget
        server.close()
        tasks.cancel()
        await tasks.wait_ended()
        assert budget.used == 0


async def items(client: OriginalClient, peer: PeerId, method: str, data: bytes) -> list[bytes]:
    return [each async for each in client.items(peer, f"Service.{method}", data)]


async def test_calls_of_each_kind() -> None:
    value = write_pickle({"a": bytes(100_000)})
    async with served() as (client, peer, _):
        for call, method in ((client.unary, "echo"), (client.streamed, "big")):
            answer = await call(peer, f"Service.{method}", value)
            assert read_pickle(answer) == {"a": bytes(100_000)}
        assert await items(client, peer, "letters", write_pickle(2)) == [b"s0", b"s1"]
        with pytest.raises(CompatError, match="Method nothing not found in Service"):
            await client.unary(peer, "Service.nothing", b"")
        with pytest.raises(CompatError, match="Service None not found"):
            await client.streamed(peer, "None.nothing", b"")


async def test_a_handler_that_would_end_the_program_fails_its_call() -> None:
    async with served() as (client, peer, _):
        for call in (
            partial(client.unary, peer, "Service.leave", b""),
            partial(client.streamed, peer, "Service.leave_streamed", b""),
            partial(items, client, peer, "leave_between", b""),
        ):
            with trio.fail_after(60), pytest.raises(CompatError, match="SystemExit: bye"):
                await call()


async def test_a_peer_that_does_not_answer_wholly(autojump_clock: MockClock) -> None:
    async def begin(stream: Stream) -> None:
        await stream.send_all(b"\0\0")
        await trio.sleep_forever()

    async with memory_net() as net, trio.open_nursery() as nursery:
        there = net.host()
        for protocol in (UNARY, STREAM):
            there.handle(protocol, begin, owner="test")
        budget = ReceiveBudget(MIB, MIB, trio.current_time)
        client = OriginalClient(net.host(), Tasks(nursery), budget)
        for call in (client.unary, client.streamed):
            with pytest.raises(CompatError, match="has not sent the rest"):
                await call(there.peer_id, "Service.echo", b"")
        assert budget.used == 0
