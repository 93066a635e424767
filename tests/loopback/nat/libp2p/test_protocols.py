"""py-libp2p's own protocols on two of our nodes: its pubsub, its bitswap."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p.bitswap.cid import compute_cid_v1
from libp2p.bitswap.client import BitswapClient
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from lattica.nat.libp2p.border import libp2p_addr, libp2p_id
from lattica.node import Node
from tests.support.nets.nets import node_config, settled


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node]]:
    async with Node(node_config()) as a, Node(node_config()) as b:
        yield a, b


@asynccontextmanager
async def pubsub_on(node: Node) -> AsyncIterator[Pubsub]:
    router = GossipSub([PROTOCOL_ID_V11], degree=2, degree_low=1, degree_high=3)
    pubsub = Pubsub(node.host, router)
    async with background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        yield pubsub


async def test_pubsub():
    async with two_nodes() as (a, b), pubsub_on(a) as ours, pubsub_on(b) as theirs:
        subscription = await theirs.subscribe("news")
        await ours.subscribe("news")
        await a.connect(b.addrs[0])
        await settled(lambda: libp2p_id(b.peer_id) in ours.peer_topics.get("news", ()))
        await ours.publish("news", b"hello")
        with trio.fail_after(60):
            message = await subscription.get()
        assert message.data == b"hello"
        assert message.from_id == a.peer_id.to_bytes()


async def test_bitswap():
    block = b"a block" * 1000
    cid = compute_cid_v1(block)
    async with two_nodes() as (a, b), trio.open_nursery() as nursery:
        server, client = BitswapClient(a.host), BitswapClient(b.host)
        for each in (server, client):
            each.set_nursery(nursery)
            await each.start()
        await server.add_block(cid, block)
        await b.connect(a.addrs[0])
        found = await client.new_session().get_block(cid, libp2p_id(a.peer_id), 20)
        assert hashlib.sha256(found).digest() == hashlib.sha256(block).digest()
        for each in (server, client):
            await each.stop()
        nursery.cancel_scope.cancel()


# --- the host is made when it is first asked for ---


async def test_a_host_that_is_made_late_knows_the_peers_of_the_node():
    async with two_nodes() as (a, b):
        await a.connect(b.addrs[0])
        await settled(lambda: a.peers()[0].agent)
        host, b_id = a.host, libp2p_id(b.peer_id)
        assert a.host is host
        assert host.get_id() == libp2p_id(a.peer_id)
        assert host.get_connected_peers() == [b_id]
        store = host.get_peerstore()
        assert store.pubkey(b_id).serialize() == b.identity.public_key_bytes
        assert libp2p_addr(b.swarm.addrs[0]) in store.addrs(b_id)
        assert "/ipfs/ping/1.0.0" in store.get_protocols(b_id)
        # What it forgets of its peers is never its own key.
        for _ in range(5):
            await a.disconnect(b.peer_id)
            await a.connect(b.peer_id)
        assert host.get_public_key().serialize() == a.identity.public_key_bytes


async def test_without_py_libp2p_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("lattica.nat.libp2p.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "libp2p.abc", None)
    async with Node(node_config()) as node:
        with pytest.raises(ImportError, match=r"pip install 'lattica-stack\[libp2p\]'"):
            _ = node.host
