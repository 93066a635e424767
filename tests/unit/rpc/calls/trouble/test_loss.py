"""Connections that are lost in mid-call, servers that restart, and drain."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import trio

from lattica.nat.base.wire import LengthPrefixed
from lattica.rpc import (
    Rpc,
    RpcConfig,
    UnavailableError,
    open_rpc,
    with_options,
)
from lattica.rpc.protocol.frames import CONTROL, MAX_FRAME, encode_hello
from tests.support.doubles.memory_host import memory_net
from tests.support.rpc.pair import Pair, rpc_pair
from tests.support.rpc.services import Workshop


async def test_calls_outlive_their_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair() as pair:
        results: list[object] = []

        async def call(number: int) -> None:
            await pair.stub.wait(float(number))
            results.append(await pair.stub.count(number))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(call, number)
            for _ in range(12):
                await trio.sleep(1.7)
                pair.lose()
        assert sorted(pair.workshop.ran) == [*range(20)]
        assert len(results) == 20


async def test_a_lost_peer_ends_calls_once(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair() as pair:
        errors: list[UnavailableError] = []

        async def call() -> None:
            with pytest.raises(UnavailableError) as raised:
                await with_options(pair.stub, timeout=1000.0).wait(500.0)
            errors.append(raised.value)

        async with trio.open_nursery() as nursery:
            await pair.stub.shout("connect")
            nursery.start_soon(call)
            await trio.sleep(1)
            start = trio.current_time()
            pair.server_host.is_reachable = False
            pair.lose()
            await pair.workshop.until_ended("wait")
        assert trio.current_time() - start < 15
        assert errors[0].may_have_run
        with pytest.raises(UnavailableError) as raised:
            await pair.stub.count(1)
        assert not raised.value.may_have_run
        assert pair.workshop.ran == []
        pair.server_host.is_reachable = True
        assert await pair.stub.shout("back") == "BACK"


async def test_a_stream_ends_once_when_its_connection_is_lost() -> None:
    async with rpc_pair() as pair:
        stream = aiter(pair.stub.numbers(1_000_000))
        await anext(stream)
        pair.lose()

        async def read_on() -> None:
            async for _number in stream:
                pass

        with pytest.raises(UnavailableError) as raised:
            await read_on()
        assert raised.value.may_have_run
        await pair.workshop.until_ended("numbers")


async def test_a_call_that_may_have_run_before_a_restart_is_not_made_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_net() as net, trio.open_nursery() as nursery:
        host, caller = net.host(), net.host()
        workshop = Workshop()
        first = Rpc(host, nursery)
        first.serve(workshop)
        async with open_rpc(caller) as client:
            stub = client.stub(host.peer_id, Workshop)
            assert await stub.shout("a") == "A"
            failed: list[UnavailableError] = []

            async def call() -> None:
                with pytest.raises(UnavailableError, match="may have run") as raised:
                    await stub.wait(1000.0)
                failed.append(raised.value)

            nursery.start_soon(call)
            await trio.sleep(1)
            # Killed: nothing is told, and another process takes its place.
            first._server.control.sessions.clear()
            caller.drop(host.peer_id)
            await trio.sleep(5)
            assert failed[0].may_have_run
            assert await stub.shout("b") == "B"
        await first.aclose()


async def test_each_loss_of_a_stream_has_the_whole_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    window = RpcConfig().resume_window
    async with rpc_pair() as pair:

        async def knows(number: int) -> bool:
            """Whether the session is known on its next stream, which is lost again."""
            stream = await pair.client_host.open_stream(pair.server_host.peer_id, CONTROL)
            await stream.send_all(encode_hello(bytes(16), 0, number))
            (frame,) = LengthPrefixed(MAX_FRAME).feed(await stream.receive_some())
            stream.reset("lost")
            return msgpack.unpackb(frame)[-1] is not None

        assert await knows(1)
        for number in range(2, 6):
            await trio.sleep(0.7 * window)
            assert await knows(number)
        await trio.sleep(1.1 * window)
        assert not await knows(6)
        assert not pair.server.statistics().sessions


async def test_calls_under_way_finish_at_shutdown(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_net() as net, trio.open_nursery() as nursery:
        host, caller = net.host(), net.host()
        server = Rpc(host, nursery, RpcConfig(drain_timeout=5.0))
        server.serve(Workshop())
        async with open_rpc(caller) as client:
            stub = with_options(client.stub(host.peer_id, Workshop), retries=0)
            assert await stub.shout("a") == "A"
            results: list[str] = []

            async def call(seconds: float) -> None:
                try:
                    results.append(await stub.wait(seconds))
                except UnavailableError as error:
                    results.append(f"unavailable {error.may_have_run}")
                except Exception as error:
                    results.append(type(error).__name__)

            nursery.start_soon(call, 3.0)
            nursery.start_soon(call, 60.0)
            await trio.sleep(1)
            nursery.start_soon(server.aclose)
            await trio.sleep(0.5)
            await call(1.0)
            assert results == ["unavailable False"]
            await trio.sleep(2)
            assert results[1:] == ["waited"]
            await trio.sleep(30)
            assert len(results) == 3


async def test_a_large_result_is_fetched_over_the_next_connection() -> None:
    async with rpc_pair() as pair:
        await pair.stub.shout("connect")
        link: Any = pair.client._client.peers[pair.server_host.peer_id]._data
        fetch, lost = link.fetch, 0

        async def losing(*args: Any) -> Any:
            nonlocal lost
            if not lost:
                lost += 1
                pair.lose()
            return await fetch(*args)

        link.fetch = losing
        assert await pair.stub.zeros(3_000_000) == bytes(3_000_000)
        assert lost == 1


def active(pair: Pair, method: str) -> int:
    """How many calls of a method the server has."""
    return sum(each.active for each in pair.server.statistics().methods if each.method == method)


async def test_nothing_is_left_behind() -> None:
    async with rpc_pair() as pair:
        for _ in range(5):
            await pair.stub.shout("a")
            async for _number in pair.stub.numbers(3):
                pass
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.stub.wait, 50.0)
                while not active(pair, "Workshop.wait"):
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
            with trio.move_on_after(0.01):
                async for _number in pair.stub.numbers(1_000_000):
                    pass
        await pair.workshop.until_ended("wait")
        while any(each.active for each in pair.server.statistics().methods):
            await trio.sleep(0.001)
        assert pair.server.statistics().receive_memory == 0
        connection = pair.client_host.connections[pair.server_host.peer_id]
        assert connection.stream_count <= 2  # the control plane's, and one to be used again
