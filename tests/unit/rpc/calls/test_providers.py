"""Several providers, retries and hedging."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest

from lattica.nat.base.keys.identity import PeerId
from lattica.rpc import (
    Rpc,
    UnavailableError,
    UnimplementedError,
    method,
    open_rpc,
    with_options,
)
from lattica.rpc.prometheus import RpcCollector
from tests.support.doubles.memory_host import MemoryHost, memory_net
from tests.support.rpc.pair import rpc_pair


class Shop:
    """Says who has answered."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.delay = 0.0
        self.errors: list[Exception] = []
        self.asked = 0

    async def buy(self) -> int:
        return await self._serve()

    @method(idempotent=True)
    async def look(self) -> int:
        return await self._serve()

    async def _serve(self) -> int:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        await trio.sleep(self.delay)
        return self.name


@asynccontextmanager
async def street(count: int) -> AsyncIterator[tuple[Rpc, list[Shop], list[MemoryHost]]]:
    async with memory_net() as net, AsyncExitStack() as stack:
        shops, hosts = [], []
        for number in range(count):
            host = net.host()
            rpc = await stack.enter_async_context(open_rpc(host))
            shop = Shop(number)
            rpc.serve(shop)
            shops.append(shop)
            hosts.append(host)
        client = await stack.enter_async_context(open_rpc(net.host()))
        yield client, shops, hosts


async def test_calls_go_to_those_who_answer(autojump_clock: trio.testing.MockClock) -> None:
    async with street(3) as (client, shops, hosts):
        stub = client.stub([host.peer_id for host in hosts], Shop)
        assert {await stub.buy() for _ in range(50)} == {0, 1, 2}
        hosts[1].is_reachable = False
        hosts[1].connections.clear()
        for connections in (client._host.connections,):  # type: ignore[attr-defined]
            connections[hosts[1].peer_id].abort("its process was killed")
        await trio.sleep(0.1)
        # What is not marked idempotent goes on too: it has certainly not run there.
        assert {await stub.buy() for _ in range(50)} == {0, 2}
        assert sum(shop.asked for shop in shops) == 100


async def test_a_resolver_is_asked(autojump_clock: trio.testing.MockClock) -> None:
    async with street(2) as (client, _, hosts):
        asked: list[str] = []
        known: list[PeerId] = []

        class Discovery:
            async def providers(self, service: str) -> Sequence[PeerId]:
                asked.append(service)
                return known

        stub = client.stub(Discovery(), Shop)
        with pytest.raises(UnavailableError, match="nobody is known who provides Shop"):
            await stub.buy()
        known.append(hosts[1].peer_id)
        assert await stub.buy() == 1
        known[:] = [hosts[0].peer_id]
        await trio.sleep(10)
        assert await stub.buy() == 0
        assert set(asked) == {"Shop"}


async def test_only_idempotent_calls_are_made_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with street(1) as (client, (shop,), (host,)):
        stub = client.stub(host.peer_id, Shop)
        shop.errors = [UnavailableError("a moment"), UnavailableError("another")]
        assert await stub.look() == 0
        assert shop.asked == 3
        shop.errors = [UnavailableError("a moment")]
        with pytest.raises(UnavailableError):
            await stub.buy()
        assert shop.asked == 4
        shop.errors = [UnavailableError(str(number)) for number in range(9)]
        with pytest.raises(UnavailableError):
            await stub.look()
        assert shop.asked == 9  # five attempts
        assert client.statistics().retries == 6
        shop.errors = [UnavailableError("x")]
        with pytest.raises(UnavailableError):
            await with_options(stub, retries=0).look()


async def test_hedging(autojump_clock: trio.testing.MockClock) -> None:
    async with street(2) as (client, shops, hosts):
        stub = client.stub([host.peer_id for host in hosts], Shop, hedge_after=0.5)
        for shop in shops:
            await client.stub(hosts[shop.name].peer_id, Shop).look()
        shops[0].delay = 20.0
        start = trio.current_time()
        answers = [await stub.look() for _ in range(6)]
        assert trio.current_time() - start < 6
        assert answers == [1] * 6
        shops[1].delay = 30.0
        assert await stub.look() in (0, 1)
        shops[0].errors = [ValueError("no")] * 9
        shops[1].errors = [ValueError("no")] * 9
        with pytest.raises(Exception, match="ValueError"):
            await stub.look()


async def test_an_attempt_has_a_time_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    async with street(2) as (client, shops, hosts):
        peers = [host.peer_id for host in hosts]
        stub: Any = client.stub(peers, Shop, attempt_timeout=1.0, timeout=20.0)
        shops[0].delay = 50.0
        assert {await stub.look() for _ in range(5)} == {1}
        learning = client.stub(hosts[1].peer_id, Shop, adaptive_timeout=True)
        for _ in range(10):
            await learning.look()
        shops[1].delay = 5.0
        start = trio.current_time()
        with pytest.raises(TimeoutError):
            await with_options(learning, retries=0).look()
        assert trio.current_time() - start < 1


async def test_metrics() -> None:
    async with rpc_pair() as pair:
        await pair.stub.shout("a")
        with pytest.raises(Exception, match="there is no"):
            await pair.stub.missing("x")
        registry = CollectorRegistry()
        registry.register(RpcCollector(pair.server.statistics))
        text = generate_latest(registry).decode()
    call = 'method="Workshop.shout",side="server"'
    assert f'lattica_rpc_calls_total{{code="OK",{call}}} 1.0' in text
    missing = 'method="Workshop.missing",side="server"'
    assert f'lattica_rpc_calls_total{{code="NOT_FOUND",{missing}}} 1.0' in text
    assert f"lattica_rpc_calls_active{{{call}}} 0.0" in text
    assert f'lattica_rpc_call_seconds_bucket{{le="+Inf",{call}}} 1.0' in text
    assert "lattica_rpc_sessions 1.0" in text


async def test_the_data_plane_is_counted() -> None:
    size = 100_000
    async with rpc_pair() as pair:
        await pair.stub.echo(bytes(size))
        client, server = pair.client.statistics(), pair.server.statistics()
        for now in (client, server):
            assert size < now.data_sent < size + 1000
            assert size < now.data_received < size + 1000
        registry = CollectorRegistry()
        registry.register(RpcCollector(pair.server.statistics))
        text = generate_latest(registry).decode()
    assert f"lattica_rpc_data_received_bytes_total {float(server.data_received)}" in text


async def test_no_label_grows_with_the_peers() -> None:
    """Neither with those that call, whatever they call, nor with those that are called."""
    async with rpc_pair() as pair, AsyncExitStack() as stack:
        sizes, shops = [], []
        own, server = pair.client, pair.server_host.peer_id
        for number in range(20):
            caller, shop = pair.net.host(), pair.net.host()
            stranger = await stack.enter_async_context(open_rpc(caller))
            await stranger.call(server, "Workshop.shout", "a")
            with pytest.raises(UnimplementedError):
                await stranger.call(server, f"Workshop.name_{number}")
            (await stack.enter_async_context(open_rpc(shop))).serve(Shop(number))
            shops.append(shop.peer_id)
            await own.stub(shop.peer_id, Shop).buy()
            await own.stub(shops, Shop).look()
            sizes.append([len(_samples(each)) for each in (pair.server, own)])
        assert sizes[0] == sizes[-1]


def _samples(rpc: Rpc) -> list[tuple[str, str]]:
    return [
        (sample.name, str(sample.labels))
        for family in RpcCollector(rpc.statistics).collect()
        for sample in family.samples
    ]
