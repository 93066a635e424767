"""Streaming calls, both ways."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import trio

from lattica.rpc import (
    CallCancelledError,
    DeadlineExceededError,
    InvalidArgumentError,
    ResponseStream,
    UnimplementedError,
    UnknownError,
    with_options,
)
from tests.support.rpc.pair import rpc_pair


async def items_of(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_streams_of_results() -> None:
    async with rpc_pair() as pair:
        stub: Any = pair.stub
        for _ in range(3):  # on the same stream of the data plane
            assert await items_of(stub.numbers(5)) == [0, 1, 2, 3, 4]
            assert await items_of(stub.words(2)) == ["word 0", "word 1"]
            assert await items_of(stub.numbers(0)) == []
        arrays = await items_of(stub.arrays(5, 300_000))
        assert [int(each.mean()) for each in arrays] == [0, 1, 2, 3, 4]
        by_name = pair.client.stub(pair.server_host.peer_id, "Workshop")
        assert await items_of(by_name.numbers(3)) == [0, 1, 2]
        assert len(pair.client_host.connections[pair.server_host.peer_id].session.streams) == 1


async def test_streams_of_requests() -> None:
    async with rpc_pair() as pair:
        stub: Any = pair.stub
        for _ in range(3):
            assert await stub.total(numbers(5)) == 10
            assert await stub.total([1, 2], start=5) == 8
            assert await stub.total_blocking(iter([4, 5])) == 9
            assert await stub.first(numbers(1)) == 0
            assert await items_of(stub.doubles(numbers(3))) == [0, 2, 4]
            assert await items_of(stub.doubles_blocking([1, 2])) == [2, 4]
        assert await stub.first(numbers(100_000)) == 0  # answered before it was read


async def test_a_bidirectional_stream_is_a_conversation() -> None:
    async with rpc_pair() as pair:
        send, receive = trio.open_memory_channel[int](0)
        answers = aiter(pair.stub.doubles(receive))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(send.send, number)
                assert await anext(answers) == 2 * number
        await send.aclose()
        assert await anext(answers, None) is None


async def test_errors_in_a_stream() -> None:
    async with rpc_pair() as pair:
        stub: Any = pair.stub
        breaking = aiter(stub.breaks(3))
        assert [await anext(breaking) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UnknownError, match="Boom: in the middle"):
            await anext(breaking)
        with pytest.raises(InvalidArgumentError, match="expected int, not str"):
            await stub.total(["a"])
        with pytest.raises(TypeError, match="an item of the requests: "):
            await stub.total([object()])
        with pytest.raises(TypeError, match="is an iterable"):
            await stub.total(5)
        with pytest.raises(ZeroDivisionError):
            await stub.total(1 // number for number in [1, 0])
        with pytest.raises(InvalidArgumentError):
            await items_of(stub.numbers("x"))
        with pytest.raises(UnimplementedError, match="is unary here"):
            await items_of(pair.client.stub(pair.server_host.peer_id, "Workshop").shout("a"))
        assert await items_of(stub.numbers(2)) == [0, 1]


async def test_leaving_a_stream_cancels_its_handler() -> None:
    async with rpc_pair() as pair:
        for leave in ("aclose", "with", "drop"):
            for method in ("numbers", "words"):
                pair.workshop.ended.clear()
                stream: ResponseStream = getattr(pair.stub, method)(1_000_000)
                if leave == "with":
                    async with stream:
                        await anext(stream)
                else:
                    await anext(stream)
                    if leave == "aclose":
                        await stream.aclose()
                        assert await anext(stream, None) is None
                del stream
                await pair.workshop.until_ended(method)
        assert await pair.stub.shout("on") == "ON"


async def test_a_cancelled_reader_cancels_the_handler() -> None:
    async with rpc_pair() as pair:
        with trio.CancelScope() as scope:
            async for number in pair.stub.numbers(1_000_000):
                if number == 10:
                    scope.cancel()
        await pair.workshop.until_ended("numbers")


async def test_another_task_closes_the_iterator() -> None:
    async with rpc_pair() as pair, trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[int](0)
        stream: Any = pair.stub.doubles(receive)

        async def read() -> None:
            with pytest.raises(CallCancelledError):
                await anext(stream)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        stream.close()
        await send.aclose()


async def test_the_deadline_of_a_stream(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair() as pair:
        send, receive = trio.open_memory_channel[int](0)
        stream: Any = with_options(pair.stub, timeout=3.0).doubles(receive)
        start = trio.current_time()
        with pytest.raises(DeadlineExceededError):
            await anext(stream)
        assert trio.current_time() - start == pytest.approx(3.0, abs=0.1)
        await send.aclose()


async def test_a_slow_reader_stops_its_server_and_nothing_else() -> None:
    async with rpc_pair() as pair:
        size, count = 1_000_000, 200
        stream: Any = pair.stub.arrays(count, size)
        await anext(stream)
        made = -1
        while made != len(pair.workshop.ran):  # until it makes no more
            made = len(pair.workshop.ran)
            for _ in range(50):
                await pair.stub.shout("others go on")
        assert made * size < 40_000_000
        got = 1
        async for array in stream:
            assert int(array[0]) == got % 256
            got += 1
        assert got == count


async def test_a_slow_handler_stops_its_caller() -> None:
    async with rpc_pair() as pair:
        sent = 0
        release = trio.Event()

        class Slow:
            async def take(self, items: AsyncIterator[bytes]) -> int:
                await release.wait()
                return sum([len(item) async for item in items])

        async def blocks() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(100):
                sent += 1
                yield bytes(1_000_000)

        pair.server.serve(Slow())
        total: list[int] = []

        async def call() -> None:
            total.append(await pair.client.stub(pair.server_host.peer_id, Slow).take(blocks()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            before = -1
            while before != sent or not sent:
                before = sent
                for _ in range(50):
                    await pair.stub.shout("others go on")
            assert sent < 40
            release.set()
        assert total == [100_000_000]


async def test_tensors_in_and_out_of_a_conversation() -> None:
    async with rpc_pair() as pair:

        class Scale:
            async def scale(
                self, items: AsyncIterator[np.ndarray], by: float
            ) -> AsyncIterator[np.ndarray]:
                async for item in items:
                    item *= by  # it is writable
                    yield item

        pair.server.serve(Scale())
        stub = pair.client.stub(pair.server_host.peer_id, Scale)
        sent = [np.full(100_000, number, np.float32) for number in range(10)]

        async def source() -> AsyncIterator[np.ndarray]:
            for each in sent:
                yield each

        got = await items_of(stub.scale(source(), by=2.0))
        assert [float(each[7]) for each in got] == [2.0 * number for number in range(10)]
