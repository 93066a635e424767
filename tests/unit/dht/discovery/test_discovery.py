"""Discovery: several sources as one, what is said again and again, and sources that fail."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from lattica.dht.discovery.discovery import Discovery
from lattica.dht.discovery.source import FoundPeer, Source
from lattica.dht.discovery.sources import (
    DhtSource,
    RendezvousSource,
    StaticSource,
    TopicSource,
)
from lattica.dht.rendezvous.config import RendezvousConfig
from lattica.dht.rendezvous.service import RendezvousService
from lattica.errors import DialError, LocalProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.multiaddr import Multiaddr
from tests.support.doubles.memory_host import memory_net

ME = Identity.generate().peer_id
PEERS = [Identity.generate().peer_id for _ in range(4)]
ADDR = Multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{PEERS[0]}")


class FakeSource(Source):
    name = "dht"

    def __init__(self, *peers: FoundPeer, again: float | None = 100.0, fails: int = 0) -> None:
        self.peers = peers
        self.again = again
        self.fails = fails
        self.said: list[tuple[str, float]] = []
        self.withdrawn: list[str] = []

    async def advertise(self, topic: str) -> float | None:
        await trio.sleep(1)
        if self.fails:
            self.fails -= 1
            raise DialError(PEERS[0], [])
        self.said.append((topic, trio.current_time()))
        return self.again

    async def withdraw(self, topic: str) -> None:
        self.withdrawn.append(topic)

    async def find(self, topic: str) -> AsyncIterator[FoundPeer]:
        for peer in self.peers:
            await trio.sleep(1)
            yield peer
        if self.fails:
            raise DialError(PEERS[0], [])


@asynccontextmanager
async def discovery(*sources: Source) -> AsyncIterator[Discovery]:
    async with trio.open_nursery() as nursery:
        made = Discovery(ME, nursery, sources)
        yield made
        await made.aclose()


async def test_all_sources_are_asked_and_each_peer_is_told_once(autojump_clock):
    bare, full = FoundPeer(PEERS[0], (), "dht"), FoundPeer(PEERS[0], (ADDR,), "dht")
    other = FoundPeer(PEERS[1], (), "dht")
    mine = FoundPeer(ME, (), "dht")
    sources = FakeSource(bare, mine), FakeSource(other, bare, full), FakeSource(full, fails=1)
    async with discovery(*sources) as found:
        peers = [peer async for peer in found.find_peers("t")]
    assert {peer.peer_id for peer in peers} == {PEERS[0], PEERS[1]}
    assert full in peers


async def test_a_peer_is_told_again_with_addresses_that_were_not_known_but_not_without_end(
    autojump_clock,
):
    addrs = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 201)]
    first, second = (FoundPeer(PEERS[0], (addr,), "mdns") for addr in addrs[:2])
    async with discovery(FakeSource(first, first, second, first)) as found:
        assert [peer async for peer in found.find_peers("t")] == [first, second]
    many = [FoundPeer(PEERS[0], (addr,), "mdns") for addr in addrs]
    async with discovery(*(FakeSource(*many[start::5]) for start in range(5))) as found:
        assert len([peer async for peer in found.find_peers("t")]) == 64


async def test_whoever_leaves_the_loop_leaves_nothing_behind(autojump_clock):
    many = [FoundPeer(Identity.generate().peer_id, (), "dht") for _ in range(200)]
    async with discovery(FakeSource(*many)) as found:
        async for _ in found.find_peers("t"):
            break
        await trio.sleep(500)
        assert found._tasks.count == 0


async def test_what_is_advertised_is_said_again_until_it_is_withdrawn(autojump_clock):
    good, bad, silent = FakeSource(), FakeSource(fails=2), FakeSource(again=None)
    async with discovery(good, bad, silent) as found:
        assert await found.advertise("t") == 1
        assert found.advertised == ("t",)
        await trio.sleep(950)
        assert 9 <= len(good.said) <= 13
        assert len(bad.said) >= 5
        assert len(silent.said) == 1
        await found.withdraw("t")
        await found.withdraw("t")
        assert good.withdrawn == ["t"]
        count = len(good.said)
        await trio.sleep(500)
        assert len(good.said) == count


async def test_advertising_twice_says_it_once(autojump_clock):
    source = FakeSource()
    async with discovery(source) as found:
        await found.advertise("t")
        await found.advertise("t")
        await trio.sleep(500)
        assert 2 + 4 <= len(source.said) <= 2 + 6


@pytest.mark.parametrize("name", ["", "x" * 256, "\ud800", 5])
async def test_what_can_be_no_topic_is_refused(autojump_clock, name):
    async with discovery() as found:
        with pytest.raises(LocalProtocolError):
            await found.advertise(name)
        with pytest.raises(LocalProtocolError):
            found.find_peers(name)


async def test_nothing_is_found_after_the_end(autojump_clock):
    async with discovery(FakeSource()) as found:
        await found.aclose()
        with pytest.raises(LocalProtocolError, match="stopped"):
            found.find_peers("t")
        with pytest.raises(LocalProtocolError, match="stopped"):
            await found.advertise("t")


async def test_static_peers_and_members_of_a_topic_are_found(autojump_clock):
    static = StaticSource([str(ADDR), "/ip4/192.0.2.9/tcp/1"])
    members = TopicSource(lambda topic: [PEERS[1]] if topic == "t" else [])
    async with discovery(static, members) as found:
        peers = {peer.peer_id: peer async for peer in found.find_peers("t")}
    assert peers[PEERS[0]] == FoundPeer(PEERS[0], (ADDR,), "static")
    assert peers[PEERS[1]] == FoundPeer(PEERS[1], (), "topic")


async def test_peers_are_found_at_a_rendezvous_point(autojump_clock):
    async with memory_net() as net:
        point, one, two = net.host(), net.host(), net.host()
        RendezvousService(point, RendezvousConfig(serve=True))
        addr = Multiaddr("/ip4/1.2.3.4/tcp/7")

        def source(host) -> RendezvousSource:
            record = seal_record(host.identity, 1, [addr])
            return RendezvousSource(host, str(point.addrs[0]), lambda: record)

        async with discovery(source(one)) as first, discovery(source(two)) as second:
            assert await first.advertise("t") == 1
            (peer,) = [peer async for peer in second.find_peers("t")]
            assert peer.peer_id == one.peer_id
            assert peer.addrs == (addr.encapsulate(f"/p2p/{one.peer_id}"),)
            await first.withdraw("t")
            await trio.sleep(1)
            assert [peer async for peer in second.find_peers("t")] == []


async def test_the_dht_is_asked_by_the_protocol_it_has(autojump_clock):
    class Dht:
        def __init__(self) -> None:
            self.provided: list[str] = []

        async def provide(self, key: str, /) -> int:
            self.provided.append(key)
            return len(self.provided) - 1

        async def withdraw(self, key: str, /) -> int:
            self.provided.remove(key)
            return 1

        async def find_providers(self, key: str, /) -> AsyncIterator[FoundPeer]:
            assert key == "/topic/t"
            yield FoundPeer(PEERS[0], (ADDR,), "")

    dht = Dht()
    async with discovery(DhtSource(dht)) as found:
        assert await found.advertise("t") == 0  # nobody has taken it
        assert dht.provided == ["/topic/t"]
        await trio.sleep(10)
        assert len(dht.provided) == 2
        (peer,) = [peer async for peer in found.find_peers("t")]
        assert peer == FoundPeer(PEERS[0], (ADDR,), "dht")
        await found.withdraw("t")
        assert len(dht.provided) == 1


async def test_a_source_that_fails_is_named_once_until_it_works_again(autojump_clock, caplog):
    source = FakeSource(fails=10**6)
    with caplog.at_level(logging.INFO, "lattica.dht.discovery"):
        async with discovery(source) as found:
            assert await found.advertise("one") == 0
            for topic in ("one", "two", "two"):
                assert [peer async for peer in found.find_peers(topic)] == []
            await trio.sleep(600)  # it is said again and again
            assert [record.message.split(":")[0] for record in caplog.records] == [
                "topic 'one' not advertised by dht"
            ]
            source.fails = 0
            assert [peer async for peer in found.find_peers("two")] == []
            source.fails = 1
            assert [peer async for peer in found.find_peers("two")] == []
            assert [record.message.split(":")[0] for record in caplog.records[1:]] == [
                "peers of 'two' not found by dht"
            ]
