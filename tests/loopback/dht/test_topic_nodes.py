"""Topics between whole nodes: found through a rendezvous point, and over a change of path."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from lattica.config import load_config
from lattica.dht.topics.service.topics import Topics
from lattica.errors import ConnectionClosedError
from lattica.nat.swarm.events import PeerDisconnected
from lattica.node import Node
from tests.support.doubles.swarm_host import SwarmHost
from tests.support.nets.nets import settled
from tests.support.nets.relayed import relayed_pair

LOOPBACK = {"listen": ["/ip4/127.0.0.1/tcp/0"], "nat.port_mapping.enabled": False}


def config(**more: object):
    return load_config(environment={}, overrides={**LOOPBACK, **more})


async def test_members_that_know_nobody_find_each_other_at_a_rendezvous_point():
    async with Node(config(**{"discovery.point.serve": True})) as point:
        settings = config(**{"discovery.rendezvous": [str(point.addrs[0])]})
        async with Node(settings) as one, Node(settings) as two:
            with trio.fail_after(60):
                async with two.topic("news").subscribe() as messages:
                    # Advertised by whoever uses the topic, and found by the other.
                    await one.topic("news").wait_peers()
                    await one.topic("news").publish(b"hello")
                    assert (await anext(messages)).source == one.peer_id
                assert one.discovery.advertised == ("news",)


async def test_application_topics_are_advertised_and_found():
    async with Node(config(**{"discovery.point.serve": True})) as point:
        settings = config(**{"discovery.rendezvous": [str(point.addrs[0])]})
        async with Node(settings) as one, Node(settings) as two:
            with trio.fail_after(60):
                assert await one.discovery.advertise("render/v1") == 1
                (peer,) = [
                    peer
                    async for peer in two.discovery.find_peers("render/v1")
                    if peer.source == "rendezvous"
                ]
                assert await two.connect(peer.addrs) == one.peer_id


async def test_documents_find_the_peers_that_have_them():
    async with Node(config(**{"discovery.point.serve": True})) as point:
        settings = config(**{"discovery.rendezvous": [str(point.addrs[0])]})
        async with Node(settings) as one, Node(settings) as two:
            with trio.fail_after(60):
                first = await one.store.open("cluster")
                first.registers["model/latest"] = "v1"
                while not one.discovery.advertised:
                    await trio.sleep(0.05)
                second = await two.store.open("cluster")
                with second.changes() as changes:
                    await anext(changes)
                assert second.registers["model/latest"] == "v1"
                assert two.is_connected(one.peer_id)


async def test_topics_work_over_a_relayed_path():
    async with relayed_pair() as pair, trio.open_nursery() as nursery:
        ends = [
            Topics(SwarmHost(swarm), nursery, sign=swarm.identity.sign)
            for swarm in (pair.source, pair.target)
        ]
        with trio.fail_after(60):
            async with ends[1].topic("news").subscribe() as messages:
                await ends[0].topic("news").wait_peers()
                for number in range(500):
                    await ends[0].topic("news").publish(bytes([number % 251]) * 1000)
                for _ in range(500):
                    assert (await anext(messages)).source == pair.source.identity.peer_id
            assert pair.of_source.closed_reason is None
        for end in ends:
            await end.aclose()
        nursery.cancel_scope.cancel()


async def test_members_find_each_other_through_the_dht():
    async with Node(config(**{"dht.enabled": True})) as first:
        settings = config(**{"dht.enabled": True, "bootstrap": [str(first.addrs[0])]})
        async with Node(settings) as one, Node(settings) as two:
            with trio.fail_after(60):
                async with two.topic("news").subscribe() as messages:
                    await one.topic("news").wait_peers()
                    await one.topic("news").publish(b"hello")
                    assert (await anext(messages)).source == one.peer_id


async def test_peers_are_exchanged_with_their_records():
    """One that is pruned is told of others, with what they have signed about themselves."""
    async with Node(config()) as centre, Node(config()) as one, Node(config()) as two:
        with trio.fail_after(60):
            for node in (one, two):
                await node.connect(centre.addrs)
            async with (
                one.topic("news").subscribe(),
                two.topic("news").subscribe(),
                centre.topic("news").subscribe() as messages,
            ):
                await centre.topic("news").wait_peers(2)
                # What the centre can say of them it has from identify, which may be later.
                await settled(lambda: all(peer.agent for peer in centre.peers()))
                one.topics.set_score(centre.peer_id, 100.0)
                # The centre leaves, and names those who stay to each other.
                messages.__exit__()
                await one.wait_connected(two.peer_id)


async def test_a_peer_that_goes_as_a_stream_to_it_is_opened_is_not_dialed_for_that(monkeypatch):
    async with Node(config()) as one, Node(config()) as two:
        opening, connecting = one.swarm.open_stream, one.swarm.connect
        dialed = []
        gone = trio.Event()

        async def open_stream(peer, protocols, **more):
            if not gone.is_set():
                gone.set()
                connection = one.swarm.registry.best(peer)
                assert connection is not None
                connection.abort("closed by this side")
                raise ConnectionClosedError("closed by this side")
            return await opening(peer, protocols, **more)

        async def connect(peer, addrs=()):
            dialed.append(gone.is_set())
            return await connecting(peer, addrs)

        monkeypatch.setattr(one.swarm, "open_stream", open_stream)
        monkeypatch.setattr(one.swarm, "connect", connect)
        assert not one.topics.peers("news")
        with trio.fail_after(60), one.events() as events:
            await one.connect(two.addrs)
            while not isinstance(await anext(events), PeerDisconnected):
                pass
            await wait_all_tasks_blocked(0.01)
        assert True not in dialed
        assert not one.peers()
