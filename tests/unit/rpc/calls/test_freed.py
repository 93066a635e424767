"""However a call ends, nothing of it waits for the garbage collector: no cycle, on either side.

A server under many cancelled calls would otherwise hold their arguments until the collector runs.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest
import trio

from lattica.rpc import CallContext, PermissionDeniedError, RpcError, method, with_options
from tests.support.rpc.pair import Pair, rpc_pair

TIMES = 5
LARGE = np.zeros(100_000, np.uint8)


class Bench:
    async def hang(self) -> None:
        await trio.sleep_forever()

    async def hang_with(self, array: np.ndarray) -> None:
        await trio.sleep_forever()

    async def hang_in_nursery(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    async def turn_cancellation_over(self) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise ValueError("late") from None

    @method(idempotent=True)
    async def fail(self) -> None:
        raise KeyError("x")

    async def fail_later(self) -> None:
        await trio.sleep(0.1)
        raise KeyError("x")

    def fail_in_thread(self) -> None:
        raise KeyError("x")

    async def zeros(self, size: int) -> bytes:
        return bytes(size)

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number
            await trio.sleep(1)
        raise KeyError("the end")

    def count_in_thread(self, to: int) -> Iterator[int]:
        yield from range(to)
        raise KeyError("the end")

    async def sum(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])


class Locked:
    async def get(self) -> int:
        return 1


def refuse(context: CallContext) -> None:
    raise PermissionDeniedError("nobody")


async def given_up(call: Awaitable[object]) -> None:
    with trio.move_on_after(0.5):
        await call


async def failing(call: Awaitable[object]) -> None:
    with pytest.raises(RpcError):
        await call


async def hang_is_given_up(pair: Pair, stub: Bench) -> None:
    await given_up(stub.hang())


async def hang_is_late(pair: Pair, stub: Bench) -> None:
    await failing(with_options(stub, timeout=0.5).hang())


async def large_is_given_up(pair: Pair, stub: Bench) -> None:
    await given_up(stub.hang_with(LARGE))


async def large_is_late(pair: Pair, stub: Bench) -> None:
    await failing(with_options(stub, timeout=0.5).hang_with(LARGE))


async def nursery_is_given_up(pair: Pair, stub: Bench) -> None:
    await given_up(stub.hang_in_nursery())


async def cancellation_is_turned_over(pair: Pair, stub: Bench) -> None:
    await given_up(stub.turn_cancellation_over())


async def handler_fails(pair: Pair, stub: Bench) -> None:
    await failing(stub.fail())


async def handler_fails_later(pair: Pair, stub: Bench) -> None:
    await failing(stub.fail_later())


async def thread_fails(pair: Pair, stub: Bench) -> None:
    await failing(pair.client.call(pair.server_host.peer_id, "Bench.fail_in_thread"))


async def hedged_fails(pair: Pair, stub: Bench) -> None:
    await failing(with_options(stub, hedge_after=0.01).fail())


async def large_result_is_fetched(pair: Pair, stub: Bench) -> None:
    assert len(await stub.zeros(100_000)) == 100_000


async def unknown_method(pair: Pair, stub: Bench) -> None:
    await failing(pair.client.call(pair.server_host.peer_id, "Bench.nothing"))


async def wrong_argument(pair: Pair, stub: Bench) -> None:
    await failing(pair.client.call(pair.server_host.peer_id, "Bench.zeros", "x"))


async def unencodable_argument(pair: Pair, stub: Bench) -> None:
    with pytest.raises(TypeError):
        await stub.zeros(object())  # type: ignore[arg-type]


async def refused(pair: Pair, stub: Bench) -> None:
    await failing(pair.client.stub(pair.server_host.peer_id, Locked).get())


async def stream_is_left(pair: Pair, stub: Bench) -> None:
    async with stub.count(9) as stream:  # type: ignore[attr-defined]
        await anext(stream)


async def stream_is_late(pair: Pair, stub: Bench) -> None:
    with pytest.raises(RpcError):
        _ = [item async for item in with_options(stub, timeout=0.5).count(9)]


async def stream_fails(pair: Pair, stub: Bench) -> None:
    with pytest.raises(RpcError):
        _ = [item async for item in stub.count(1)]


async def threaded_stream_is_left(pair: Pair, stub: Bench) -> None:
    async with stub.count_in_thread(9) as stream:  # type: ignore[attr-defined]
        await anext(stream)


async def threaded_stream_fails(pair: Pair, stub: Bench) -> None:
    with pytest.raises(RpcError):
        _ = [item async for item in stub.count_in_thread(1)]  # type: ignore[attr-defined]


async def requests_are_given_up(pair: Pair, stub: Bench) -> None:
    async def never() -> AsyncIterator[int]:
        yield 1
        await trio.sleep_forever()

    await given_up(stub.sum(never()))


async def requests_fail(pair: Pair, stub: Bench) -> None:
    async def bad() -> AsyncIterator[int]:
        yield 1
        raise LookupError("mine")

    with pytest.raises(LookupError):
        await stub.sum(bad())


async def connection_is_lost(pair: Pair, stub: Bench) -> None:
    async with trio.open_nursery() as nursery:
        for call in (stub.hang, lambda: stub.hang_with(LARGE)):
            nursery.start_soon(_suppressed, call)
        await trio.sleep(0.1)
        pair.lose()
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def _suppressed(call: Callable[[], Awaitable[object]]) -> None:
    with suppress(RpcError):
        await call()


ENDS = (
    hang_is_given_up,
    hang_is_late,
    large_is_given_up,
    large_is_late,
    nursery_is_given_up,
    cancellation_is_turned_over,
    handler_fails,
    handler_fails_later,
    thread_fails,
    hedged_fails,
    large_result_is_fetched,
    unknown_method,
    wrong_argument,
    unencodable_argument,
    refused,
    stream_is_left,
    stream_is_late,
    stream_fails,
    threaded_stream_is_left,
    threaded_stream_fails,
    requests_are_given_up,
    requests_fail,
    connection_is_lost,
)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_no_cycle_is_left(
    end: Callable[[Pair, Bench], Awaitable[None]], autojump_clock: trio.testing.MockClock
) -> None:
    async with rpc_pair() as pair:
        pair.server.serve(Bench())
        pair.server.serve(Locked(), authorize=refuse)
        stub = pair.client.stub(pair.server_host.peer_id, Bench)
        await end(pair, stub)  # what is made once
        await trio.sleep(2)
        count, errors = await left_by(end, pair, stub)
        if count >= TIMES:  # a thread of an earlier test may have let go of that just now
            count, errors = await left_by(end, pair, stub)
        assert not errors
        assert count < TIMES, f"{count} objects wait for the collector"


async def left_by(
    end: Callable[[Pair, Bench], Awaitable[None]], pair: Pair, stub: Bench
) -> tuple[int, list[BaseException]]:
    """How many objects wait for the collector after some calls, and the exceptions among them."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(TIMES):
            await end(pair, stub)
            await trio.sleep(2)
        gc.collect()
        return len(gc.garbage), [each for each in gc.garbage if isinstance(each, BaseException)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
