"""Calls between the original lattica 1.0.21 and nodes of ours with its API, by its protocols."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from lattica import ConnectionHandler, Lattica, rpc_method, rpc_stream, rpc_stream_iter
from lattica.compat.client import CompatLattica
from lattica.compat.errors import CompatError
from tests.interop.foreign import ScriptPeer, original_peer
from tests.interop.ours import eventually, partner_connected
from tests.interop.traversal.test_relay_server import our_relay

pytestmark = pytest.mark.foreign

T = TypeVar("T")

VALUES: tuple[Any, ...] = (
    None,
    0,
    -1,
    2**70,
    2.5,
    "Grüße",
    b"\0" * 300,
    [1, [2, (3,)]],
    ({"a": 1}, {}),
    {1, 2},
    {"peer": {"layers": [0, 12], "rtt": None, "ready": True}},
    ["same"] * 3000,
)
SIZE = 40 * 1024 * 1024


class Interop(ConnectionHandler):
    """The same service as that of the original's script."""

    def __init__(self, node: CompatLattica) -> None:
        super().__init__(node)
        self.yielded = 0
        self.closed = False

    @rpc_method
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc_method
    def echo(self, x: Any = None) -> Any:
        return x

    @rpc_method
    def fail(self, x: Any) -> None:
        raise ValueError(f"no {x}")

    @rpc_stream
    def big(self, x: Any = None) -> Any:
        return x

    @rpc_stream
    def fail_streamed(self, x: Any) -> None:
        raise ValueError(f"no {x}")

    @rpc_stream_iter
    def letters(self, n: int) -> Iterator[str]:
        try:
            for number in range(n):
                self.yielded = number + 1
                yield f"s{number}"
        finally:
            self.closed = True


async def in_thread(function: Callable[..., T], *args: Any, **named: Any) -> T:
    return await trio.to_thread.run_sync(partial(function, *args, **named))


@asynccontextmanager
async def compat_node(relays: Sequence[str] = ()) -> AsyncIterator[CompatLattica]:
    builder = Lattica.builder().with_listen_addrs(["/ip4/127.0.0.1/tcp/0"])
    builder.with_upnp(False).with_mdns(False).with_dcutr(False).with_relay_servers(relays)
    node = await in_thread(builder.build)
    try:
        yield node
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(node.close)


@asynccontextmanager
async def pair(installed: Path, folder: Path) -> AsyncIterator[tuple[ScriptPeer, Interop, Any]]:
    """The original, our service, and what stands in here for its."""
    async with compat_node() as node:
        service = Interop(node)
        dial = node.get_visible_maddrs()
        async with original_peer(installed, folder, dial) as original:
            await in_thread(node.lattica.wait_connected, original.peer_id, timeout=120)
            await partner_connected(original, node.lattica.peer_id)
            yield original, service, service.get_stub(original.peer_id)


async def test_we_call_the_original(original_installed, tmp_path):
    async with pair(original_installed, tmp_path) as (original, _, stub):
        assert await in_thread(lambda: stub.add(2, 3).result(timeout=120)) == 5
        assert await in_thread(lambda: stub.add(b=2, a=40).result(timeout=120)) == 42
        for value in VALUES:
            for method in (stub.echo, stub.big):
                assert await in_thread(lambda m=method, v=value: m(v).result(timeout=120)) == value
        body = bytes(SIZE)
        assert await in_thread(lambda: stub.big(body).result(timeout=120)) == body
        with pytest.raises(CompatError, match="no 7"):
            await in_thread(lambda: stub.fail(7).result(timeout=120))
        with pytest.raises(CompatError, match="no 7"):
            await in_thread(lambda: stub.fail_streamed(7).result(timeout=120))
        with pytest.raises(TypeError, match=r"the value\['x'\] is of type object"):
            stub.echo({"x": object()})

        chunks = await in_thread(lambda: [*stub.letters(2000)])
        assert chunks == [f"s{number}".encode() for number in range(2000)]
        for _ in range(10):  # told by a Cancel of its own, one in 25 stood still for good
            items = stub.letters(1_000_000)
            assert await in_thread(next, items) == b"s0"
            items.cancel()
            before = -1
            with trio.fail_after(120):
                while (now := await original.ask("yielded")) != before:  # it goes on no more
                    before = now
                    await trio.sleep(0.05)
            assert before < 1_000_000
        assert await in_thread(lambda: stub.add(1, 1).result(timeout=120)) == 2
        assert await original.ask("runs") == 3


async def test_the_original_calls_us(original_installed, tmp_path):
    async with pair(original_installed, tmp_path) as (original, service, _):
        me = service.lattica_instance.peer_id()

        async def call(method: str, *args: Any) -> Any:
            reply = await original.ask("call", peer=me, method=method, args=repr(args))
            return ast.literal_eval(reply)

        assert await call("add", 2, 3) == 5
        for value in VALUES:
            assert await call("echo", value) == value
            assert await call("big", value) == value
        assert await call("big", b"x" * 300_000) == b"x" * 300_000
        with pytest.raises(Exception, match="ValueError: no 7"):
            await call("fail", 7)
        with pytest.raises(Exception, match="Method nothing not found in Interop"):
            await call("nothing", 7)

        found = await original.ask("iterate", peer=me, count=300, stop=-1)
        assert found == [f"s{number}" for number in range(300)]
        service.closed = False
        found = await original.ask("iterate", peer=me, count=10_000_000, stop=5)
        assert found == [f"s{number}" for number in range(5)]
        with trio.fail_after(120):
            while not service.closed:
                await trio.sleep(0.02)
        assert service.yielded < 10_000_000


async def test_values_and_providers(original_installed, tmp_path):
    """Both ways, stored before they knew each other and after, with concurrent subkeys."""
    async with compat_node() as node:
        assert await in_thread(node.store, "before", {"x": 1})
        await in_thread(node.start_providing, "model")
        dial = node.get_visible_maddrs()
        async with original_peer(original_installed, tmp_path, dial) as original:
            await in_thread(node.lattica.wait_connected, original.peer_id, timeout=120)
            await partner_connected(original, node.lattica.peer_id)

            async def gotten(key: str) -> Any:
                with trio.fail_after(120):
                    while (found := await original.ask("get", key=key)) is None:
                        await trio.sleep(0.1)
                return ast.literal_eval(found)

            async def store(key: str, value: Any, subkey: str | None = None) -> None:
                assert await original.ask(
                    "store", key=key, value=repr(value), subkey=subkey, ttl=60
                )

            assert await gotten("before") == {"x": 1}
            assert await in_thread(node.store, "after", [1, (2, "drei")])
            assert await gotten("after") == [1, (2, "drei")]
            await store("theirs", {"block_start_index": 3})
            found = await in_thread(node.get, "theirs")
            assert found is not None
            assert found.value == {"block_start_index": 3}

            assert await in_thread(node.store, "blocks", {"start": 0}, None, "us")
            await store("blocks", {"start": 12}, "them")
            both = {"us": {"start": 0}, "them": {"start": 12}}
            found = await in_thread(node.get, "blocks")
            assert found is not None
            assert {name: each.value for name, each in found.value.items()} == both
            with trio.fail_after(120):
                while await gotten("blocks") != both:
                    await trio.sleep(0.1)

            await original.ask("provide", key="their model")
            with trio.fail_after(120):
                while original.peer_id not in await in_thread(node.get_providers, "their model"):
                    await trio.sleep(0.1)
                while node.peer_id() not in await original.ask("providers", key="model"):
                    await trio.sleep(0.1)
            assert await in_thread(node.get, "nothing") is None


async def test_over_a_relay(original_installed, tmp_path):
    """We call the original by a relay that is all they share, and each tells the other by the
    topic where it is; then blocks and values go the same way."""
    async with our_relay() as relay, compat_node([relay.addr]) as node:
        service = Interop(node)
        async with original_peer(original_installed, tmp_path, relays=[relay.addr]) as original:
            await eventually(lambda: relay.has_reserved(original.peer_id), "a reservation")
            await eventually(lambda: relay.has_reserved(node.peer_id()), "our reservation")
            await in_thread(node.lattica.connect, relay.to(original.peer_id))
            path = await in_thread(node.lattica.path, original.peer_id)
            assert path is not None
            assert path.path == "relayed"
            stub: Any = service.get_stub(original.peer_id)
            assert await in_thread(lambda: stub.add(2, 3).result(timeout=120)) == 5
            assert await in_thread(lambda: stub.big(bytes(300_000)).result(timeout=120)) == bytes(
                300_000
            )
            assert await in_thread(lambda: [*stub.letters(3)]) == [b"s0", b"s1", b"s2"]
            cid = await original.put_block(1, 100_000)
            sender, block = await in_thread(node.get_block, cid, 30)
            assert (sender, len(block)) == (original.peer_id, 100_000)
            assert await original.ask("store", key="k", value="1", subkey=None, ttl=60)
            found = await in_thread(node.get, "k")
            assert found is not None
            assert found.value == 1
            log = tmp_path / "original.log"
            told = f'p2p-circuit-broadcast, source: Some(PeerId("{node.peer_id()}"))'
            await eventually(lambda: told in log.read_text(), "the broadcast of our address")
            assert "Ignoring relay addr" not in log.read_text()
