"""The life of a swarm: start, what it tells of, peers that vanish, and the end."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lattica.errors import (
    AddressError,
    ConnectionClosedError,
    ListenError,
    LocalProtocolError,
    NotConnectedError,
    PeerMismatchError,
)
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import to_endpoint, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import Timeouts
from lattica.nat.mux.connection import Direction
from lattica.nat.swarm.events import ListeningOn, PeerConnected, PeerDisconnected
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.tcp import TcpTransport
from tests.support.leaves import raises_leaf
from tests.support.nets.nets import (
    ECHO,
    advance,
    ask_echo,
    open_files,
    proxied,
    running,
    settled,
    swarm_config,
    tasks,
)
from tests.support.pairs.raw_pipe import raw_pipe

pytestmark = pytest.mark.usefixtures("swarm_transport")


def new_swarm(**changes) -> Swarm:
    return Swarm(Identity.generate(), swarm_config(**changes))


# --- start and end ---


async def test_it_leaves_nothing_behind():
    tasks_before, files_before = tasks(), open_files()
    async with running(listen=("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0/ws")) as server:
        async with running() as client:
            await client.dial(None, [server.addrs[0]])
            held = await client.open_stream(server.identity.peer_id, [ECHO])
            await held.send_all(b"x" * 100_000)
        await settled(lambda: not server.registry.total)
        assert server.inbound_streams.negotiating == {}
    assert tasks() == tasks_before
    await settled(lambda: open_files() == files_before)


async def test_it_runs_once():
    swarm = new_swarm()
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        with pytest.raises(LocalProtocolError, match="runs once"):
            await swarm.run()
        await swarm.close()
    with pytest.raises(LocalProtocolError, match="runs once"):
        await swarm.run()
    await swarm.close()


async def test_who_closes_it_is_not_left_waiting_when_its_end_fails(monkeypatch):
    async def fail() -> None:
        raise RuntimeError("can't start new thread")

    swarm = new_swarm()
    closed = False
    with raises_leaf(RuntimeError):
        async with trio.open_nursery() as nursery:
            await nursery.start(swarm.run)
            monkeypatch.setattr(swarm.listeners, "aclose", fail)
            with trio.CancelScope(shield=True):
                await swarm.close()
            closed = True
    assert closed
    with pytest.raises(LocalProtocolError, match="runs once"):
        await swarm.run()


async def test_closing_what_never_ran_and_closing_from_many_tasks():
    await new_swarm().close()
    swarm = new_swarm()
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        for _ in range(5):
            nursery.start_soon(swarm.close)


@pytest.mark.parametrize(
    ("listen", "error", "text"),
    [
        ("/ip4/192.0.2.1/tcp/0", ListenError, "no such address"),
        ("/ip4/127.0.0.1/udp/0/quic-v1", ListenError, "no transport listens on"),
        ("127.0.0.1:80", AddressError, "/ip4/127.0.0.1/tcp/80"),
    ],
)
async def test_bad_listen_addresses_end_it_at_once(listen, error, text):
    before = open_files()
    swarm = new_swarm(listen=("/ip4/127.0.0.1/tcp/0", listen))
    with raises_leaf(error, match=text):
        async with trio.open_nursery() as nursery:
            await nursery.start(swarm.run)
    await settled(lambda: open_files() == before)


@pytest.mark.only_over("tcp", "it is about TCP's ports")
async def test_a_port_of_another_program():
    program = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
    program += "print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with raises_leaf(ListenError, match="in use by another program"):
            async with running(listen=(f"/ip4/127.0.0.1/tcp/{port}",)):
                pass
        other.stdin.close()


@pytest.mark.only_over("tcp", "over UDP a killed peer says nothing at all")
async def test_a_peer_that_is_killed_has_not_said_good_bye():
    async with running(listen=("/ip4/127.0.0.1/tcp/0",)) as swarm:
        program = (
            "import sys, trio\n"
            "from lattica import Node, NodeConfig\n"
            "from lattica.nat.config import SwarmConfig\n"
            "async def main():\n"
            "    async with Node(NodeConfig(swarm=SwarmConfig(listen=()))) as node:\n"
            "        await node.connect(sys.argv[1])\n"
            "        await trio.to_thread.run_sync(sys.stdin.read)\n"
            "trio.run(main)\n"
        )
        addr = str(with_peer(swarm.addrs[0], swarm.identity.peer_id))
        for is_killed in (True, False):
            with swarm.events.subscribe() as events:
                with subprocess.Popen(
                    [sys.executable, "-c", program, addr], stdin=subprocess.PIPE
                ) as peer:
                    assert isinstance(await anext(events), PeerConnected)
                    if is_killed:
                        peer.kill()
                    else:
                        assert peer.stdin is not None
                        peer.stdin.close()
                    ended = await anext(events)
                assert isinstance(ended, PeerDisconnected)
                assert ("without a good-bye" in ended.reason) is is_killed
                assert (ended.reason == "closed by the peer") is not is_killed


async def test_an_occupied_port_and_a_restart_on_the_same_one():
    async with running() as client:
        async with running() as first:
            listen = (str(first.addrs[0]),)
            await client.dial(None, first.addrs)
            with raises_leaf(ListenError, match="in use by this program itself"):
                async with running(listen=listen):
                    pass
            assert await ask_echo(client, first.identity.peer_id) == b"hello"
        await settled(lambda: not client.registry.total)
        async with running(first.identity, listen=listen) as second:
            await client.dial(first.identity.peer_id, [Multiaddr(listen[0])])
            assert await ask_echo(client, second.identity.peer_id) == b"hello"


async def test_a_listen_address_added_later():
    async with running(listen=()) as server, running() as client:
        assert not server.addrs
        with server.events.subscribe() as events:
            (bound,) = await server.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
            assert await anext(events) == ListeningOn(bound)
        assert server.addrs == (bound,)
        await client.dial(server.identity.peer_id, [bound])


# --- the end is bounded ---


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_the_end_waits_for_no_peer_that_does_not_answer(mock_clock):
    """Its socket is full, so that not even the goodbye can be sent."""
    timeouts = Timeouts(shutdown=3, keep_alive_timeout=1000, keep_alive_interval=999)
    before = tasks()
    async with running(timeouts=timeouts) as peer, proxied(peer.addrs[0]) as proxy:
        swarm, done = new_swarm(timeouts=timeouts), trio.Event()
        async with trio.open_nursery() as nursery:

            async def run():
                await swarm.run()
                done.set()

            async def send(stream):
                with suppress(ConnectionClosedError):
                    await stream.send_all(bytes(100_000_000))

            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            await swarm.dial(None, [proxy.addr])
            stream = await swarm.open_stream(peer.identity.peer_id, [ECHO])
            proxy.freeze()
            (connection,) = swarm.registry
            connection.session.streams[stream.id].send_credit = 100_000_000
            nursery.start_soon(send, stream)
            half_open = await TcpTransport().dial(swarm.addrs[0])
            await wait_all_tasks_blocked(0.05)
            nursery.start_soon(swarm.close)
            await wait_all_tasks_blocked(0.01)
            assert not done.is_set()
            mock_clock.jump(3.01)
            await settled(done.is_set)
        assert not await half_open.receive()
        half_open.abort()
        proxy.thaw()
    assert tasks() == before


async def test_cancelling_it_ends_everything_at_once():
    before = tasks()
    async with running() as peer:
        swarm = new_swarm()
        async with trio.open_nursery() as nursery:
            await nursery.start(swarm.run)
            await swarm.dial(None, peer.addrs)
            stream = await swarm.open_stream(peer.identity.peer_id, [ECHO])
            nursery.cancel_scope.cancel()
        with pytest.raises(ConnectionClosedError, match="closed by this side"):
            await stream.receive_some()
        await settled(lambda: not peer.registry.total)
        assert swarm.addrs == () or tasks() > before
    assert tasks() == before


async def test_what_was_sent_before_the_end_arrives():
    received = trio.Event()

    async def collect(stream):
        assert await stream.receive_exactly(300_000) == bytes(300_000)
        assert await stream.receive_some() == b""
        received.set()

    async with running() as server:
        server.protocols.handle("/test/collect/1", collect)
        async with running() as client:
            await client.dial(None, server.addrs)
            stream = await client.open_stream(server.identity.peer_id, ["/test/collect/1"])
            await stream.send_all(bytes(300_000))
            await stream.aclose()
            # Whether the window allowed all of it at once is the peer's affair.
            await settled(lambda: not stream._core.send_pending)
        await received.wait()


async def test_the_peers_are_told_of_the_end():
    async with running() as peer:
        with peer.events.subscribe() as events:
            async with running() as swarm:
                await swarm.dial(None, peer.addrs)
                assert isinstance(await anext(events), PeerConnected)
            assert await anext(events) == PeerDisconnected(
                swarm.identity.peer_id, "closed by the peer"
            )


# --- what it tells of ---


@pytest.mark.only_over("tcp", "a UDP socket does not know its own address")
async def test_events():
    async with running() as server, running(listen=()) as client:
        with server.events.subscribe() as events, client.events.subscribe() as others:
            connection = await client.dial(None, server.addrs)
            await client.dial(None, server.addrs)
            await client.disconnect(server.identity.peer_id)
            peer_id = server.identity.peer_id
            assert [await anext(others) for _ in range(2)] == [
                PeerConnected(peer_id, server.addrs[0], Direction.OUTBOUND, connection.path),
                PeerDisconnected(peer_id, "closed by this side"),
            ]
            assert await anext(events) == PeerConnected(
                client.identity.peer_id, connection.local_addr, Direction.INBOUND, connection.path
            )
            assert await anext(events) == PeerDisconnected(
                client.identity.peer_id, "closed by the peer"
            )
            await client.close()
            assert [event async for event in others] == []


async def test_hooks_run_in_the_background_and_may_fail(caplog):
    calls = []

    async def good(connection):
        calls.append(connection.peer_id)

    async def bad(connection):
        raise ValueError("a defect in a hook")

    async with running() as server, running() as client:
        server.on_connected += [bad, good]
        server.on_disconnected += [bad, good]
        await client.dial(None, server.addrs)
        await settled(lambda: len(calls) == 1)
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        await client.disconnect(server.identity.peer_id)
        await settled(lambda: len(calls) == 2)
        assert caplog.text.count("background work failed") == 2


async def test_waiting_for_a_connection():
    async with running() as server, running() as client, running() as other:
        peer_id, seen = client.identity.peer_id, []
        async with trio.open_nursery() as nursery:

            async def wait():
                seen.append(await server.wait_connected(peer_id))

            nursery.start_soon(wait)
            await other.dial(None, server.addrs)
            await server.wait_connected(other.identity.peer_id)
            assert seen == []
            await client.dial(None, server.addrs)
        assert [connection.peer_id for connection in seen] == [peer_id]
        assert await server.wait_connected(peer_id) is seen[0]


async def test_that_wait_ends_with_the_swarm():
    async with trio.open_nursery() as nursery:
        swarm = new_swarm()

        async def wait():
            with pytest.raises(LocalProtocolError, match="not running"):
                await swarm.wait_connected(Identity.generate().peer_id)

        await nursery.start(swarm.run)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await swarm.close()


# --- disconnect ---


async def test_disconnect():
    async with running() as server, running() as client:
        peer_id = server.identity.peer_id
        await client.disconnect(peer_id)
        for _ in range(3):
            await client.dial(None, server.addrs)
        await client.disconnect(peer_id)
        assert client.registry.total == 0
        with pytest.raises(NotConnectedError):
            await client.open_stream(peer_id, [ECHO])
        await settled(lambda: not server.registry.total)


async def test_disconnecting_one_that_keeps_coming_back():
    async with running() as server, running() as client, trio.open_nursery() as nursery:
        peer_id = server.identity.peer_id

        async def come_back():
            while True:
                connection = await client.dial(peer_id, server.addrs)
                await connection.closed.wait()

        nursery.start_soon(come_back)
        await server.wait_connected(client.identity.peer_id)
        for _ in range(10):
            await server.disconnect(client.identity.peer_id)
            await server.wait_connected(client.identity.peer_id)
        nursery.cancel_scope.cancel()


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_disconnecting_one_that_does_not_answer(mock_clock):
    async with running() as server, running() as client, proxied(server.addrs[0]) as proxy:
        peer_id = server.identity.peer_id
        await client.dial(peer_id, [proxy.addr])
        proxy.freeze()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.disconnect, peer_id)
            await wait_all_tasks_blocked(0.01)
            await advance(mock_clock, 4)
        assert client.registry.total == 0


# --- peers that vanish ---


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_a_peer_that_vanishes_is_noticed_on_both_sides(mock_clock):
    """As if a cable were pulled: no packet arrives, nobody is told."""
    async with running() as server, running() as client, proxied(server.addrs[0]) as proxy:
        await client.dial(None, [proxy.addr])
        await server.wait_connected(client.identity.peer_id)
        with client.events.subscribe() as events, server.events.subscribe() as others:
            stream = await client.open_stream(server.identity.peer_id, [ECHO])
            # As long as there is an answer to the pings, silence is allowed.
            await advance(mock_clock, 60)
            assert client.registry.total == server.registry.total == 1
            proxy.freeze()
            await advance(mock_clock, 4)
            assert client.registry.total == server.registry.total == 1
            await advance(mock_clock, 4)  # so within eight seconds
            assert client.registry.total == server.registry.total == 0
            for queue in (events, others):
                event = await anext(queue)
                assert isinstance(event, PeerDisconnected)
                assert re.search("has not answered for [67] s", event.reason)
        with pytest.raises(ConnectionClosedError, match="has not answered"):
            await stream.receive_some()


@pytest.mark.only_over("tcp", "the proxy is for TCP")
async def test_a_peer_that_only_talks_slowly_is_not_gone(mock_clock):
    async with running() as server, running() as client, proxied(server.addrs[0]) as proxy:
        await client.dial(None, [proxy.addr])
        for _ in range(5):
            proxy.freeze()
            await advance(mock_clock, 4.5)
            proxy.thaw()
            await wait_all_tasks_blocked(0.01)
        assert client.registry.total == server.registry.total == 1
        assert await ask_echo(client, server.identity.peer_id) == b"hello"


# --- pipes of others ---


async def test_adopting_pipes():
    async with running() as a, running() as b:
        here, there = raw_pipe()
        connections = []

        async def adopt(swarm, pipe, direction, peer_id):
            connections.append(await swarm.adopt(pipe, direction, peer_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(adopt, a, here, Direction.OUTBOUND, b.identity.peer_id)
            nursery.start_soon(adopt, b, there, Direction.INBOUND, None)
        assert await ask_echo(a, b.identity.peer_id, bytes(100_000)) == bytes(100_000)
        assert await ask_echo(b, a.identity.peer_id) == b"hello"


async def test_pipes_that_cannot_be_adopted_are_aborted(mock_clock):
    async with running() as a, running() as b:
        here, there = raw_pipe()

        async def be_adopted():
            with pytest.raises(ConnectionClosedError):
                await b.adopt(there, Direction.INBOUND, None)

        with raises_leaf(PeerMismatchError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(be_adopted)
                await a.adopt(here, Direction.OUTBOUND, a.identity.peer_id)
        assert here.aborted
        silent, _ = raw_pipe()
        async with trio.open_nursery() as nursery:

            async def adopt():
                with pytest.raises(ConnectionClosedError, match="took too long"):
                    await a.adopt(silent, Direction.INBOUND, None)

            nursery.start_soon(adopt)
            await wait_all_tasks_blocked()
            await advance(mock_clock, 11)
        assert silent.aborted
        assert a.registry.total == b.registry.total == 0


# --- listeners that fail ---


async def test_a_listener_that_fails_is_told_of_and_leaves_the_rest(caplog):
    caplog.set_level(logging.INFO, "lattica")
    async with running() as server, running() as client:
        (first,) = server.addrs
        (second,) = await server.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
        await server.listeners._all[0].aclose()
        await settled(lambda: "listener failed" in caplog.text)
        assert str(to_endpoint(first).port) in caplog.text
        await client.dial(server.identity.peer_id, [second])
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
