"""The DHT of real nodes on loopback: what is put is got, whoever is asked and whoever is killed."""

from __future__ import annotations

import math
import random
import time

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica import Identity, Node, load_config
from lattica.config import NodeConfig
from lattica.dht.kademlia.contact import Contact
from lattica.dht.kademlia.messages import MessageType, Request
from lattica.errors import (
    ConnectionClosedError,
    LocalProtocolError,
    NoDhtPeersError,
    NotConnectedError,
)
from tests.support.nets.nets import settled
from tools.bench.dht.real import real_network, survey


def config(**settings: object) -> NodeConfig:
    overrides = {"listen": ["/ip4/127.0.0.1/tcp/0"], "dht.enabled": True, **settings}
    return load_config(
        environment={"LATTICA_NAT__PORT_MAPPING__ENABLED": "false"}, overrides=overrides
    )


async def test_values_of_several_owners_and_subkeys_are_found_together():
    async with real_network(4) as network:
        a, b, c, d = network.nodes
        assert await a.dht.put("key", {"a": [1, 2.5, None, b"x"]}) == 3
        assert await b.dht.put("key", "b's") == 3
        found = await d.dht.get("key", owner=a.peer_id)
        assert found is not None
        assert (found.value, found.owner) == ({"a": [1, 2.5, None, b"x"]}, a.peer_id)
        newest = await d.dht.get("key")
        assert newest is not None
        assert newest.value == "b's"
        assert {v.owner for v in newest.values} == {a.peer_id, b.peer_id}
        async with trio.open_nursery() as nursery:
            for n, node in enumerate((a, b, c)):
                for name in ("one", "two"):
                    nursery.start_soon(put_subkey, node, name, n)
        found = await d.dht.get("shared")
        assert found is not None
        assert len(found.values) == 6
        assert {v.subkey for v in found.values} == {"one", "two"}
        assert isinstance(found.value, dict)
        assert await d.dht.get_many(["nothing", "key"]) == {"nothing": None, "key": newest}


async def put_subkey(node: Node, subkey: str, value: object) -> None:
    await node.dht.put("shared", value, subkey=subkey)


async def test_a_later_value_replaces_the_one_before_and_expires():
    async with real_network(3) as network:
        a, b, _ = network.nodes
        first = second = None
        for value in (1, 2):
            await a.dht.put(f"/p2p/{a.peer_id}/state", value)
            first, second = second, await b.dht.get(f"/p2p/{a.peer_id}/state")
        assert first is not None
        assert second is not None
        assert (first.value, second.value) == (1, 2)
        assert second.sequence > first.sequence
        with pytest.raises(LocalProtocolError, match="only"):
            await b.dht.put(f"/p2p/{a.peer_id}/state", 3)
        ttl, found = 1.0, None
        while found is None:  # a slow machine may take longer to put it and to get it
            ttl *= 2
            await a.dht.put(f"/p2p/{a.peer_id}/brief", 4, ttl=ttl)
            found = await b.dht.get(f"/p2p/{a.peer_id}/brief")
        await trio.sleep(max(found.expires - time.time(), 0) + 0.05)
        assert await b.dht.get(f"/p2p/{a.peer_id}/brief") is None


async def test_what_is_provided_is_found_until_it_is_withdrawn():
    async with real_network(4) as network:
        a, b, c, d = network.nodes
        for node in (a, b):
            assert await node.dht.provide("gpu/a100") == 3
        found = {peer.peer_id: peer async for peer in d.dht.find_providers("gpu/a100")}
        assert found.keys() == {a.peer_id, b.peer_id}
        assert set(found[a.peer_id].addrs) == set(a.addrs)
        assert len([p async for p in c.dht.find_providers("gpu/a100", count=1)]) == 1
        assert await a.dht.withdraw("gpu/a100") == 3
        assert [p.peer_id async for p in d.dht.find_providers("gpu/a100")] == [b.peer_id]
        held = await a.dht.provide_many(f"root {n}" for n in range(100))
        assert set(held.values()) == {3}
        assert [p.peer_id async for p in d.dht.find_providers("root 7")] == [a.peer_id]
        assert a.dht.status().provided == 100


async def test_a_peer_is_reached_by_its_id_alone():
    async with real_network(3) as network, Node(config()) as outsider:
        a, b, c = network.nodes
        # A client: nobody has it in a table, and it says itself where it is.
        client = await network.add(**{"dht.mode": "client"})
        while not client.dht.status().announced_to:
            await trio.sleep(0.05)
        assert client.peer_id not in {p.peer_id for n in (a, b, c) for p in n.dht.peers()}
        with pytest.raises(NotConnectedError):
            await outsider.connect(client.peer_id)
        await outsider.connect(a.addrs)
        assert await outsider.connect(client.peer_id) == client.peer_id
        stranger = Identity.generate().peer_id
        with pytest.raises(NotConnectedError):
            await outsider.connect(stranger)
        assert await outsider.dht.find_peer(stranger) is None


async def test_who_has_but_a_relay_in_common_is_reached_by_its_id_alone():
    """Nobody but the relay has been told to take part in the DHT."""
    identities = [Identity.generate() for _ in range(2)]
    allowed = [str(identity.peer_id) for identity in identities]
    serves = {"nat.relay_server.enabled": True, "nat.relay_server.allow_peers": allowed}
    async with Node(config(**serves)) as relay:
        settings = config(**{"listen": [], "dht.enabled": False, "relays": [str(relay.addrs[0])]})
        one, other = (Node(settings, identity=identity) for identity in identities)
        async with one, other:
            with trio.fail_after(60):
                await other.wait_reachable()
                while not relay.swarm.address_book.addrs(other.peer_id):
                    await trio.sleep(0.05)
                assert await one.connect(other.peer_id) == other.peer_id


async def test_without_peers_calls_say_what_is_missing_and_wait_for_nobody(monkeypatch):
    monkeypatch.setattr("lattica.dht.upkeep.membership._PATIENCE", math.inf)
    async with Node(config()) as node:
        for call in (
            lambda: node.dht.put("k", 1),
            lambda: node.dht.get("k"),
            lambda: node.dht.get_many(["k", "l"]),
            lambda: node.dht.find_peer(Identity.generate().peer_id),
            lambda: anext(node.dht.find_providers("k")),
            lambda: node.dht.provide("k"),
            lambda: node.dht.provide_many(["k", "l"]),
        ):
            with pytest.raises(NoDhtPeersError, match="bootstrap"):
                await call()


async def test_peers_that_do_not_serve_it_have_their_time_once(monkeypatch):
    monkeypatch.setattr("lattica.dht.upkeep.membership._PATIENCE", 0.3)
    async with Node(config()) as node, Node(config(**{"dht.mode": "client"})) as other:
        await other.connect(node.addrs)
        for _ in range(2):
            with pytest.raises(NoDhtPeersError):
                await node.dht.get("k")
        membership = node.dht._membership
        for _ in range(2):
            await settled(lambda: not membership._checking)
            assert membership.patience == 0.0
            membership.met(other.peer_id)  # as when the event of its connection comes late


async def test_arguments_that_cannot_be_are_refused_before_anybody_is_asked():
    async with Node(config()) as node:
        dht = node.dht
        for call in (
            lambda: dht.put("", 1),
            lambda: dht.put("k", object()),
            lambda: dht.put("k", 1, ttl=0),
            lambda: dht.put("k", 1, ttl=float("nan")),
            lambda: dht.put("k", 1, ttl="5"),  # type: ignore[arg-type]
            lambda: dht.put("k", 1, subkey=b"bytes"),  # type: ignore[arg-type]
            lambda: dht.get("k", quorum=0),
            lambda: dht.get("k", quorum="1"),  # type: ignore[arg-type]
            lambda: dht.get_many("key"),
            lambda: dht.get_many([["k"]]),  # type: ignore[list-item]
            lambda: dht.provide_many("key"),
            lambda: dht.provide("x" * 300),
        ):
            with pytest.raises(LocalProtocolError):
                await call()
        with pytest.raises(LocalProtocolError):
            dht.find_providers("k", count=0)
    with pytest.raises(LocalProtocolError):
        await dht.get("k")
    with pytest.raises(LocalProtocolError, match="while the node runs"):
        _ = Node(config()).dht


async def test_records_survive_a_restart(tmp_path):
    settings = {"identity_path": tmp_path / "key", "data_dir": tmp_path}
    async with Node(config()) as writer:
        async with Node(config(**settings)) as holder:
            await writer.connect(holder.addrs)
            assert await writer.dht.put("key", "value") == 1
            assert await writer.dht.provide("thing") == 1
            await holder.dht.provide("mine")
            assert holder.dht.status().storage == "disk"
        async with Node(config(**settings)) as again, Node(config()) as reader:
            await reader.connect(again.addrs)
            found = await reader.dht.get("key")
            assert found is not None
            assert found.value == "value"
            assert [p.peer_id async for p in reader.dht.find_providers("thing")] == [writer.peer_id]
            assert again.dht.status().provided == 1


async def test_a_client_is_asked_by_nobody():
    async with Node(config()) as server, Node(config(**{"dht.mode": "client"})) as client:
        await client.connect(server.addrs)
        await client.dht.wait_ready()
        peers = server.dht._peers
        assert await peers.ask(Contact.of(client.peer_id), Request(MessageType.PING)) is None
        assert server.dht.peers() == ()
        assert [p.peer_id for p in client.dht.peers()] == [server.peer_id]


async def test_everything_is_right_when_a_third_is_killed():
    # The long form: python -m tools.bench dht --real.
    async with real_network(12) as network:
        shares = {t.name: t.share async for t in survey(network, 5, random.Random(1))}
    assert len(shares) == 9
    assert set(shares.values()) == {100.0}, shares


async def test_who_is_left_before_it_is_asked_is_not_dialed_for_that(monkeypatch):
    """A peer is looked at when it comes: that is no reason to have it come again."""
    settings = config(**{"dht.protocol": "/one/kad/1.0.0"})
    async with Node(settings) as one, Node(config()) as two:
        opening = one.swarm.open_stream
        asked = trio.Event()

        async def open_stream(peer, protocol, **more):
            if protocol == "/one/kad/1.0.0" and not asked.is_set():
                asked.set()
                await one.disconnect(peer)
                raise ConnectionClosedError("closed by this side")
            return await opening(peer, protocol, **more)

        monkeypatch.setattr(one.swarm, "open_stream", open_stream)
        with trio.fail_after(60):
            await one.connect(two.addrs)
            await asked.wait()
            while one.dht._membership._checking:
                await wait_all_tasks_blocked(0.01)
        assert not one.peers()
