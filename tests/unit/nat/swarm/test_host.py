"""What a service may count on, at the host in memory; a node is held to it by its types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lattica.errors import (
    DialError,
    LocalProtocolError,
    NotConnectedError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.base.keys.identity import Identity
from lattica.nat.mux.connection import Direction
from lattica.nat.swarm.events import PeerConnected, PeerDisconnected
from lattica.nat.swarm.host import Host
from tests.support.doubles.memory_host import memory_net
from tests.support.pairs.connected import echo

if TYPE_CHECKING:
    from lattica.node import Node

    def node_is_a_host(node: Node) -> Host:
        return node


ECHO = "/test/echo/1"


async def ask(host: Host, peer: Host, protocol: str = ECHO) -> bytes:
    async with await host.open_stream(peer.peer_id, protocol) as stream:
        await stream.send_message(b"hello")
        return await stream.receive_message(5)


async def test_streams_of_a_protocol_that_is_served(autojump_clock) -> None:
    async with memory_net() as net:
        server, client = net.host(), net.host()
        with pytest.raises(UnsupportedProtocolError):
            await ask(client, server)
        server.handle(ECHO, echo, owner="echo")
        assert await ask(client, server) == b"hello"
        with pytest.raises(LocalProtocolError, match="is served by echo"):
            server.handle(ECHO, echo, owner="another")
        server.unhandle(ECHO, owner="echo")
        with pytest.raises(UnsupportedProtocolError):
            await ask(client, server)


async def test_handler_that_fails_costs_its_stream(autojump_clock, caplog) -> None:
    async def fail(stream: object) -> None:
        raise ValueError("defect")

    async with memory_net() as net:
        server, client = net.host(), net.host()
        server.handle("/fail/1", fail, owner="test")
        server.handle(ECHO, echo, owner="test")
        with pytest.raises(StreamResetError):
            await ask(client, server, "/fail/1")
        assert "handler of /fail/1 failed" in caplog.text
        assert await ask(client, server) == b"hello"


async def test_peers_paths_and_events(autojump_clock) -> None:
    async with memory_net() as net:
        server, client = net.host(), net.host()
        host: Host = client
        assert host.peers() == ()
        assert host.path(server.peer_id) is None
        with host.events() as events, server.events() as theirs:
            assert await host.connect(server.addrs) == server.peer_id
            event = await anext(events)
            assert isinstance(event, PeerConnected)
            assert (event.peer_id, event.direction) == (server.peer_id, Direction.OUTBOUND)
            (peer,) = host.peers()
            path = host.path(server.peer_id)
            assert path is not None
            assert peer.peer_id == server.peer_id
            assert peer.connections[0].path == path.path == "direct-tcp"
            client.drop(server.peer_id)
            assert isinstance(await anext(events), PeerDisconnected)
            assert isinstance(await anext(theirs), PeerConnected)
            assert isinstance(await anext(theirs), PeerDisconnected)
        assert host.peers() == server.peers() == ()


async def test_peers_that_cannot_be_reached(autojump_clock) -> None:
    async with memory_net() as net:
        server, client = net.host(), net.host()
        server.is_reachable = False
        with pytest.raises(DialError):
            await client.open_stream(server.peer_id, ECHO)
        with pytest.raises(NotConnectedError):
            await client.connect(Identity.generate().peer_id)
