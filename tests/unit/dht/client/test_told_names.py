"""Peers of which others tell names: looked up with care, and judged by where they lead."""

from __future__ import annotations

import pytest
import trio

from lattica.dht.client.told import judged
from lattica.dht.kademlia.contact import Contact
from lattica.dht.records.keys import provider_key
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net import names
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses.told_names import ToldNames
from tests.support.doubles.memory_dht import memory_dht_net

PLACES = {
    "good.example": ["8.8.4.4"],
    "inside.example": ["192.168.1.1", "10.0.0.1", "127.0.0.1", "169.254.169.254"],
    "both.example": ["192.168.1.1", "8.8.4.5"],
}
LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/1")


def plain(addr: Multiaddr) -> str:
    return str(addr).partition("/p2p/")[0]


@pytest.fixture(autouse=True)
def _resolver(monkeypatch):
    async def look_up(addr):
        host = addr.components[0][1]
        rest = str(addr).split(host, 1)[1]
        return [Multiaddr(f"/ip4/{ip}{rest}") for ip in PLACES.get(host, ())]

    monkeypatch.setattr(names, "_look_up", look_up)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("good.example", ["/ip4/8.8.4.4/tcp/1"]),
        ("inside.example", []),
        ("both.example", ["/ip4/8.8.4.5/tcp/1"]),
        ("nobody.example", []),
    ],
)
async def test_a_name_leads_to_the_internet_only(autojump_clock, name, expected):
    told = ToldNames(trio.current_time)
    found = await told.resolved([Multiaddr(f"/dns4/{name}/tcp/1"), LOOPBACK])
    assert list(map(str, found)) == expected


async def test_names_are_looked_up_seldom(autojump_clock):
    told = ToldNames(trio.current_time)
    name = [Multiaddr("/dns4/good.example/tcp/1")]
    found = [bool(await told.resolved(name)) for _ in range(100)]
    assert sum(found) == 32
    await trio.sleep(10.0)
    assert await told.resolved(name)


async def test_only_so_many_names_of_a_peer_are_looked_up(autojump_clock):
    told = ToldNames(trio.current_time)
    found = await told.resolved([Multiaddr(f"/dns4/good.example/tcp/{n}") for n in range(1, 9)])
    assert len(found) == 2


def test_names_are_kept_by_who_has_told_them():
    name = Multiaddr("/dns4/good.example/tcp/1")
    contact = Contact.of(Identity.generate().peer_id, [name, Multiaddr("/ip4/10.0.0.1/tcp/1")])
    assert judged(contact, Multiaddr("/ip4/8.8.8.8/tcp/1")).addrs == (name,)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["/dns4/good.example/tcp/1"], ["/ip4/8.8.4.4/tcp/1"]),
        (["/dns4/inside.example/tcp/1"], None),
        (["/ip4/8.8.8.8/tcp/1", "/dns4/inside.example/tcp/1"], ["/ip4/8.8.8.8/tcp/1"]),
    ],
)
async def test_a_provider_with_a_name_is_found_where_it_leads(autojump_clock, told, expected):
    async with memory_dht_net() as net:
        _, provider, client = net.add(), net.add(), net.add()
        await provider.wait_ready()
        await client.wait_ready()
        own = Contact.of(provider._host.peer_id, map(Multiaddr, told))
        provider._providing._own = lambda: own
        await provider.provide("thing")
        await trio.sleep(5.0)
        found = [peer async for peer in client.find_providers("thing")]
        assert [peer.peer_id for peer in found] == [own.peer_id]
        if expected is None:  # where it says itself that it is
            expected = [plain(addr) for addr in provider._host.addrs]
        assert [plain(addr) for addr in found[0].addrs] == expected


async def test_who_tells_of_a_provider_without_addresses_hides_none(autojump_clock):
    """js-libp2p, issue 889, and worse: the first word on a provider was the last."""
    async with memory_dht_net() as net:
        _, provider, client = net.add(), net.add(), net.add()
        await provider.wait_ready()
        await client.wait_ready()
        own = Contact.of(provider._host.peer_id, [Multiaddr("/ip4/8.8.8.8/tcp/1")])
        provider._providing._own = lambda: own
        await provider.provide("thing")
        bare = Contact.of(own.peer_id)
        client._store.providers.add(provider_key("thing"), bare, None, client._clock())
        found = [peer async for peer in client.find_providers("thing")]
        assert [plain(addr) for peer in found for addr in peer.addrs] == ["/ip4/8.8.8.8/tcp/1"]


async def test_a_provider_that_nobody_has_addresses_of_is_looked_for(autojump_clock):
    async with memory_dht_net() as net:
        _, provider, client = net.add(), net.add(), net.add()
        await provider.wait_ready()
        await client.wait_ready()
        provider._providing._own = lambda: Contact.of(provider._host.peer_id)
        await provider.provide("thing")
        (found,) = [peer async for peer in client.find_providers("thing")]
        assert found.peer_id == provider._host.peer_id
        where = await client.find_peer(found.peer_id)
        assert where is not None
        assert found.addrs == where.addrs
        assert found.addrs
