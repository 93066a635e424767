"""Two programs with one key: who is reached, and what the log says."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from lattica.config import NodeConfig
from lattica.errors import DialError, KeyInUseError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.swarm.upkeep import same_key
from lattica.node import Node
from tests.support.nets.nets import node_config, swarm_config, unused_port

QUIC = "/ip4/127.0.0.1/udp/0/quic-v1/noise"
TCP = "/ip4/127.0.0.1/tcp/0"
KEY = Identity.generate()


def instance_at(node: Node, peer) -> bytes:
    connection = node.swarm.registry.best(peer)
    assert connection is not None
    return connection.instance


def instance_of(node: Node) -> bytes:
    return node.swarm._connector.instance


def told(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "one peer ID at two places" in r.message]


@asynccontextmanager
async def twins(listen: str) -> AsyncIterator[tuple[Node, Node]]:
    config = node_config(listen=(listen,))
    async with Node(config, identity=KEY) as one, Node(config, identity=KEY) as other:
        yield one, other


over_each = pytest.mark.parametrize("listen", [TCP, QUIC])


@over_each
async def test_each_is_reached_at_its_own_address(listen):
    async with twins(listen) as both:
        for node in both:
            async with Node(node_config(listen=())) as client:
                await client.connect(node.addrs[0])
                assert instance_at(client, KEY.peer_id) == instance_of(node)


@over_each
@pytest.mark.parametrize("named", [True, False])
async def test_connected_to_one_the_other_is_not_taken_for_it(listen, named, caplog):
    async with twins(listen) as (one, other), Node(node_config(listen=())) as client:
        await client.connect(one.addrs[0])
        asked = other.addrs[0] if named else split_peer(other.addrs[0])[0]
        for _ in range(2):
            with pytest.raises(DialError, match="another program with the same key") as refusal:
                await client.connect(asked)
            assert str(split_peer(other.addrs[0])[0]) in str(refusal.value)
        assert instance_at(client, KEY.peer_id) == instance_of(one)
        assert await client.connect(one.addrs[0]) == KEY.peer_id
        assert await client.connect(list(one.addrs)) == KEY.peer_id
        assert await client.connect(KEY.peer_id) == KEY.peer_id
        assert len(told(caplog)) == 1
        await client.disconnect(KEY.peer_id)
        await client.connect(asked)
        assert instance_at(client, KEY.peer_id) == instance_of(other)


@over_each
async def test_what_was_known_before_does_not_lead_elsewhere(listen):
    async with twins(listen) as (one, other), Node(node_config(listen=())) as client:
        for _ in range(4):
            for node in (one, other):
                client.add_address(KEY.peer_id, one.addrs[0])
                client.add_address(KEY.peer_id, other.addrs[0])
                await client.connect(node.addrs[0])
                assert instance_at(client, KEY.peer_id) == instance_of(node)
                await client.disconnect(KEY.peer_id)


async def test_who_hears_of_both_says_so_once(caplog):
    config = node_config(listen=())
    async with (
        Node(node_config(listen=(TCP,))) as relay,
        Node(config, identity=KEY) as one,
        Node(config, identity=KEY) as other,
    ):
        await one.connect(relay.addrs[0])
        await other.connect(relay.addrs[0])
        with trio.fail_after(60):
            while not told(caplog):
                await trio.sleep(0.01)
        await other.disconnect(relay.peer_id)
        await other.connect(relay.addrs[0])
        await trio.sleep(0.5)
    (line,) = told(caplog)
    assert str(KEY.peer_id) in line
    assert "--ephemeral" in line


async def test_one_that_was_started_anew_is_no_second_one(caplog, monkeypatch):
    monkeypatch.setattr(same_key, "_PATIENCE", 0.3)
    port = unused_port()
    config = node_config(listen=(f"/ip4/127.0.0.1/tcp/{port}",))
    async with Node(node_config(listen=())) as client:
        async with Node(config, identity=KEY) as first:
            await client.connect(first.addrs[0])
        async with Node(config, identity=KEY) as second:
            await client.connect(second.addrs[0])
            assert instance_at(client, KEY.peer_id) == instance_of(second)
    assert told(caplog) == []


async def test_addresses_of_one_peer_are_its_own(caplog):
    """Several addresses, and one that only the caller knows of."""
    unused = unused_port()
    config = node_config(listen=(TCP, QUIC))
    async with Node(config) as server, Node(node_config(listen=())) as client:
        for addr in server.addrs:
            assert await client.connect(addr) == server.peer_id
        port = str(server.addrs[0]).split("/")[4]
        await client.connect(f"/dns4/localhost/tcp/{port}/p2p/{server.peer_id}")
        # Nobody answers there, and the peer is connected; it is tried once.
        probes = []
        probe = client.swarm._same_key._probe

        async def counted(*args):
            probes.append(args)
            return await probe(*args)

        client.swarm._same_key._probe = counted
        for _ in range(3):
            await client.connect(f"/ip4/127.0.0.1/tcp/{unused}/p2p/{server.peer_id}")
        assert len(probes) == 1
    assert told(caplog) == []


async def test_a_key_file_is_one_nodes(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = NodeConfig(identity_path=tmp_path / "key", swarm=swarm_config(listen=()))
    async with Node(config) as first:
        with pytest.raises(KeyInUseError, match="a node of this program"):
            async with Node(config):
                pass
        assert first.peer_id == Node(config).peer_id
    async with Node(config) as again:
        assert again.peer_id == first.peer_id
