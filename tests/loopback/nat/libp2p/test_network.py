"""py-libp2p on our swarm, and our nodes among py-libp2p's own hosts."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.abc import INotifee
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import PingService
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamReset
from libp2p.peer.id import ID
from multiaddr.multiaddr import Multiaddr

from lattica.errors import AddressError, LocalProtocolError, StreamResetError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.config import Limits
from lattica.nat.libp2p.border import libp2p_addr, libp2p_id, our_addr, our_id
from lattica.nat.libp2p.network import Host, NetworkService, make_host
from lattica.nat.services.identify.messages import IDENTIFY
from lattica.nat.services.ping import PING
from lattica.nat.services.standard import serve_standard
from lattica.nat.swarm.swarm import Swarm
from lattica.node import Node
from tests.support.nets.nets import ECHO, ask_echo, echo, node_config, settled, swarm_config, tasks
from tests.support.nets.stock import call_echo, info, stock_host
from tests.support.nets.stock import echo as py_echo

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
            await node.wait_connected(our_id(peer_id))

        # Both know each other by identify: program, protocols, addresses, key.
        await settled(lambda: node.peers()[0].agent)
        assert "py-libp2p" in node.peers()[0].agent
        for host, other in ((ours, stock), (stock, ours)):
            store, other_id = host.get_peerstore(), other.get_id()
            with trio.fail_after(60):
                while PY_ECHO not in store.get_protocols(other_id):
                    await trio.sleep(0.01)
            known = {split_peer(our_addr(addr))[0] for addr in store.addrs(other_id)}
            assert {split_peer(our_addr(addr))[0] for addr in other.get_addrs()} <= known
            assert store.pubkey(other_id) == other.get_public_key()

        # Streams both ways, by py-libp2p's API on both, and by ours.
        words = bytes(range(256)) * 1000
        assert await call_echo(stock, ours.get_id(), PY_ECHO, words) == words
        assert await call_echo(stock, ours.get_id(), ECHO, words) == words
        assert await call_echo(ours, peer_id, PY_ECHO, words) == words
        assert await ask_echo(node, our_id(peer_id), words, PY_ECHO) == words

        for host, other_id in ((ours, peer_id), (stock, ours.get_id())):
            times = await PingService(host).ping(other_id, 3)
            assert len(times) == 3

        with pytest.raises(StreamFailure):
            await stock.new_stream(ours.get_id(), [TProtocol("/test/unknown/1")])
        await node.disconnect(our_id(peer_id))
        with trio.fail_after(60):
            while ours.get_id() in stock.get_connected_peers():
                await trio.sleep(0.01)


async def test_a_failing_py_handler_costs_its_stream_only(caplog):
    """With py-libp2p's own swarm it would end the whole host."""
    async with stock_host() as stock, node_with_echo() as node:

        async def fail(stream):
            with suppress(StreamEOF):
                await stream.read()
            raise RuntimeError("a defect in a py-libp2p handler")

        async def escape(stream):
            await stream.read()  # until StreamEOF escapes

        node.host.set_stream_handler(TProtocol("/test/fail/1"), fail)
        node.host.set_stream_handler(TProtocol("/test/escape/1"), escape)
        await stock.connect(info(node.host))
        lasting = await stock.new_stream(node.host.get_id(), [PY_ECHO])
        for name in ("/test/fail/1", "/test/escape/1"):
            stream = await stock.new_stream(node.host.get_id(), [TProtocol(name)])
            await stream.close_write()
            with pytest.raises((StreamReset, StreamEOF)):
                await stream.read()
        await settled(lambda: "a defect in a py-libp2p handler" in caplog.text)
        await lasting.write(b"still here")
        assert await lasting.read(10) == b"still here"
        await lasting.close()


# --- BasicHost as py-libp2p runs it ---


def bare_host(**changes: Any) -> Host:
    swarm = Swarm(Identity.generate(), swarm_config(listen=(), **changes))
    return make_host(swarm, serve_standard(swarm))


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
            await b.new_stream(ID(Identity.generate().peer_id.to_bytes()), [PY_ECHO])
        await a.close()
    assert tasks() == before


async def test_the_manager_is_that_of_py_libp2p():
    host = bare_host()
    network = host.get_network()
    assert isinstance(network, NetworkService)
    with pytest.raises(AttributeError):
        network.get_manager()


# --- connections for py-libp2p ---


class Listener(INotifee):
    """Writes down what it is told."""

    def __init__(self, fails: bool = False) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._fails = fails

    async def _note(self, what: str, of: Any) -> None:
        self.calls.append((what, of))
        if self._fails:
            raise ValueError("a defect in a notifee")

    async def connected(self, network, conn):
        await self._note("connected", conn)

    async def disconnected(self, network, conn):
        await self._note("disconnected", conn)

    async def opened_stream(self, network, stream):
        await self._note("opened", stream)

    async def closed_stream(self, network, stream):
        await self._note("closed", stream)

    async def listen(self, network, multiaddr):
        await self._note("listen", multiaddr)

    async def listen_close(self, network, multiaddr):
        await self._note("listen_close", multiaddr)


async def test_notifees(caplog):
    async with node_with_echo() as a, node_with_echo() as b:
        network, failing, good, gone = network_of(a), Listener(fails=True), Listener(), Listener()
        for notifee in (failing, good, gone):
            network.register_notifee(notifee)
        network.remove_notifee(gone)
        network.remove_notifee(gone)
        await b.connect(a.addrs[0])
        await settled(lambda: len(good.calls) == 1)
        conn = network.get_connection(libp2p_id(b.peer_id))
        assert good.calls == [("connected", conn)]
        await network.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
        assert good.calls[1] == ("listen", libp2p_addr(a.swarm.addrs[-1]))
        await b.disconnect(a.peer_id)
        await settled(lambda: len(good.calls) == 3)
        assert good.calls[2] == ("disconnected", conn)
        assert len(failing.calls) == 3
        assert gone.calls == []
        assert caplog.text.count("a defect in a notifee") >= 3


async def test_what_the_network_says_of_its_connections():
    async with two_nodes() as (a, b):
        network = network_of(a)
        conn = network.get_connection(libp2p_id(b.peer_id))
        assert conn is not None
        a_id, b_id = libp2p_id(a.peer_id), libp2p_id(b.peer_id)
        assert network.get_connections() == network.get_connections(b_id) == [conn]
        assert network.connections == network.get_connections_map() == {b_id: [conn]}
        assert network.get_total_connections() == 1
        assert network.get_connections(a_id) == []
        assert network.get_connection(a_id) is None
        assert conn.muxed_conn.peer_id == libp2p_id(b.peer_id)
        assert conn.muxed_conn.is_initiator
        assert conn.muxed_conn.is_established
        assert not conn.is_closed
        assert conn.get_transport_addresses() == [libp2p_addr(b.swarm.addrs[0])]
        assert await network.dial_peer(b_id) == [conn]

        info_ = network.get_conn_mgr_info()
        assert (info_.high_watermark, info_.connected_count) == (4096, 1)
        assert network.get_metrics()["peers"] == 1
        (health,) = network.get_peer_health_summary(b_id).values()
        assert health["streams"] == len(conn.get_streams())
        assert json.loads(network.export_health_metrics())["connections"] == 1
        assert (await network.get_health_monitor_status())["enabled"]
        with pytest.raises(ValueError, match="json"):
            network.export_health_metrics("prometheus")

        network.tag_peer(b_id, "useful", 7)
        network.protect(b_id, "friend")
        assert network.is_protected(b_id)
        assert a.swarm.registry.tags.value(b.peer_id) == 7
        assert a.swarm.registry.tags.is_protected(b.peer_id)
        network.unprotect(b_id, "friend")
        network.untag_peer(b_id, "useful")
        assert not network.is_protected(b_id)

        await conn.close()
        assert (conn.is_closed, conn.muxed_conn.is_closed) == (True, True)
        await settled(lambda: not network.connections)


async def test_dials_that_fail_are_swarm_exceptions():
    async with node_with_echo() as node:
        network, stranger = network_of(node), libp2p_id(Identity.generate().peer_id)
        with pytest.raises(SwarmException, match="no address known"):
            await network.dial_peer(stranger)
        with pytest.raises(SwarmException):
            await network.new_stream(stranger)
        with pytest.raises(SwarmException, match="ECONNREFUSED"):
            await network.dial_addr(Multiaddr("/ip4/127.0.0.1/tcp/1"), stranger)
        await network.close_peer(stranger)


# --- streams for py-libp2p ---


async def test_streams_as_py_libp2p_sees_them():
    async with two_nodes() as (a, b):
        stream: Any = await a.host.new_stream(libp2p_id(b.peer_id), [PY_ECHO])
        assert stream.get_protocol() == PY_ECHO
        addr = b.swarm.addrs[0]
        assert stream.get_remote_address() == ("127.0.0.1", int(str(addr).split("/")[-1]))
        assert await stream.read(0) == b""
        # Writers take turns; py-libp2p's protocols do not coordinate them.
        async with trio.open_nursery() as nursery:
            for letter in (b"a", b"b", b"c"):
                nursery.start_soon(stream.write, letter * 300_000)
            received = bytearray()
            while len(received) < 900_000:
                received += await stream.read()
        runs = [bytes(received[i : i + 300_000]) for i in range(0, 900_000, 300_000)]
        assert sorted(runs) == [letter * 300_000 for letter in (b"a", b"b", b"c")]
        await stream.close_write()
        with pytest.raises(StreamEOF):
            await stream.read(1)
        with pytest.raises(StreamClosed):
            await stream.write(b"x")
        await stream.close()

        reset: Any = await a.host.new_stream(libp2p_id(b.peer_id), [PY_ECHO])
        await reset.reset()
        with pytest.raises(StreamReset):
            await reset.read(1)
        with pytest.raises(StreamReset):
            await reset.write(b"x")


async def test_a_py_handler_whose_peer_leaves_is_no_news(caplog):
    caplog.set_level(logging.INFO)
    async with two_nodes() as (a, b):
        ended = trio.Event()

        async def wait(stream):
            try:
                await stream.read()
            finally:
                ended.set()

        b.host.set_stream_handler(TProtocol("/test/wait/1"), wait)
        for leave in ("reset", "close_write", "disconnect"):
            caplog.clear()
            ended = trio.Event()
            stream: Any = await a.host.new_stream(libp2p_id(b.peer_id), [TProtocol("/test/wait/1")])
            if leave == "disconnect":
                await a.disconnect(b.peer_id)
            else:
                await getattr(stream, leave)()
            await ended.wait()
            if leave == "disconnect":
                await settled(lambda: not b.swarm.registry.total)
            assert [r.getMessage() for r in caplog.records if r.levelno > logging.INFO] == []


async def test_handlers_are_one_table():
    async with two_nodes() as (a, b):
        mux = b.host.get_mux()
        assert {ECHO, PY_ECHO, IDENTIFY} <= set(mux.get_protocols())
        assert mux.handlers[PY_ECHO] is py_echo
        assert mux.handlers[TProtocol(ECHO)] is None  # it takes our streams, not py-libp2p's
        assert TProtocol("/test/unknown/1") not in mux.handlers
        assert len(mux.handlers) == len(list(mux.handlers))
        with pytest.raises(ValueError, match="name"):
            mux.add_handler(None, py_echo)
        assert await call_echo(a.host, libp2p_id(b.peer_id), PY_ECHO, b"x") == b"x"
        b.host.remove_stream_handler(PY_ECHO)
        assert PY_ECHO not in mux.get_protocols()
        with pytest.raises(StreamFailure):
            await a.host.new_stream(libp2p_id(b.peer_id), [PY_ECHO])
        # What one side registers, the other removes.
        b.unhandle(ECHO)
        assert ECHO not in mux.get_protocols()
        b.host.set_stream_handler(TProtocol(ECHO), py_echo)
        assert await call_echo(a.host, libp2p_id(b.peer_id), ECHO, b"y") == b"y"


async def test_a_handler_that_is_refused_is_not_shown():
    async with node_with_echo() as node:
        ping = TProtocol(PING)
        with pytest.raises(LocalProtocolError, match="replace=True"):
            node.host.set_stream_handler(ping, py_echo)
        assert node.host.get_mux().handlers[ping] is None


async def test_a_node_takes_what_the_host_hands_out_as_text_only():
    async with two_nodes() as (a, b):
        peer: Any = libp2p_id(b.peer_id)
        addr: Any = b.host.get_addrs()[0]
        for call in (a.is_connected, a.path):
            with pytest.raises(AddressError, match=r"libp2p\.peer\.id\.ID.*str\(peer\)"):
                call(peer)
        with pytest.raises(AddressError, match=r"str\(peer\)"):
            await a.disconnect(peer)
        for target in (peer, addr, [addr]):
            with pytest.raises(AddressError, match=r"libp2p|multiaddr\.Multiaddr"):
                await a.connect(target)
        assert a.is_connected(str(peer))
        await a.disconnect(str(peer))
        assert not a.is_connected(str(peer))
        assert await a.connect(str(addr)) == b.peer_id


# --- pipes of py-libp2p ---


async def pipes() -> tuple[RawConnection, RawConnection, list[trio.SocketStream]]:
    """A TCP connection, as py-libp2p's transport wraps both its ends."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    dialed = await trio.testing.open_stream_to_socket_listener(listener)
    accepted = await listener.accept()
    await listener.aclose()
    streams = [dialed, accepted]
    return (
        RawConnection(TrioTCPStream(dialed), True),
        RawConnection(TrioTCPStream(accepted), False),
        streams,
    )


async def test_upgrading_pipes_of_py_libp2p():
    async with node_with_echo() as a, node_with_echo() as b:
        near, far, streams = await pipes()
        found: list[Any] = []

        async def accept():
            maddr = Multiaddr("/ip4/127.0.0.1/tcp/1")
            found.append(await b.host.upgrade_inbound_connection(far, maddr))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            conn = await a.host.upgrade_outbound_connection(near, libp2p_id(b.peer_id))
        assert conn.muxed_conn.peer_id == libp2p_id(b.peer_id)
        assert found[0].peer_id == libp2p_id(a.peer_id)
        for one, other in ((a, b), (b, a)):
            words = bytes(200_000)
            assert await ask_echo(one, other.peer_id, words) == words
        await settled(lambda: a.peers()[0].agent and b.peers()[0].agent)
        await a.disconnect(b.peer_id)
        await settled(lambda: not b.peers())
        await settled(lambda: all(stream.socket.fileno() == -1 for stream in streams))


@pytest.mark.parametrize("reason", ["wrong peer", "refused"])
async def test_pipes_that_cannot_be_upgraded_are_closed(reason):
    limits = Limits(max_connections_per_peer=1)
    async with node_with_echo(limits=limits) as a, node_with_echo() as b:
        expected = b.peer_id if reason == "refused" else Identity.generate().peer_id
        if reason == "refused":
            await a.connect(b.addrs[0])
        near, far, streams = await pipes()

        async def accept():
            with suppress(SwarmException):
                await b.host.upgrade_inbound_connection(far, Multiaddr("/ip4/127.0.0.1/tcp/1"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            with pytest.raises(SwarmException, match=r"expected peer|too many"):
                await a.host.upgrade_outbound_connection(near, libp2p_id(expected))
        await settled(lambda: all(stream.socket.fileno() == -1 for stream in streams))
        assert a.swarm.registry.total == (reason == "refused")


async def test_a_pipe_that_breaks_ends_its_connection():
    async with node_with_echo() as a, node_with_echo() as b:
        near, far, streams = await pipes()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                b.host.upgrade_inbound_connection, far, Multiaddr("/ip4/127.0.0.1/tcp/1")
            )
            await a.host.upgrade_outbound_connection(near, libp2p_id(b.peer_id))
        stream = await a.open_stream(b.peer_id, ECHO)
        await streams[1].aclose()
        await settled(lambda: not a.peers() and not b.peers())
        with pytest.raises((StreamResetError, OSError)):
            await stream.receive_some()
