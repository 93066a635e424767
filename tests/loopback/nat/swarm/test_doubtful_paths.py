"""Dialing peers some of whose addresses connected before and carried nothing."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from lattica.errors import DialError
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.delivery import Delivery
from lattica.nat.swarm.yamux_connection import YamuxConnection
from lattica.nat.transport.tcp import TcpConn
from lattica.nat.transport.tcp_info import delivery
from tests.support.nets.nets import ask_echo, mute_listener, running, settled

TCP, QUIC = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1/noise"


def kinds(addrs: tuple[Multiaddr, ...]) -> tuple[Multiaddr, Multiaddr]:
    """The TCP and the QUIC address."""
    (tcp,) = (addr for addr in addrs if "tcp" in str(addr))
    (quic,) = (addr for addr in addrs if "udp" in str(addr))
    return tcp, quic


async def test_an_address_that_carried_nothing_is_dialed_last():
    async with running(listen=(TCP, QUIC)) as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        tcp, quic = kinds(server.addrs)
        assert (await client.connect(peer_id, [quic, tcp])).path == "direct-tcp"
        await client.disconnect(peer_id)
        client.doubtful.add(peer_id, tcp, "the test says so")
        connection = await client.connect(peer_id, [tcp, quic])
        assert connection.path == "direct-quic"
        await client.disconnect(peer_id)
        client.doubtful.clear()  # as when the network is another one
        assert (await client.connect(peer_id, [tcp, quic])).path == "direct-tcp"


@pytest.mark.skipif(not hasattr(socket, "TCP_MAXSEG"), reason="the system has no such option")
async def test_the_only_address_is_used_all_the_same_with_small_segments():
    async with running(listen=(TCP,)) as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        (tcp,) = server.addrs
        client.doubtful.add(peer_id, tcp, "the test says so")
        connection = await client.connect(peer_id, [tcp])
        assert await ask_echo(client, peer_id) == b"hello"
        assert isinstance(connection, YamuxConnection)
        raw = connection._raw
        assert isinstance(raw, TcpConn)
        sock = raw._sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1160


async def test_others_that_do_not_answer_hold_it_up_for_a_while_only(mock_clock):
    async with running(listen=(TCP,)) as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        (tcp,) = server.addrs
        client.doubtful.add(peer_id, Multiaddr("/ip4/127.0.0.1/tcp/1"), "the test says so")
        mock_clock.rate = 20
        with mute_listener() as mute:
            elsewhere = Multiaddr(str(mute).replace("127.0.0.1", "127.0.0.2"))
            assert client.doubtful.get(peer_id, elsewhere) is None
            connection = await client.connect(peer_id, [elsewhere, tcp])
        assert connection.remote_addr == tcp


async def test_hole_punching_leaves_it_alone():
    async with running(listen=(TCP,)) as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        (tcp,) = server.addrs
        client.doubtful.add(peer_id, tcp, "large packets are lost")
        with pytest.raises(DialError, match=r"carried nothing the last time \(large packets"):
            await client.dial_fresh(peer_id, tcp, unless_doubtful=True)
        await client.dial_fresh(peer_id, tcp)


async def test_a_path_that_carries_nothing_is_remembered_and_told(mock_clock, monkeypatch):
    async with running(listen=(TCP, QUIC)) as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        tcp, _ = kinds(server.addrs)
        client.address_book.add(peer_id, server.addrs, 3600.0)
        connection = await client.connect(peer_id, [tcp])
        stuck = Delivery(waiting=True, arrived=1)
        monkeypatch.setattr(YamuxConnection, "delivery", lambda self: stuck)
        mock_clock.rate = 20
        await connection.closed.wait()
        assert connection.stalled
        await settled(lambda: client.doubtful.of(peer_id))
        (doubt,) = client.doubtful.of(peer_id)
        assert doubt.addr == tcp
        assert (await client.connect(peer_id)).path == "direct-quic"


async def test_the_kernel_says_what_has_arrived():
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        with theirs:
            before = delivery(ours)
            if before is None:
                pytest.skip("this system does not tell")
            ours.sendall(bytes(1000))
            expected = before.arrived + 1000
            await settled(lambda: (now := delivery(ours)) and now.arrived == expected)
            # A reader that does not read is no path that does not carry.
            ours.setblocking(False)
            with suppress(BlockingIOError):
                while ours.send(bytes(1 << 20)):
                    pass
            full = delivery(ours)
            assert full is not None
            assert not full.waiting
