"""Unary calls: what goes in and out, and how they fail."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
import pytest
import trio

from lattica.rpc import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    RpcConfig,
    UnimplementedError,
    UnknownError,
    with_options,
)
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.memory import ALIGNMENT
from tests.support.rpc.pair import rpc_pair
from tests.support.rpc.types import Colour, Inner, Outer, Stranger

MIB = 1024 * 1024


async def test_calls() -> None:
    async with rpc_pair() as pair:
        stub = pair.stub
        assert await stub.shout("a") == "A"
        assert await stub.shout(times=2, text="a") == "AA"
        assert await stub.add(1, b=2) == 3  # type: ignore[misc]
        assert await stub.quick(4) == -4  # type: ignore[misc]
        assert await stub.struct(Outer(1, Inner(["a"]), Colour.GREEN)) == Inner(["a"])
        assert await pair.client.call(pair.server_host.peer_id, "Workshop.shout", "b") == "B"
        by_name = pair.client.stub(pair.server_host.peer_id, "Workshop")
        assert await by_name.shout("c", times=2) == "CC"
        assert pair.server.statistics().sessions == 1


@pytest.mark.parametrize("size", [0, 100, 63 * 1024, 66 * 1024, 3 * MIB])
async def test_bodies_of_every_size(size: int) -> None:
    async with rpc_pair() as pair:
        data = np.random.default_rng(1).bytes(size)
        assert await pair.stub.echo(data) == data
        assert await pair.stub.echo({"a": [data, (data,)]}) == {"a": [data, (data,)]}
        assert await pair.stub.zeros(size) == bytes(size)
        assert await pair.stub.zeros(size) == bytes(size)  # it is known by now that it is large
        text = "x" * min(size, MIB - 100)
        assert await pair.stub.echo(text) == text
        array = np.frombuffer(data, np.uint8)
        arrived = await pair.stub.echo(array)
        assert (arrived == array).all()
        assert arrived.flags.writeable
        assert not size or arrived.ctypes.data % ALIGNMENT == 0
        assert pair.server.statistics().receive_memory == 0


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_result_lands_in_the_callers_array(size: int) -> None:
    async with rpc_pair() as pair:
        out = np.zeros(size)
        stub = with_options(pair.stub, out=out)
        assert await stub.double(np.ones(size)) is out
        assert out.sum() == 2 * size
        with pytest.raises(TypeError, match="another form"):
            await stub.double(np.ones(size + 1))
        with pytest.raises(TypeError, match="out="):
            await with_options(pair.stub, out=[1, 2]).double(np.ones(3))
        two = [np.zeros(size), np.zeros(size)]
        got = await with_options(pair.stub, out=two).echo([np.ones(size), np.full(size, 2.0)])
        assert got[1] is two[1]
        assert two[1].sum() == 2 * size


async def test_failures_are_typed() -> None:
    async with rpc_pair() as pair:
        stub: Any = pair.stub
        with pytest.raises(UnknownError, match="Boom: it broke") as raised:
            await stub.boom()
        assert raised.value.error_type == "Boom"
        assert raised.value.remote_traceback == ""
        with pytest.raises(NotFoundError, match="there is no cat"):
            await stub.missing("cat")
        with pytest.raises(InternalError, match="expected int, not str"):
            await stub.wrong()
        with pytest.raises(InternalError, match=r"value\[0\]: values of type builtins.object"):
            await stub.unsendable()
        with pytest.raises(InternalError, match="the type 'Stranger' is not known"):
            await stub.stranger()
        with pytest.raises(InvalidArgumentError, match="argument text: expected str, not int"):
            await stub.shout(5)
        with pytest.raises(InvalidArgumentError, match="'Stranger' is not known"):
            await stub.echo(Stranger(1))
        with pytest.raises(InvalidArgumentError, match="'Stranger' is not known"):
            await stub.echo([Stranger(1), bytes(MIB)])
        with pytest.raises(TypeError, match=r"Workshop\.shout: argument text: "):
            await stub.shout(object())
        with pytest.raises(TypeError, match="missing a required argument"):
            await stub.shout()
        peer = pair.server_host.peer_id
        call = pair.client.call
        with pytest.raises(InvalidArgumentError, match="missing a required argument: 'text'"):
            await call(peer, "Workshop.shout")
        with pytest.raises(InvalidArgumentError, match="unexpected keyword"):
            await call(peer, "Workshop.shout", "a", loud=True)
        with pytest.raises(UnimplementedError, match="Workshop has no method 'sing'"):
            await call(peer, "Workshop.sing")
        with pytest.raises(UnimplementedError, match="no service 'Opera' is served"):
            await call(peer, "Opera.sing", bytes(MIB))
        with pytest.raises(
            UnimplementedError, match="no 'Workshop/2' is served here, but Workshop"
        ):
            await call(peer, "Workshop/2.shout", "a")
        with pytest.raises(UnimplementedError, match="is server-stream here"):
            await call(peer, "Workshop.numbers", 3)
        assert await stub.shout("still") == "STILL"


async def test_tracebacks_travel_only_where_that_is_allowed() -> None:
    async with rpc_pair(RpcConfig(send_tracebacks=True)) as pair:
        with pytest.raises(UnknownError) as raised:
            await pair.stub.boom()
        assert 'raise Boom("it broke")' in raised.value.remote_traceback


@pytest.mark.parametrize(
    "metadata",
    [{1: "a"}, {"a": object()}, {"a": 2**64}, {"a": "\udce9"}],
    ids=["number as name", "object", "integer", "text"],
)
async def test_metadata_that_cannot_travel_costs_its_call_and_no_other(
    metadata: dict[Any, Any], autojump_clock: trio.testing.MockClock
) -> None:
    """grpc-go, issue 1134: what may not be in metadata broke the connection for everybody."""
    async with rpc_pair() as pair, trio.open_nursery() as nursery:
        other = trio.Event()

        async def call() -> None:
            await pair.stub.wait(1)
            other.set()

        nursery.start_soon(call)
        stub: Any = with_options(pair.stub, metadata=metadata)
        with pytest.raises(TypeError, match="metadata"):
            await stub.shout("a")
        with pytest.raises(TypeError, match="metadata"):
            await stub.zeros(MIB)
        await other.wait()


@pytest.mark.parametrize("timeout", [10**30, sys.float_info.max, math.inf])
async def test_a_timeout_may_be_as_long_as_numbers_are(timeout: float) -> None:
    """grpc, issue 5827, and grpc-dotnet, issue 751: the longest ended the program, or the call."""
    async with rpc_pair() as pair:
        stub: Any = with_options(pair.stub, timeout=timeout)
        assert await stub.shout("a") == "A"
        assert await stub.zeros(MIB) == bytes(MIB)
        assert [each async for each in stub.numbers(2)] == [0, 1]


async def test_the_context(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair() as pair:
        stub: Any = with_options(pair.stub, timeout=7.0, metadata={"trace": "abc"})
        seen = await stub.who("hi")
        assert 6.9 < seen.pop("remaining") <= 7.001
        assert seen == {
            "peer": str(pair.client_host.peer_id),
            "method": "Workshop.who",
            "path": "direct-tcp",
            "metadata": {"trace": "abc"},
            "cancelled": False,
            "greeting": "hi",
        }
        large: Any = with_options(stub, out=np.zeros(1), timeout=math.inf)
        with pytest.raises(TypeError, match="another form"):
            await large.who()


async def test_deadlines_hold_on_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair() as pair:
        start = trio.current_time()
        with pytest.raises(DeadlineExceededError) as raised:
            await with_options(pair.stub, timeout=1.5).wait(100.0)
        assert trio.current_time() - start == pytest.approx(1.5, abs=0.01)
        assert raised.value.may_have_run
        await pair.workshop.until_ended("wait")
        with pytest.raises(DeadlineExceededError):  # the default
            await pair.stub.wait(100.0)
        assert trio.current_time() - start == pytest.approx(61.5, abs=0.1)
        with pytest.raises(TimeoutError):
            await with_options(pair.stub, timeout=0).wait(1.0)
        assert await with_options(pair.stub, timeout=math.inf).wait(1000.0) == "waited"


async def test_cancellation_reaches_the_handler(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair() as pair:
        await pair.stub.shout("connect")
        with trio.move_on_after(1):
            await pair.stub.wait(1000.0)
        await pair.workshop.until_ended("wait")
        codes = {each.method: each.codes for each in pair.server.statistics().methods}
        assert codes["Workshop.wait"] == {"CANCELLED": 1}
        assert await pair.stub.shout("on") == "ON"


async def test_a_slow_call_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with rpc_pair() as pair, trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(pair.stub.wait, 50.0)
        await trio.sleep(1)
        start = trio.current_time()
        assert await pair.stub.shout("a") == "A"
        assert trio.current_time() - start < 1
        nursery.cancel_scope.cancel()


async def test_calls_beyond_the_limit_are_refused_and_not_run() -> None:
    limits = RpcConfig(max_calls_per_peer=3)
    async with rpc_pair(limits, RpcConfig()) as pair, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(pair.stub.wait, 60.0)
        while pair.server.statistics().methods[0].active < 0:
            await trio.sleep(0)
        while sum(each.active for each in pair.server.statistics().methods) < 3:
            await trio.sleep(0.001)
        with pytest.raises(ResourceExhaustedError, match="max_calls_per_peer") as raised:
            await with_options(pair.stub, retries=0).count(1)
        assert not raised.value.may_have_run
        assert raised.value.retry_after
        assert pair.workshop.ran == []
        nursery.cancel_scope.cancel()


async def test_a_body_beyond_the_budget_is_refused_by_name() -> None:
    async with rpc_pair(RpcConfig(receive_memory=MIB), RpcConfig()) as pair:
        with pytest.raises(ResourceExhaustedError, match=r"rpc\.receive_memory is 1048576 bytes"):
            await pair.stub.echo(bytes(40 * MIB))
        assert await pair.stub.echo(bytes(MIB // 2)) == bytes(MIB // 2)
        assert pair.server.statistics().receive_memory == 0


async def test_a_skeleton_beyond_its_limit_is_refused_by_name() -> None:
    async with rpc_pair(RpcConfig(), RpcConfig(max_skeleton=8 * MIB)) as pair:
        with pytest.raises(ResourceExhaustedError, match=r"rpc\.max_skeleton is 1048576") as raised:
            await pair.stub.echo("x" * 3 * MIB)
        assert not raised.value.may_have_run
        assert await pair.stub.echo("x" * (MIB // 2)) == "x" * (MIB // 2)
        for compression in ("zstd", "lz4"):
            stub = with_options(pair.stub, compression=compression)
            with pytest.raises(ResourceExhaustedError, match=r"rpc\.max_skeleton is 1048576"):
                await stub.echo(np.random.default_rng(1).bytes(MIB).hex() * 2)
        assert pair.server.statistics().receive_memory == 0


async def test_nothing_is_made_of_large_arguments_of_a_call_that_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = []
    decode = Decoder.decode_partly

    def watched(self: Decoder, data: Any, buffers: Any = ()) -> Any:
        decoded.append(len(data))
        return decode(self, data, buffers)

    async with rpc_pair() as pair:
        peer = pair.server_host.peer_id
        asked = []

        def authorize(context: Any) -> bool:
            asked.append(context.metadata.get("token"))
            return asked[-1] == "secret"

        pair.server.serve(pair.workshop, name="Private", allow=[peer])
        pair.server.serve(pair.workshop, name="Guarded", authorize=authorize)
        monkeypatch.setattr(Decoder, "decode_partly", watched)
        large: list[Any] = [list(range(100_000)), bytes(MIB)]
        for compression in (None, "zstd"):
            for name, error in (
                ("Nothing.echo", UnimplementedError),
                ("Workshop.numbers", UnimplementedError),
                ("Private.echo", PermissionDeniedError),
                ("Guarded.echo", PermissionDeniedError),
            ):
                service, method = name.split(".")
                stub = pair.client.stub(peer, service, compression=compression)
                with pytest.raises(error) as raised:
                    await stub.call_method(method, (large,), {})
                assert not raised.value.may_have_run
        assert max(decoded) < 1000
        assert asked == [None, None]
        secret = pair.client.stub(peer, "Guarded", metadata={"token": "secret"})
        assert await secret.echo(large) == large
        assert asked == [None, None, "secret"], "once for each call"
        assert pair.server.statistics().receive_memory == 0


async def test_many_items_are_decoded_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = {}
    decode = Decoder.decode_partly

    def watched(self: Decoder, data: Any, buffers: Any = ()) -> Any:
        threads[len(data)] = threading.current_thread()
        return decode(self, data, buffers)

    here = threading.current_thread()
    async with rpc_pair() as pair:
        monkeypatch.setattr(Decoder, "decode_partly", watched)
        values: list[Any] = [[[]] * 70_000, "x" * 300_000, {n: (n, {}) for n in range(20_000)}]
        for value in values:
            threads.clear()
            assert await pair.stub.echo(value) == value
            assert threads.pop(max(threads)) is not here
        threads.clear()
        assert await pair.stub.echo("x" * 100_000) == "x" * 100_000
        assert set(threads.values()) == {here}


async def test_who_may_call() -> None:
    async with rpc_pair() as pair:
        server, peer = pair.server, pair.server_host.peer_id
        server.serve(pair.workshop, name="Private", allow=[peer])
        asked = []

        def authorize(context: Any) -> bool:
            asked.append((context.method, context.peer))
            return context.metadata.get("token") == "secret"

        server.serve(pair.workshop, name="Guarded", authorize=authorize)
        with pytest.raises(PermissionDeniedError):
            await pair.client.call(peer, "Private.count", 1)
        with pytest.raises(PermissionDeniedError):
            await pair.client.call(peer, "Guarded.count", 1)
        with pytest.raises(PermissionDeniedError):
            await pair.client.call(peer, "Guarded.echo", bytes(MIB))
        guarded = pair.client.stub(peer, "Guarded", metadata={"token": "secret"})
        assert await guarded.count(1) == 1
        assert asked[0] == ("Guarded.count", pair.client_host.peer_id)


async def test_a_service_is_withdrawn_and_replaced() -> None:
    async with rpc_pair() as pair:
        peer = pair.server_host.peer_id
        with pytest.raises(Exception, match="pass replace=True"):
            pair.server.serve(pair.workshop)
        pair.server.serve(pair.workshop, replace=True)
        assert await pair.stub.shout("a") == "A"
        pair.server.serve(pair.workshop, name="Other")
        pair.server.withdraw("Workshop")
        with pytest.raises(UnimplementedError):
            await pair.stub.shout("a")
        assert await pair.client.call(peer, "Other.shout", "a") == "A"


async def test_more_calls_than_may_be_under_way_wait_for_a_place() -> None:
    async with rpc_pair(RpcConfig(max_calls_to_peer=50, max_calls_per_peer=50)) as pair:
        results: list[str] = []

        async def call() -> None:
            results.append(await pair.stub.wait(0.001))

        async with trio.open_nursery() as nursery:
            for _ in range(2000):
                nursery.start_soon(call)
        assert results == ["waited"] * 2000
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(pair.stub.wait, 60.0)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DeadlineExceededError, match="max_calls_to_peer") as raised:
                await with_options(pair.stub, timeout=0.05).shout("a")
            assert not raised.value.may_have_run
            nursery.cancel_scope.cancel()
        assert await pair.stub.shout("a") == "A"
