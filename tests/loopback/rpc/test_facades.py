"""Calls from threads and from asyncio, and services of theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from lattica import AsyncLattica, Lattica, NodeConfig
from lattica.config import load_config
from lattica.errors import LocalProtocolError, StreamResetError
from lattica.rpc import (
    BufferRef,
    CallContext,
    DeadlineExceededError,
    LeaseEnd,
    NotFoundError,
    UnknownError,
    with_options,
)
from tests.support.rpc.services import Workshop


def config(tmp_path: Path) -> NodeConfig:
    return load_config(
        overrides={
            "listen": ("/ip4/127.0.0.1/tcp/0",),
            "nat.port_mapping.enabled": False,
            "data_dir": tmp_path,
        }
    )


class Plain:
    """A service for threads."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.gate = threading.Event()

    def add(self, a: int, b: int) -> int:
        return a + b

    def missing(self) -> None:
        raise NotFoundError("nothing here")

    def block(self) -> int:
        self.gate.wait(30)
        return 1

    def count(self, number: int) -> Iterator[int]:
        try:
            yield from range(number)
        finally:
            self.closed.set()

    def never(self) -> Iterator[int]:
        yield 0
        self.gate.wait(30)

    def total(self, items: Iterator[int]) -> int:
        return sum(items)

    def doubles(self, items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield 2 * item


def test_threads(tmp_path: Path) -> None:
    with Lattica(config(tmp_path)) as server, Lattica(config(tmp_path)) as client:
        plain = Plain()
        server.rpc.serve(plain)
        client.connect(server.addrs[0], timeout=60)
        stub = client.rpc.stub(server.peer_id, Plain)
        assert stub.add(1, b=2) == 3
        assert client.rpc.call(server.peer_id, "Plain.add", 1, 2) == 3
        by_name = client.rpc.stub(server.peer_id, "Plain")
        assert by_name.add(1, b=2) == 3
        with by_name.count.stream(10**9) as counted:
            assert [next(counted), next(counted)] == [0, 1]
        assert [*by_name.count.stream(3)] == [0, 1, 2]
        with pytest.raises(NotFoundError):
            by_name.missing()
        with pytest.raises(NotFoundError):
            stub.missing()
        with pytest.raises(TypeError, match="missing a required argument"):
            stub.add(1)  # type: ignore[call-arg]
        with pytest.raises(DeadlineExceededError):
            client.rpc.stub(server.peer_id, Plain, timeout=0.1).block()
        assert [*stub.count(5)] == [0, 1, 2, 3, 4]
        assert stub.total(iter(range(5))) == 10
        assert stub.total(number for number in range(5)) == 10
        assert [*stub.doubles(iter([1, 2]))] == [2, 4]
        with pytest.raises(ZeroDivisionError):
            stub.total(1 // number for number in [1, 0])
        plain.closed.clear()
        items: Any = stub.count(10**9)
        assert next(items) == 0
        del items
        assert plain.closed.wait(60)
        calls = [each for each in client.rpc.statistics().methods if each.method == "Plain.add"]
        assert calls[0].codes == {"OK": 3}
        plain.gate.set()


def test_options_of_stubs_of_the_facades(tmp_path: Path) -> None:
    async def main(address: Any) -> None:
        async with AsyncLattica(config(tmp_path)) as client:
            peer = await client.connect(address, timeout=60)
            for service in (Workshop, "Workshop"):
                stub: Any = await client.rpc.stub(peer, service)
                told = await with_options(stub, metadata={"run": 8}).who()
                assert told["metadata"] == {"run": 8}

    with Lattica(config(tmp_path)) as server, Lattica(config(tmp_path)) as client:
        server.rpc.serve(Workshop())
        peer = client.connect(server.addrs[0], timeout=60)
        for service in (Workshop, "Workshop"):
            stub: Any = client.rpc.stub(peer, service)
            assert with_options(stub, metadata={"run": 7}).who()["metadata"] == {"run": 7}
            assert stub.who()["metadata"] == {}
            with pytest.raises(DeadlineExceededError):
                with_options(stub, timeout=0.1).wait(3600)
            array = np.zeros(100_000)
            assert with_options(stub, out=array).double(np.ones(100_000)) is array
            assert array.sum() == 200_000
        with pytest.raises(LocalProtocolError, match="not a stub"):
            with_options(client.rpc, timeout=1.0)
        asyncio.run(main(server.addrs[0]))


def test_an_iterator_for_several_threads(tmp_path: Path) -> None:
    with Lattica(config(tmp_path)) as server, Lattica(config(tmp_path)) as client:
        plain = Plain()
        server.rpc.serve(plain)
        client.connect(server.addrs[0], timeout=60)
        stub = client.rpc.stub(server.peer_id, Plain)
        items: Any = stub.count(200)
        got: list[int] = []
        threads = [threading.Thread(target=lambda: got.extend(items)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(got) == [*range(200)]

        waiting: Any = stub.never()
        assert next(waiting) == 0
        ended: list[int] = []
        threads = [threading.Thread(target=lambda: ended.extend(waiting)) for _ in range(3)]
        for thread in threads:
            thread.start()
        waiting.close()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert ended == []
        plain.gate.set()


class Loop:
    """A service for asyncio."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()

    async def shout(self, text: str, ctx: CallContext) -> str:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        return text.upper() + str(ctx.peer)[:2]

    async def wait(self) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def count(self, number: int) -> AsyncIterator[int]:
        try:
            for each in range(number):
                await asyncio.sleep(0)
                yield each
        finally:
            self.cancelled.set()

    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async def doubles(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    def blocking(self, number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        return -number


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


def test_asyncio(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            AsyncLattica(config(tmp_path)) as server,
            AsyncLattica(config(tmp_path)) as client,
        ):
            service = Loop()
            await server.rpc.serve(service)
            await client.connect((await server.addrs())[0], timeout=60)
            stub: Any = await client.rpc.stub(server.peer_id, Loop)
            assert await stub.shout("a") == "A12"
            assert await stub.blocking(3) == -3
            assert await client.rpc.call(server.peer_id, "Loop.blocking", 4) == -4
            by_name = await client.rpc.stub(server.peer_id, "Loop")
            assert await by_name.blocking(3) == -3
            assert [item async for item in by_name.count(3)] == [0, 1, 2]
            assert [item async for item in stub.count(5)] == [0, 1, 2, 3, 4]
            assert await stub.total(numbers(5)) == 10
            assert await stub.total([1, 2]) == 3
            assert [item async for item in stub.doubles(numbers(3))] == [0, 2, 4]

            service.cancelled.clear()
            task = asyncio.create_task(stub.wait())
            await asyncio.wait_for(service.begun.wait(), 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(service.cancelled.wait(), 60)

            service.cancelled.clear()
            async with stub.count(10**9) as items:
                assert await anext(items) == 0
            await asyncio.wait_for(service.cancelled.wait(), 60)
            assert (await server.rpc.statistics()).sessions == 1

    asyncio.run(main())


def test_a_service_under_trio_is_called_from_threads(tmp_path: Path) -> None:
    with Lattica(config(tmp_path)) as server, Lattica(config(tmp_path)) as client:
        server.rpc.serve(Workshop())
        client.connect(server.addrs[0], timeout=60)
        stub: Any = client.rpc.stub(server.peer_id, Workshop)
        assert stub.shout("a") == "A"
        assert [*stub.numbers(3)] == [0, 1, 2]
        assert [*stub.doubles([1, 2])] == [2, 4]


class Leaving:
    """Handlers that end as no handler should, on an asyncio loop or in threads."""

    async def leave(self, how: str) -> int:
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[how](3)

    async def count(self) -> AsyncIterator[int]:
        yield 1
        raise SystemExit(3)

    def leave_thread(self) -> int:
        raise SystemExit(3)

    async def ok(self) -> int:
        return 1


def test_a_handler_that_leaves_ends_neither_the_loop_nor_the_node(tmp_path: Path) -> None:
    async def main() -> None:
        server_config, client_config = config(tmp_path / "a"), config(tmp_path / "b")
        async with AsyncLattica(server_config) as server, AsyncLattica(client_config) as client:
            await server.rpc.serve(Leaving())

            async def handler(stream: Any) -> None:
                raise SystemExit(3)

            await server.handle("/leave/1", handler)
            peer = await client.connect((await server.addrs())[0])
            stub: Any = await client.rpc.stub(peer, Leaving, timeout=60)
            for call in (
                lambda: stub.leave("exit"),
                lambda: stub.leave("interrupt"),
                stub.leave_thread,
            ):
                with pytest.raises(UnknownError, match=r"SystemExit|KeyboardInterrupt"):
                    await call()
            items = stub.count()
            assert await anext(items) == 1
            with pytest.raises(UnknownError, match="SystemExit: 3"):
                await anext(items)
            stream = await client.open_stream(peer, "/leave/1")
            with pytest.raises(StreamResetError):
                await stream.receive_some(timeout=60)
            assert await stub.ok() == 1

    asyncio.run(main())


class Lender:
    """Lends to whoever asks: from threads, and from asyncio."""

    def __init__(self) -> None:
        self.cache = np.arange(200_000, dtype=np.float32)

    def lend(self, ctx: CallContext) -> BufferRef:
        return ctx.share(self.cache)

    async def lend_from_loop(self, ctx: CallContext) -> BufferRef:
        return ctx.share(self.cache)


async def test_buffers_are_lent_and_read_from_threads_and_from_asyncio(tmp_path: Path) -> None:
    def threads(owner: Lattica, reader: Lattica) -> None:
        lender = Lender()
        owner.rpc.serve(lender)
        reader.connect(owner.addrs[0])
        ref = reader.rpc.stub(owner.peer_id, Lender).lend()  # type: ignore[call-arg]
        out = np.empty(100, np.float32)
        assert reader.rpc.read(ref, slice(100, 200), out=out) is out
        assert (out == lender.cache[100:200]).all()
        reader.rpc.release(ref)
        with pytest.raises(NotFoundError):
            reader.rpc.read(ref)
        mine = owner.rpc.share(b"abc", to=reader.peer_id)
        assert bytes(owner.rpc.read(mine)) == b"abc"
        given = owner.rpc.give(mine, owner.peer_id)
        for each in (mine, given):
            owner.rpc.release(each)
            assert owner.rpc.wait_ended(each) is LeaseEnd.WITHDRAWN

    def run_threads() -> None:
        with Lattica(config(tmp_path / "a")) as owner, Lattica(config(tmp_path / "b")) as reader:
            threads(owner, reader)

    async def run_loop() -> None:
        async with (
            AsyncLattica(config(tmp_path / "c")) as owner,
            AsyncLattica(config(tmp_path / "d")) as reader,
        ):
            lender = Lender()
            await owner.rpc.serve(lender)
            await reader.connect((await owner.addrs())[0])
            stub = await reader.rpc.stub(owner.peer_id, Lender)
            ref = await stub.lend_from_loop()  # type: ignore[call-arg]
            assert (await reader.rpc.read(ref, slice(5)) == lender.cache[:5]).all()
            mine = await owner.rpc.share(b"abc", to=reader.peer_id, ttl=5.0)
            await reader.rpc.release(ref)
            await owner.rpc.release(await owner.rpc.give(mine, reader.peer_id))
            await owner.rpc.release(mine)
            assert await owner.rpc.wait_ended(mine) is LeaseEnd.WITHDRAWN

    await trio.to_thread.run_sync(run_threads)
    await trio.to_thread.run_sync(lambda: asyncio.run(run_loop()))
