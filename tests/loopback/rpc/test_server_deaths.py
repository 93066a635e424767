"""A server that is killed while calls are in all their phases, over every kind of path.

Each call has one outcome, a typed error, in bounded time, and leaves nothing at the caller.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio

from lattica import Node
from lattica.config import load_config
from lattica.rpc import BufferRef, CallContext, RpcError, with_options
from tests.support.nets.nets import open_files, settled
from tests.support.rpc.services import Workshop

QUIET = {"nat.port_mapping.enabled": False, "rpc.shared_memory": 0}
MIB = 1 << 20
PATIENCE = 60.0
"""Seconds after which every call has to have ended: the longest silence of a path, with reserve."""


class Lender(Workshop):
    async def lend(self, ctx: CallContext) -> BufferRef:
        return ctx.share(np.zeros(16 * MIB, np.uint8), ttl=600)

    async def measure(self, array: np.ndarray) -> int:
        return array.nbytes


async def serve(listen: list[str], relays: list[str]) -> None:
    """The program that is killed."""
    given = {"listen": listen, "relays": relays, **QUIET}
    async with Node(load_config(environment={}, overrides=given)) as node:
        node.rpc.serve(Lender())
        if relays:
            await node.wait_reachable(60)
        print(node.peer_id, *node.addrs, flush=True)
        await trio.sleep_forever()


@asynccontextmanager
async def server(listen: list[str], relays: list[str]) -> AsyncIterator[tuple[Any, list[str]]]:
    code = f"import trio; from {__name__} import serve; trio.run(serve, {listen!r}, {relays!r})"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = await trio.to_thread.run_sync(process.stdout.readline)
            yield process, line.split()
        finally:
            process.kill()


Call = Callable[[Any, Callable[[], None]], Awaitable[object]]
"""Makes a call with a stub; says when it is in its phase."""


async def waits(stub: Any, ready: Callable[[], None]) -> object:
    ready()
    return await stub.wait(3600)


async def waits_in_a_thread(stub: Any, ready: Callable[[], None]) -> object:
    ready()
    return await stub.block(1)


async def sends_an_argument(stub: Any, ready: Callable[[], None]) -> object:
    ready()
    for _ in range(1000):
        await stub.measure(np.zeros(16 * MIB, np.uint8))
    return None


async def receives_a_result(stub: Any, ready: Callable[[], None]) -> object:
    ready()
    for _ in range(1000):
        await stub.zeros(16 * MIB)
    return None


async def reads_items(stub: Any, ready: Callable[[], None]) -> object:
    async for _ in stub.arrays(1 << 20, MIB):
        ready()
        await trio.sleep(0.01)
    return None


async def items() -> AsyncIterator[int]:
    for number in range(1 << 20):
        yield number
        await trio.sleep(0.01)


async def sends_items(stub: Any, ready: Callable[[], None]) -> object:
    ready()
    return await stub.total(items())


async def both_ways(stub: Any, ready: Callable[[], None]) -> object:
    async for _ in stub.doubles(items()):
        ready()
    return None


async def waits_for_an_item(stub: Any, ready: Callable[[], None]) -> object:
    async def one() -> AsyncIterator[int]:
        yield 1
        await trio.sleep_forever()

    async for _ in stub.doubles(one()):
        ready()
    return None


async def reads_what_is_lent(stub: Any, ready: Callable[[], None]) -> object:
    ref = await stub.lend()
    await ref.read(slice(0, 100))
    ready()
    while True:
        await ref.read(slice(0, MIB))


async def tries_again(stub: Any, ready: Callable[[], None]) -> object:
    await stub.look(1)
    ready()
    while True:
        await stub.look(1)


CALLS: tuple[Call, ...] = (
    waits,
    waits_in_a_thread,
    sends_items,
    both_ways,
    waits_for_an_item,
    reads_items,
    tries_again,
    # These send as much as they can, so that whatever begins after them takes longer.
    reads_what_is_lent,
    sends_an_argument,
    receives_a_result,
)


@pytest.mark.parametrize("path", ["tcp", "quic", "relayed"])
async def test_every_call_has_one_error_and_leaves_nothing(path: str) -> None:
    tcp = "/ip4/127.0.0.1/tcp/0"
    listen = {"tcp": [tcp], "quic": ["/ip4/127.0.0.1/udp/0/quic-v1/noise"], "relayed": []}[path]
    of_relay = {
        "listen": [tcp],
        "nat.relay_server.enabled": True,
        "nat.relay_server.limits.open_to_strangers": True,
        **QUIET,
    }
    outcomes: dict[str, list[object]] = {call.__name__: [] for call in CALLS}
    async with (
        Node(load_config(environment={}, overrides=of_relay)) as relay,
        Node(load_config(environment={}, overrides={"listen": [], **QUIET})) as client,
    ):
        relays = [str(relay.addrs[0])] if path == "relayed" else []
        async with server(listen, relays) as (process, (peer, *addrs)):
            await client.connect(addrs, timeout=60)
            stub = client.rpc.stub(peer, Lender)
            assert (await stub.who())["path"].startswith(  # type: ignore[call-arg]
                {"tcp": "direct-tcp", "quic": "direct-quic", "relayed": "relayed"}[path]
            )

            descriptors = open_files()

            async def make(call: Call, ready: trio.Event) -> None:
                try:
                    await call(with_options(stub, timeout=3600.0), ready.set)
                except RpcError as error:
                    outcomes[call.__name__].append(error)
                else:
                    outcomes[call.__name__].append("a result")

            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for call in CALLS:
                        ready = trio.Event()
                        nursery.start_soon(make, call, ready)
                        await ready.wait()
                    await trio.sleep(0.2)  # in mid-transfer
                    assert not any(outcomes.values())
                    process.kill()
            assert {name: len(each) for name, each in outcomes.items()} == dict.fromkeys(
                outcomes, 1
            )
            for name, (error,) in outcomes.items():
                assert isinstance(error, RpcError), name
        await settled(
            lambda: open_files() <= descriptors and not client.rpc.statistics().receive_memory
        )
