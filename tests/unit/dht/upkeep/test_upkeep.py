"""Values, addresses and provider records are kept alive, whatever the clocks say."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from lattica.dht.config import DhtConfig
from lattica.dht.dht import Dht
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
from tests.support.doubles.memory_dht import MemoryDhtNet, memory_dht_net

T0 = 1_800_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR


def clock(ahead: float = 0.0):
    """Trio's time, as seconds since 1970."""
    return lambda: T0 + ahead + trio.current_time()


async def joined(*nodes: Dht) -> None:
    for node in nodes:
        await node._loaded.wait()  # by a thread, for which no virtual clock waits
    with trio.fail_after(120):
        for node in nodes:
            await node.wait_ready()
        await trio.sleep(20.0)


async def kill(net: MemoryDhtNet, dht: Dht) -> None:
    """It says nothing any more, and nobody gets there."""
    host = net.net.hosts.pop(dht._host.peer_id)
    await dht.aclose()
    for peer in tuple(host.connections):
        host.drop(peer)


async def test_a_value_outlives_those_who_kept_it(autojump_clock):
    async with memory_dht_net(clock()) as net:
        first, owner = net.add(), net.add()
        keepers = [net.add() for _ in range(3)]
        await joined(first, owner, *keepers)
        await owner.put("short", 1, ttl=900.0)
        await owner.provide("thing")
        for keeper in keepers:
            await kill(net, keeper)
        newcomers = [net.add() for _ in range(3)]
        await joined(*newcomers)
        # Half of its time is over, and it has come to who is there now.
        await trio.sleep(500.0)
        assert all(len(each._store.values) == 1 for each in newcomers)
        await kill(net, owner)
        found = await newcomers[0].get("short")
        assert found is not None
        assert found.value == 1
        await trio.sleep(400.0)
        assert await newcomers[0].get("short") is None


async def test_what_is_provided_is_said_again_before_it_is_forgotten(autojump_clock):
    async with memory_dht_net(clock()) as net:
        config = DhtConfig(reprovide_after=600.0)
        first, provider = net.add(), net.add(config)
        await joined(first, provider)
        await provider.provide("thing")
        newcomer = net.add()
        await joined(newcomer)
        assert len(newcomer._store.providers) == 0
        await trio.sleep(660.0)
        assert len(newcomer._store.providers) == 1


async def test_that_it_falls_behind_is_said_once(autojump_clock, caplog):
    async with memory_dht_net(clock()) as net:
        first, provider = net.add(), net.add()
        await joined(first, provider)
        await provider.provide("thing")
        (key,) = provider._own._provided
        with caplog.at_level(logging.WARNING):
            provider._own._provided[key] = provider._clock() - 30 * HOUR
            status = provider.status()
            assert status.reprovide_due == 1
            assert status.reprovide_lag == pytest.approx(8 * HOUR, abs=5)
            await provider._republisher.provide_again()
        assert "announced 8.0 h late" in caplog.text
        assert provider._own.oldest_provided() == pytest.approx(provider._clock(), abs=5)
        assert (provider.status().reprovide_due, provider.status().reprovide_lag) == (0, 0.0)


async def test_what_is_withdrawn_while_it_is_said_again_is_provided_no_more(
    autojump_clock, monkeypatch
):
    async with memory_dht_net(clock()) as net:
        first, provider = net.add(), net.add()
        await joined(first, provider)
        await provider.provide("stays")
        await provider.provide("goes")
        for key in provider._own._provided:
            provider._own._provided[key] = provider._clock() - 30 * HOUR
        host = provider._host
        open_stream, begun, may_go_on = host.open_stream, trio.Event(), trio.Event()

        async def held_up(peer_id: PeerId, protocols: str | Sequence[str]) -> Stream:
            begun.set()
            await may_go_on.wait()
            return await open_stream(peer_id, protocols)

        async with trio.open_nursery() as nursery:
            monkeypatch.setattr(host, "open_stream", held_up)
            provider._peers.questions.close()
            nursery.start_soon(provider._republisher.provide_again)
            await begun.wait()
            nursery.start_soon(provider.withdraw, "goes")
            await trio.testing.wait_all_tasks_blocked()
            may_go_on.set()
        assert provider.status().provided == 1
        assert len(first._store.providers) == 1


async def test_values_do_not_wait_for_many_keys(autojump_clock, monkeypatch):
    async with memory_dht_net(clock()) as net:
        first, owner = net.add(), net.add()
        await joined(first, owner)
        await owner.put("short", 1, ttl=200.0)
        await owner.provide("thing")
        (key,) = owner._own._provided
        owner._own._provided[key] = owner._clock() - 30 * HOUR
        monkeypatch.setattr(owner._providing, "provide_many", lambda _: trio.sleep_forever())
        stored_at = [at for _, at in owner._own._values.values()]
        await trio.sleep(150.0)
        assert [at for _, at in owner._own._values.values()] > stored_at


@pytest.mark.parametrize("days", [-5, 5])
async def test_a_keeper_whose_clock_is_days_off_loses_nothing_of_others(autojump_clock, days):
    async with memory_dht_net(clock()) as net:
        first, wrong, owner, reader = (
            net.add(),
            net.add(clock=clock(days * DAY)),
            net.add(),
            net.add(),
        )
        await joined(first, wrong, owner, reader)
        assert await owner.put("key", 1, ttl=DAY) >= 2
        found = await reader.get("key", owner=owner._host.peer_id)
        assert found is not None
        assert found.value == 1
        # What the one with the wrong clock says is said to all, and can be replaced.
        if days > 0:
            await wrong.put("theirs", "old", ttl=10 * DAY)
            found = await reader.get("theirs")
            assert found is not None
            assert found.value == "old"


async def test_addresses_are_replaced_though_a_clock_was_ahead(autojump_clock):
    async with memory_dht_net(clock()) as net:
        first, reader = net.add(), net.add()
        host = net.host()
        config = DhtConfig(mode="client")
        before = net.add(config, host=host, clock=clock(3 * DAY))
        await joined(first, reader, before)
        assert before.status().announced_to
        await before.aclose()
        host.addr = Multiaddr("/ip4/8.99.0.1/tcp/4001")
        after = net.add(config, host=host)
        await joined(after)
        await trio.sleep(60.0)
        assert after.status().announced_to
        found, _ = await reader._finder._by_record(host.peer_id)
        assert found is not None
        assert found.addrs == (host.addr,)


def left_by_a_kill(path: Path) -> Path:
    """The file as a process leaves it that is killed now."""
    copy = path.parent / "after" / path.name
    copy.parent.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, copy.parent / file.name)
    return copy


async def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "records.sqlite"
    async with memory_dht_net() as net:
        first, host = net.add(), net.host()
        node = net.add(host=host, path=path)
        with trio.fail_after(60):
            await node.wait_ready()
            node._network.save()
            await first.put("theirs", 1)
            await node.put("ours", 2)
            await node.provide("one")
            await node.provide_many(["two", "three"])
            await node.withdraw("three")
            copy = left_by_a_kill(path)
        due = dict(node._own._provided)
        await kill(net, node)
        net.net.hosts[host.peer_id] = host
        back = net.add(host=host, path=copy)
        with trio.fail_after(60):
            await back._loaded.wait()
        assert back._own._provided == due
        assert len(due) == 2
        assert {value.data for value in back._store.values} == {b"\x01", b"\x02"}
        assert [contact.peer_id for contact in back._network.contacts] == [first._host.peer_id]
        await back.aclose()


async def test_the_size_of_the_network_is_kept_over_a_kill_with_its_error(autojump_clock, tmp_path):
    path = tmp_path / "records.sqlite"
    async with memory_dht_net(clock()) as net:
        nodes = [net.add() for _ in range(5)]
        host = net.host()
        node = net.add(host=host, path=path)
        await joined(*nodes, node)
        before = node.status()
        assert before.network_size == pytest.approx(5, abs=1)
        assert before.peers == 5
        # A virtual clock does not wait for the thread that writes, nor for the one that loads.
        node._network.save()
        await node._keeper.wait_written()
        copy = left_by_a_kill(path)
        await kill(net, node)
        net.net.hosts.clear()  # nobody answers
        net.net.hosts[host.peer_id] = host
        back = net.add(host=host, path=copy)
        await back._loaded.wait()
        after = back.status()
        assert (after.network_size, after.network_size_error) == (
            before.network_size,
            before.network_size_error,
        )
        assert len(back._network.contacts) == 5
        await back.aclose()
