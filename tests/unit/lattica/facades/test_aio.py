"""The asyncio facade on a node without a network: cancellation, loops, handlers, ends."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio

from lattica.errors import (
    DialError,
    IncompleteReadError,
    LatticaError,
    ListenError,
    LocalProtocolError,
    StreamClosedError,
    StreamResetError,
)
from lattica.facades import facade
from lattica.facades.aio import AsyncLattica
from lattica.facades.streams.aio import AsyncStream
from tests.support.doubles.fake_node import BUILT_IN, WINDOW, FakeNode

PATIENCE = 30.0

Peer = Any
SELF: Peer = "self"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    node = FakeNode()
    monkeypatch.setattr(facade, "make_node", lambda config, identity: node)
    return node


def in_asyncio(fn: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await fn()

    asyncio.run(main(), debug=True)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def echo(stream: AsyncStream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


@asynccontextmanager
async def echoing() -> AsyncIterator[AsyncLattica]:
    async with AsyncLattica() as lattica:
        await lattica.handle("/echo", echo)
        yield lattica


def test_calls_reach_the_node(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncLattica() as lattica:
            assert str(lattica.peer_id) == "self"
            assert list(map(str, await lattica.addrs())) == ["/memory/self"]
            assert str(await lattica.connect("somebody")) == "somebody"
            await lattica.wait_connected(SELF, timeout=PATIENCE)
            await lattica.add_address(SELF, "/memory/x")
            await lattica.disconnect(SELF)
            assert await lattica.is_connected(SELF)
            assert len(await lattica.peers()) == 1
            assert str(await lattica.path(SELF)) == "direct-memory"
            await lattica.wait_announced(timeout=3)
            with pytest.raises(TimeoutError):
                await lattica.wait_reachable(timeout=0.01)
            assert node.log[-2:] == ["announced 3.0", "reachable 0.01"]
            with pytest.raises(DialError, match="nobody there"):
                await lattica.connect("fail")
            with pytest.raises(TimeoutError, match=r"0\.01 s"):
                await lattica.connect("hang", timeout=0.01)
            with pytest.raises(ValueError, match="number of seconds"):
                await lattica.connect("somebody", timeout=-1)
        assert node.log[-2:] == ["connect hang", "cancelled hang"]

    in_asyncio(main)


def test_streams(node: FakeNode) -> None:
    async def main() -> None:
        async with echoing() as lattica:
            payload = os.urandom(3 * WINDOW)
            async with await lattica.open_stream(SELF, "/echo") as stream:
                sending = asyncio.create_task(stream.send_all(payload))
                assert await stream.receive_exactly(10) == payload[:10]
                assert await stream.receive_some(5) == payload[10:15]
                rest = bytearray(len(payload) - 15)
                assert await stream.receive_into(rest, fill=True) == len(rest)
                assert rest == payload[15:]
                await sending
                await stream.send_eof()
                assert [chunk async for chunk in stream] == []
            await stream.aclose()
            with pytest.raises(StreamClosedError):
                await stream.send_all(b"x")
            with pytest.raises(KeyError):
                async with await lattica.open_stream(SELF, "/echo") as stream:
                    raise KeyError
            with pytest.raises(StreamResetError):
                await stream.receive_some()

    in_asyncio(main)


def test_arrays_are_sent_and_received_into(node: FakeNode) -> None:
    async def main() -> None:
        grid: Any = np.arange(200_000, dtype=np.float32).reshape(400, 500)
        async with echoing() as lattica:
            stream = await lattica.open_stream(SELF, "/echo")
            for source in (grid, grid.T, grid[:3, 1]):
                target = np.zeros(source.shape[::-1], np.float32).T
                sending = asyncio.create_task(stream.send_all(source))
                assert await stream.receive_into(target, fill=True) == target.nbytes
                assert np.array_equal(target, source)
                await sending
            await stream.send_message(grid[:2, 0])
            assert await stream.receive_message(8) == grid[:2, 0].tobytes()
            waiting = asyncio.create_task(stream.wait_gone())
            stream.reset("done with it", 7)
            await waiting
            assert node.reset_codes[0] == 7

    in_asyncio(main)


def test_many_tasks_at_once(node: FakeNode) -> None:
    async def main() -> None:
        async with echoing() as lattica:

            async def work(number: int) -> None:
                payload = number.to_bytes(2, "big") * 5000
                async with await lattica.open_stream(SELF, "/echo") as stream:
                    await stream.send_all(payload)
                    assert await stream.receive_exactly(len(payload)) == payload

            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(work(number))

    in_asyncio(main)


def test_cancellation_reaches_the_node(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncLattica() as lattica:
            task = asyncio.create_task(lattica.connect("hang"))
            await until(lambda: node.log)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert node.log == ["connect hang", "cancelled hang"]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await lattica.connect("hang")
            assert node.log[-1] == "cancelled hang"

    in_asyncio(main)


def test_a_cancelled_call_is_waited_for_and_its_result_disposed_of(node: FakeNode) -> None:
    async def main() -> None:
        late: Peer = "late"
        async with echoing() as lattica:
            task = asyncio.create_task(lattica.open_stream(late, "/echo"))
            await until(lambda: lattica._bridge._live)
            await asyncio.sleep(0.01)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.01)
            assert not task.done()
            lattica._bridge.soon(node.release.set)
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: node.resets)

    in_asyncio(main)


def test_nothing_is_lost_when_a_read_is_cancelled_at_any_moment(node: FakeNode) -> None:
    async def main() -> None:
        async def count(stream: AsyncStream) -> None:
            for number in range(300):
                await stream.send_all(number.to_bytes(4, "big"))
                if number % 7 == 0:
                    await asyncio.sleep(0)

        async with AsyncLattica() as lattica:
            await lattica.handle("/count", count)
            async with await lattica.open_stream(SELF, "/count") as stream:
                got = b""
                for turn in range(100_000):
                    into = bytearray(8)
                    if turn % 2:
                        reading = asyncio.create_task(stream.receive_some(8))
                    else:
                        reading = asyncio.create_task(read_into(stream, into))
                    for _ in range(turn % 5):
                        await asyncio.sleep(0)
                    reading.cancel()
                    try:
                        chunk = await reading
                    except asyncio.CancelledError:
                        continue
                    if not chunk:
                        break
                    got += chunk
        assert got == b"".join(number.to_bytes(4, "big") for number in range(300))

    async def read_into(stream: AsyncStream, into: bytearray) -> bytes:
        return bytes(into[: await stream.receive_into(into)])

    in_asyncio(main)


def test_no_message_is_lost_when_its_receiver_is_cancelled_at_any_moment(node: FakeNode) -> None:
    async def main() -> None:
        messages = [bytes((number,)) * (number % 3 * 70) for number in range(100)]

        async def tell(stream: AsyncStream) -> None:
            for message in messages:
                await stream.send_message(message)
                if len(message) == 70:
                    await asyncio.sleep(0)

        async with AsyncLattica() as lattica:
            await lattica.handle("/tell", tell)
            async with await lattica.open_stream(SELF, "/tell") as stream:
                got = []
                for turn in range(100_000):
                    reading = asyncio.create_task(stream.receive_message(140))
                    for _ in range(turn % 5):
                        await asyncio.sleep(0)
                    reading.cancel()
                    try:
                        got.append(await reading)
                    except asyncio.CancelledError:
                        continue
                    except IncompleteReadError:
                        break
        assert got == messages

    in_asyncio(main)


def test_handlers_run_on_the_loop_that_registered_them(node: FakeNode) -> None:
    async def main() -> None:
        mine = asyncio.get_running_loop()
        seen: list[bool] = []

        async def handler(stream: AsyncStream) -> None:
            seen.append(asyncio.get_running_loop() is mine)
            await stream.send_all(stream.protocol.encode())

        async with AsyncLattica() as lattica:
            await lattica.handle("/where", handler)

            async def elsewhere() -> bytes:
                async with await lattica.open_stream(SELF, "/where") as stream:
                    return await stream.receive_exactly(6)

            assert await asyncio.to_thread(asyncio.run, elsewhere()) == b"/where"
            assert await asyncio.to_thread(asyncio.run, elsewhere()) == b"/where"
            await lattica.unhandle("/where")
        assert seen == [True, True]

    in_asyncio(main)


def test_what_cannot_be_called_is_no_handler(node: FakeNode) -> None:
    async def main() -> None:
        wrong: Any = None
        async with AsyncLattica() as lattica:
            with pytest.raises(LocalProtocolError, match="a handler is a function of a stream"):
                await lattica.handle("/p", wrong)
        assert "/p" not in node.handlers

    in_asyncio(main)


def test_a_plain_function_is_no_handler_for_asyncio(node: FakeNode) -> None:
    def plain(stream: AsyncStream) -> None: ...

    async def main() -> None:
        wrong: Any = plain
        unseen: Any = lambda stream: None  # noqa: E731
        async with AsyncLattica() as lattica:
            with pytest.raises(LocalProtocolError, match="plain is a plain function: Node and"):
                await lattica.handle("/p", wrong)
            assert "/p" not in node.handlers
            await lattica.handle("/p", unseen)
            async with await lattica.open_stream("self", "/p") as stream:
                with pytest.raises(StreamResetError):
                    await stream.receive_some(timeout=PATIENCE)
        (error,) = node.failures
        assert "Lattica plain functions" in str(error)

    in_asyncio(main)


def test_what_the_node_serves_is_replaced_on_request_only(node: FakeNode) -> None:
    async def mine(stream: AsyncStream) -> None:
        await stream.send_all(b"mine")

    async def main() -> None:
        async with AsyncLattica() as lattica:
            with pytest.raises(LocalProtocolError):
                await lattica.handle(BUILT_IN, mine)
            await lattica.handle(BUILT_IN, mine, replace=True)
            async with await lattica.open_stream(SELF, BUILT_IN) as stream:
                assert await stream.receive_exactly(4) == b"mine"

    in_asyncio(main)


def test_a_handler_that_raises_costs_its_stream(node: FakeNode) -> None:
    async def main() -> None:
        async def bad(stream: AsyncStream) -> None:
            raise KeyError("bad handler")

        async def cancelled(stream: AsyncStream) -> None:
            raise asyncio.CancelledError

        async with AsyncLattica() as lattica:
            await lattica.handle("/bad", bad)
            await lattica.handle("/cancelled", cancelled)
            for protocol in ("/bad", "/cancelled"):
                stream = await lattica.open_stream(SELF, protocol)
                with pytest.raises(StreamResetError):
                    await stream.receive_some()
            assert str(await lattica.connect("somebody")) == "somebody"
        assert isinstance(node.failures[0], KeyError)

    in_asyncio(main)


def test_a_handler_whose_loop_is_gone(node: FakeNode) -> None:
    lattica = AsyncLattica()

    async def register() -> None:
        await lattica.start()
        await lattica.handle("/echo", echo)

    async def use() -> None:
        stream = await lattica.open_stream(SELF, "/echo")
        with pytest.raises(StreamResetError):
            await stream.receive_some()
        await lattica.aclose()

    in_asyncio(register)
    in_asyncio(use)


def test_handlers_are_cancelled_and_waited_for_at_the_end(node: FakeNode) -> None:
    async def main() -> None:
        ends: list[str] = []
        begun = asyncio.Event()

        async def handler(stream: AsyncStream) -> None:
            begun.set()
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(0.01)
                ends.append("end")

        async def stubborn(stream: AsyncStream) -> None:
            try:
                await stream.receive_some()
            except (asyncio.CancelledError, LatticaError):
                ends.append("woken")
                raise

        async with AsyncLattica() as lattica:
            await lattica.handle("/wait", handler)
            await lattica.handle("/stubborn", stubborn)
            await lattica.open_stream(SELF, "/wait")
            await lattica.open_stream(SELF, "/stubborn")
            await begun.wait()
            await until(lambda: len(lattica._handlers._tasks) == 2 and lattica._bridge._live)
        assert sorted(ends) == ["end", "woken"]

    in_asyncio(main)


def test_close_from_inside_a_handler(node: FakeNode) -> None:
    async def main() -> None:
        lattica = await AsyncLattica().start()
        closed = asyncio.Event()

        async def handler(stream: AsyncStream) -> None:
            try:
                await lattica.aclose()
            finally:
                closed.set()

        await lattica.handle("/close", handler)
        await lattica.open_stream(SELF, "/close")
        await closed.wait()
        await lattica.aclose()

    in_asyncio(main)


def test_events(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncLattica() as lattica:
            with lattica.events() as events:
                await lattica.connect("one")
                got: list[Any] = [await events.receive(), None]
                task = asyncio.create_task(events.receive())
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await lattica.connect("two")
                got[1] = await events.receive(timeout=PATIENCE)
                assert got == ["connected one", "connected two"]
                waiting = asyncio.create_task(anext(events))
                await asyncio.sleep(0.01)
            with pytest.raises(StopAsyncIteration):
                await waiting
            with pytest.raises(LocalProtocolError, match="closed"):
                await events.receive()
            events = lattica.events()

            collected: list[Any] = []

            async def collect() -> None:
                async for event in events:
                    collected.append(event)

            collecting = asyncio.create_task(collect())
            await lattica.connect("three")
            # What nobody has taken when the node ends is gone with it.
            while not collected:
                await asyncio.sleep(0.01)
        await collecting
        assert collected == ["connected three"]
        assert [event async for event in events] == []

    in_asyncio(main)


def test_progress_is_told_on_the_loop(node: FakeNode) -> None:
    async def main() -> None:
        told: list[tuple[int, int]] = []

        async def work(tell: Callable[[int], None]) -> str:
            for step in range(3):
                tell(step)
                await trio.lowlevel.checkpoint()
            return "done"

        async def endless(tell: Callable[[int], None]) -> None:
            tell(0)
            await trio.sleep_forever()

        def refuse(step: int) -> None:
            raise KeyError("enough")

        async with AsyncLattica() as lattica:
            result = await lattica._bridge.acall_reporting(
                work, lambda step: told.append((step, threading.get_ident()))
            )
            assert result == "done"
            assert told == [(step, threading.get_ident()) for step in range(3)]
            with pytest.raises(KeyError, match="enough"):
                await lattica._bridge.acall_reporting(endless, refuse)

    in_asyncio(main)


def test_before_start_and_after_close(node: FakeNode) -> None:
    async def main() -> None:
        lattica = AsyncLattica()
        with pytest.raises(LocalProtocolError, match="not started"):
            await lattica.connect("x")
        with pytest.raises(LocalProtocolError, match="not started"):
            lattica.events()
        assert await lattica.start() is lattica
        await lattica.handle("/echo", echo)
        stream = await lattica.open_stream(SELF, "/echo")
        blocked: list[asyncio.Task[Any]] = [
            asyncio.create_task(lattica.connect("hang")) for _ in range(5)
        ]
        blocked.append(asyncio.create_task(lattica.wait_connected("hang")))
        reading = asyncio.create_task(stream.receive_some())
        await until(lambda: len(lattica._bridge._live) >= 7)
        await asyncio.gather(*(lattica.aclose() for _ in range(3)))
        for task in (*blocked, reading):
            with pytest.raises(LocalProtocolError, match="AsyncLattica is closed"):
                await task
        with pytest.raises(LocalProtocolError, match="is closed"):
            await lattica.connect("x")
        with pytest.raises(LocalProtocolError, match="is closed"):
            await lattica.start()
        await stream.aclose()

    in_asyncio(main)


def test_close_is_carried_through_when_cancelled(node: FakeNode) -> None:
    async def main() -> None:
        lattica = await AsyncLattica().start()
        late = asyncio.create_task(lattica.connect("late"))
        await until(lambda: node.log)
        closing = asyncio.create_task(lattica.aclose())
        await asyncio.sleep(0.01)
        closing.cancel()
        await asyncio.sleep(0.01)
        assert not closing.done()
        lattica._bridge.soon(node.release.set)
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert lattica._bridge._ended.done()
        with pytest.raises(LocalProtocolError):
            await late

    in_asyncio(main)


@pytest.mark.parametrize("trouble", ["listen", "opening", "closing"])
def test_a_node_in_trouble(node: FakeNode, trouble: str) -> None:
    node.trouble = trouble

    async def main() -> None:
        lattica = AsyncLattica()
        if trouble == "listen":
            with pytest.raises(ListenError, match="in use"):
                await lattica.start()
        elif trouble == "opening":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await lattica.start()
        else:
            await lattica.start()
            with pytest.raises(OSError, match="disk is full"):
                await lattica.aclose()
        assert lattica._bridge._ended.done()
        with pytest.raises(LocalProtocolError, match="closed"):
            await lattica.connect("x")
        await lattica.aclose()

    in_asyncio(main)


def test_a_node_that_crashes(node: FakeNode) -> None:
    async def main() -> None:
        async with AsyncLattica() as lattica:
            with pytest.raises(LatticaError, match="stopped because of an error"):
                await lattica.connect("crash")

    in_asyncio(main)


def test_a_loop_that_is_closed_under_a_call(node: FakeNode) -> None:
    """A call whose loop is gone is cancelled, or its result disposed of; the node goes on."""
    lattica = AsyncLattica()
    stopped: Future[None] = Future()

    def run() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(lattica.start())
        loop.run_until_complete(lattica.handle("/echo", echo))
        late: Peer = "late"
        task = loop.create_task(lattica.open_stream(late, "/echo"))
        loop.run_until_complete(until(lambda: node.release.statistics().tasks_waiting))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        task.get_coro().close()
        stopped.set_result(None)

    threading.Thread(target=run).start()
    stopped.result(PATIENCE)

    async def go_on() -> None:
        assert str(await lattica.connect("somebody")) == "somebody"
        lattica._bridge.soon(node.release.set)
        await until(lambda: node.resets)
        await lattica.aclose()

    in_asyncio(go_on)
