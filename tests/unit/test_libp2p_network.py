"""py-libp2p on our swarm, and our nodes among py-libp2p's own hosts."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.abc import INotifee
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import PingService
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamReset
from libp2p.peer.envelope import Envelope
from libp2p.peer.peerstore import create_signed_peer_record
from multiaddr.multiaddr import Multiaddr

from lattica.errors import StreamResetError
from lattica.identity import Identity, PeerId
from lattica.nat.addresses import split_peer
from lattica.nat.config import Limits
from lattica.nat.identify import IDENTIFY, IDENTIFY_PUSH
from lattica.nat.libp2p_network import Host, NetworkService, make_host
from lattica.nat.swarm import Swarm
from lattica.nat.yamux_frames import Flag
from lattica.node import Node
from lattica.wire import encode_length_prefixed
from tests.attacker import Attacker, attacking, data, propose
from tests.nets import ECHO, ask_echo, echo, node_config, settled, swarm_config, tasks
from tests.stock import call_echo, info, stock_host
from tests.stock import echo as py_echo

PY_ECHO = TProtocol("/test/py-echo/1")


@asynccontextmanager
async def node_with_echo(**changes: Any) -> AsyncIterator[Node]:
    async with Node(node_config(**changes)) as node:
        node.handle(ECHO, echo)
        node.host.set_stream_handler(PY_ECHO, py_echo)
        yield node


def network_of(node: Node) -> NetworkService:
    network = node.host.get_network()
    assert isinstance(network, NetworkService)
    return network


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node]]:
    """Connected, and each knows who the other is."""
    async with node_with_echo() as a, node_with_echo() as b:
        await a.connect(b.addrs[0])
        await settled(lambda: all(n.peers() and n.peers()[0].agent for n in (a, b)))
        yield a, b


# --- among py-libp2p's own hosts ---


@pytest.mark.parametrize("we_dial", [True, False])
async def test_a_stock_host(we_dial):
    """Who dials does not matter for what works."""
    async with stock_host() as stock, node_with_echo() as node:
        stock.set_stream_handler(PY_ECHO, py_echo)
        peer_id, ours = stock.get_id(), node.host
        if we_dial:
            await node.connect(str(stock.get_addrs()[0]))
        else:
            await stock.connect(info(ours))
            await node.wait_connected(peer_id)

        # Both know each other by identify: program, protocols, addresses, key.
        await settled(lambda: node.peers()[0].agent)
        assert "py-libp2p" in node.peers()[0].agent
        for host, other in ((ours, stock), (stock, ours)):
            store, other_id = host.get_peerstore(), other.get_id()
            with trio.fail_after(10):
                while PY_ECHO not in store.get_protocols(other_id):
                    await trio.sleep(0.01)
            known = {split_peer(addr)[0] for addr in store.addrs(other_id)}
            assert {split_peer(addr)[0] for addr in other.get_addrs()} <= known
            assert store.pubkey(other_id) == other.get_public_key()

        # Streams both ways, by py-libp2p's API on both, and by ours.
        words = bytes(range(256)) * 1000
        assert await call_echo(stock, ours.get_id(), PY_ECHO, words) == words
        assert await call_echo(stock, ours.get_id(), ECHO, words) == words
        assert await call_echo(ours, peer_id, PY_ECHO, words) == words
        assert await ask_echo(node, peer_id, words, PY_ECHO) == words

        for host, other_id in ((ours, peer_id), (stock, ours.get_id())):
            times = await PingService(host).ping(other_id, 3)
            assert len(times) == 3

        with pytest.raises(StreamFailure):
            await stock.new_stream(ours.get_id(), [TProtocol("/test/unknown/1")])
        await node.disconnect(peer_id)
        with trio.fail_after(10):
            while ours.get_id() in stock.get_connected_peers():
                await trio.sleep(0.01)


async def test_a_failing_py_handler_costs_its_stream_only(caplog):
    """With py-libp2p's own swarm it would end the whole host."""
    async with stock_host() as stock, node_with_echo() as node:

        async def fail(stream):
            raise RuntimeError("a defect in a py-libp2p handler")

        async def escape(stream):
            await stream.read()  # until StreamEOF escapes

        node.host.set_stream_handler(TProtocol("/test/fail/1"), fail)
        node.host.set_stream_handler(TProtocol("/test/escape/1"), escape)
        await stock.connect(info(node.host))
        lasting = await stock.new_stream(node.peer_id, [PY_ECHO])
        for name in ("/test/fail/1", "/test/escape/1"):
            stream = await stock.new_stream(node.peer_id, [TProtocol(name)])
            await stream.close_write()
            with pytest.raises((StreamReset, StreamEOF)):
                await stream.read()
        await settled(lambda: "a defect in a py-libp2p handler" in caplog.text)
        await lasting.write(b"still here")
        assert await lasting.read(10) == b"still here"
        await lasting.close()


# --- BasicHost as py-libp2p runs it ---


def bare_host(**changes: Any) -> Host:
    return make_host(Swarm(Identity.generate(), swarm_config(listen=(), **changes)))


async def test_basic_host_runs_on_the_network_service():
    before = tasks()
    listen = [Multiaddr("/ip4/127.0.0.1/tcp/0"), Multiaddr("/ip6/::1/tcp/0/ws")]
    a, b = bare_host(), bare_host()
    async with a.run(listen), b.run([]):
        assert len(a.get_addrs()) == 2
        assert all(str(addr).endswith(f"/p2p/{a.get_id()}") for addr in a.get_addrs())
        a.set_stream_handler(PY_ECHO, py_echo)
        await b.connect(info(a))
        await b.connect(info(a))
        assert b.get_connected_peers() == [a.get_id()]
        assert await call_echo(b, a.get_id(), PY_ECHO, b"hello") == b"hello"
        await PingService(b).ping(a.get_id(), 1)
        await settled(lambda: a.get_live_peers())
        await PingService(a).ping(b.get_id(), 1)
        await b.disconnect(a.get_id())
        assert b.get_connected_peers() == []
        with pytest.raises(SwarmException):
            await b.new_stream(PeerId(Identity.generate().peer_id.to_bytes()), [PY_ECHO])
        await a.close()
    assert tasks() == before


async def test_the_manager_is_that_of_py_libp2p():
    host = bare_host()
    network = host.get_network()
    assert isinstance(network, NetworkService)
    with pytest.raises(RuntimeError, match="not run by a manager"):
        network.get_manager()


# --- identify ---


async def test_a_new_listen_address_is_pushed_to_the_peers():
    async with two_nodes() as (a, b):
        network = a.host.get_network()
        assert await network.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
        added = a.swarm.addrs[-1]
        assert len(a.swarm.addrs) == 2

        def known() -> set:
            return {split_peer(addr)[0] for addr in b.host.get_peerstore().addrs(a.peer_id)}

        await settled(lambda: added in known())


async def test_what_identify_says_of_us():
    async with node_with_echo() as node, attacking(node.swarm.addrs[0]) as peer:
        await peer.set_up()
        question = propose(IDENTIFY)
        await peer.send_frames(data(1, question, Flag.SYN))
        message = await read_identify(peer, len(question))
        assert message.agent_version.startswith("lattica-stack/")
        assert message.protocol_version == "/lattica/1.0.0"
        assert {ECHO, str(PY_ECHO), IDENTIFY, IDENTIFY_PUSH, "/ipfs/ping/1.0.0"} <= set(
            message.protocols
        )
        addrs = {split_peer(Multiaddr(raw))[0] for raw in message.listen_addrs}
        assert addrs == set(node.swarm.addrs)
        assert str(Multiaddr(message.observed_addr)) == peer.addr
        assert message.public_key == node.identity.public_key_bytes


async def read_identify(peer: Attacker, echoed: int) -> Identify:
    """The message on stream 1, which is the first that carries data on it."""
    message = Identify()
    start = None
    while start is None or not message.ByteSize():
        assert await peer.receive()
        found = peer.plain.find(propose(IDENTIFY))
        while found >= 0:
            header = bytes(peer.plain[found - 12 : found])
            if int.from_bytes(header[4:8], "big") == 1:
                start = found + echoed
                break
            found = peer.plain.find(propose(IDENTIFY), found + 1)
        if start is not None:
            body = bytes(peer.plain[start:])
            if b"lattica-stack/" in body:
                position = body.find(b"\x00\x00\x00", 0)
                del position
                message = _parse_first(body)
    return message


def _parse_first(body: bytes) -> Identify:
    from lattica.wire import decode_uvarint

    # It may have come in a frame of its own.
    for skip in (0, 12):
        try:
            size, at = decode_uvarint(body, skip)
            message = Identify()
            message.ParseFromString(body[at : at + size])
            if message.agent_version:
                return message
        except Exception:
            continue
    return Identify()
