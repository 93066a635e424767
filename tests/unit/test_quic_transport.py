"""QUIC under the swarm, on real sockets: sharing a port, floods, moves, and hostile packets."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Sized
from functools import partial

import pytest
import trio
from multiaddr.multiaddr import Multiaddr

from lattica.errors import DialError, ListenError, LocalProtocolError
from lattica.identity import Identity, PeerId
from lattica.nat.addresses import parse_multiaddr, to_endpoint, with_peer
from lattica.nat.config import Limits, Timeouts
from lattica.nat.quic_connection import QuicConnection
from lattica.nat.quic_endpoint import QuicEndpoint
from lattica.nat.quic_retry import AdmissionControl, AdmissionLimits
from lattica.nat.quic_transport import QuicTransport
from lattica.nat.swarm import Swarm
from tests.nets import ECHO, ask_echo, running, settled
from tests.udp_proxy import udp_proxied

QUIC = ("/ip4/127.0.0.1/udp/0/quic-v1/noise",)
BIG = random.Random(4).randbytes(3 << 20)


def nothing(streams: Sized) -> bool:
    return not streams


def quic_of(swarm: Swarm) -> QuicTransport:
    (found,) = [t for t in swarm._transports if isinstance(t, QuicTransport)]
    return found


def endpoint_of(swarm: Swarm) -> QuicEndpoint:
    return quic_of(swarm)._endpoints[0]


def connection_of(swarm: Swarm, other: Swarm) -> QuicConnection:
    connection = swarm.registry.best(other.identity.peer_id)
    assert isinstance(connection, QuicConnection)
    return connection


async def echo_all(swarm: Swarm, peer_id: PeerId, data: bytes) -> bytes:
    """As :func:`ask_echo`, for more than the windows hold: reads while it sends."""
    received = bytearray()
    async with await swarm.open_stream(peer_id, [ECHO]) as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(send)
        while part := await stream.receive_some():
            received += part
    return bytes(received)


async def test_streams_over_quic():
    async with running(listen=QUIC) as server, running(listen=QUIC) as client:
        connection = await client.dial(server.identity.peer_id, server.addrs)
        assert isinstance(connection, QuicConnection)
        assert str(connection.remote_addr) == str(server.addrs[0])
        assert await echo_all(client, server.identity.peer_id, BIG) == BIG
        # Back again, over the connection that the other side dialed.
        assert await echo_all(server, client.identity.peer_id, BIG) == BIG
        assert connection.session.rtt is not None
        await settled(lambda: not connection.stream_count)


async def test_dials_leave_from_the_listening_port():
    async with running(listen=QUIC) as server, running(listen=QUIC) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        await settled(lambda: server.registry.best(client.identity.peer_id))
        assert connection_of(server, client).remote_addr == client.addrs[0]
        assert len(quic_of(client)._endpoints) == 1


async def test_a_swarm_that_does_not_listen_dials_from_one_socket():
    async with (
        running(listen=QUIC) as one,
        running(listen=QUIC) as other,
        running(listen=()) as client,
    ):
        await client.dial(one.identity.peer_id, one.addrs)
        await client.dial(other.identity.peer_id, other.addrs)
        assert len(quic_of(client)._endpoints) == 1
        assert await ask_echo(client, one.identity.peer_id) == b"hello"
        assert await ask_echo(client, other.identity.peer_id) == b"hello"


async def test_ipv6():
    listen = ("/ip6/::1/udp/0/quic-v1/noise",)
    async with running(listen=listen) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        assert await echo_all(client, server.identity.peer_id, BIG) == BIG


async def test_quic_and_tcp_are_raced():
    both = ("/ip4/127.0.0.1/tcp/0", *QUIC)
    async with running(listen=both) as server, running() as client:
        # On loopback TCP comes first; a peer that it does not reach is reached by QUIC.
        connection = await client.dial(server.identity.peer_id, server.addrs)
        assert not isinstance(connection, QuicConnection)
    async with running(listen=both) as server, running() as client:
        dead = Multiaddr("/ip4/127.0.0.1/tcp/1")
        connection = await client.dial(server.identity.peer_id, [dead, server.addrs[1]])
        assert isinstance(connection, QuicConnection)


async def test_nobody_listens_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    async with running(listen=()) as client:
        with pytest.raises(DialError, match=r"[Rr]efused"), trio.fail_after(5):
            await client.dial(
                Identity.generate().peer_id,
                [Multiaddr(f"/ip4/127.0.0.1/udp/{port}/quic-v1/noise")],
            )


async def test_nobody_answers():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        addr = Multiaddr(f"/ip4/127.0.0.1/udp/{sock.getsockname()[1]}/quic-v1/noise")
        async with running(listen=(), timeouts=Timeouts(dial=0.3)) as client:
            with pytest.raises(DialError, match="timed out"):
                await client.dial(Identity.generate().peer_id, [addr])
            await settled(lambda: not quic_of(client)._endpoints[0]._links)


async def test_the_wrong_peer_is_refused():
    async with running(listen=QUIC) as server, running(listen=()) as client:
        stranger = Identity.generate().peer_id
        with pytest.raises(DialError, match=str(server.identity.peer_id)):
            await client.dial(stranger, server.addrs)
        await settled(lambda: not server.registry.total and not client.registry.total)


@pytest.mark.parametrize("key", [None, b"k" * 32])
async def test_private_networks_do_not_mix(key):
    async with (
        running(listen=QUIC, private_network_key=b"p" * 32) as server,
        running(listen=(), private_network_key=key) as client,
        running(listen=(), private_network_key=b"p" * 32) as friend,
    ):
        with pytest.raises(DialError):
            await client.dial(server.identity.peer_id, server.addrs)
        await friend.dial(server.identity.peer_id, server.addrs)
        assert await ask_echo(friend, server.identity.peer_id) == b"hello"
        assert server.registry.total == 1


async def test_an_occupied_port_is_explained():
    async with running(listen=QUIC) as server, running(listen=()) as other:
        with pytest.raises(ListenError, match="in use by another program"):
            await other.listen(server.listen_addrs[0])


async def test_both_ends_learn_of_the_end():
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        await settled(lambda: server.registry.total)
        there = connection_of(server, client)
        stream = await client.open_stream(server.identity.peer_id, [ECHO])
        await stream.send_all(BIG[:200_000])
        with trio.fail_after(5):
            await client.disconnect(server.identity.peer_id)
            await there.closed.wait()
        assert there.closed_reason == "closed by the peer"
        assert not endpoint_of(server)._links


async def test_a_peer_that_was_killed_is_noticed():
    quick = Timeouts(keep_alive_interval=0.2, keep_alive_timeout=0.6)
    async with (
        running(listen=QUIC, timeouts=quick) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=()) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        await settled(lambda: server.registry.total)
        there = connection_of(server, client)
        proxy.treat = lambda _: []  # nothing is heard of it any more
        with trio.fail_after(10):
            await there.closed.wait()
        assert there.closed_reason == "the peer has not answered for 1 s"


# --- the path changes ---


async def test_a_client_that_moves_keeps_its_streams():
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        connection = connection_of(client, server)
        peer_id = server.identity.peer_id
        await settled(lambda: server.registry.total)
        before = str(connection_of(server, client).remote_addr)
        async with await client.open_stream(peer_id, [ECHO]) as stream:
            received = bytearray()

            async def read() -> None:
                while data := await stream.receive_some():
                    received.extend(data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for part in range(0, len(BIG), 1 << 18):
                    await stream.send_all(BIG[part : part + (1 << 18)])
                    if part in (1 << 20, 2 << 20):
                        quic_of(client)._endpoints[0].rebind()
                await stream.send_eof()
        assert received == BIG
        assert connection_of(client, server) is connection
        await settled(lambda: str(connection_of(server, client).remote_addr) != before)


async def test_a_nat_that_forgets_its_mapping():
    async with (
        running(listen=QUIC) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=()) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        connection = connection_of(client, server)
        for _ in range(3):
            await proxy.rebind()
            assert await echo_all(client, server.identity.peer_id, BIG) == BIG
        assert connection_of(client, server) is connection


async def test_loss_reordering_duplication_and_damage():
    rng = random.Random(3)
    kept: list[bytes] = []

    def treat(datagram: bytes) -> list[bytes]:
        kind = rng.random()
        if kind < 0.02:
            return []
        if kind < 0.04:
            return [datagram, datagram]
        if kind < 0.06:
            kept.append(datagram)
            return []
        if kind < 0.08:
            position = rng.randrange(len(datagram))
            return [datagram[:position] + os.urandom(1) + datagram[position + 1 :]]
        late = [*kept]
        kept.clear()
        return [datagram, *late]

    async with (
        running(listen=QUIC) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=()) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        proxy.treat = treat
        assert await echo_all(client, server.identity.peer_id, BIG) == BIG


# --- strangers ---


async def test_garbage_and_replayed_packets_change_nothing(caplog):
    rng = random.Random(8)
    async with (
        running(listen=QUIC) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=()) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        assert await echo_all(client, server.identity.peer_id, BIG[:100_000])
        recorded = list(proxy.to_target)
        for datagram in recorded:
            proxy.inject(datagram)  # as it was
            proxy.inject(datagram[: rng.randrange(1, len(datagram) + 1)])
            proxy.inject(bytes([rng.randrange(256)]) + rng.randbytes(rng.randrange(1, 1400)))
        assert await echo_all(client, server.identity.peer_id, BIG) == BIG
        assert server.registry.total == 1
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def test_a_flood_of_first_packets_is_asked_for_proof():
    few = AdmissionLimits(retry_above=8, maximum=32)
    async with running(listen=QUIC) as server, running(listen=()) as client:
        transport = quic_of(server)
        endpoint_of(server)._admission = transport._admission = AdmissionControl(few)
        async with running(listen=()) as flooder:
            # Real first packets whose sender never answers: those of dials that go nowhere.
            hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            hole.bind(("127.0.0.1", 0))
            hole.setblocking(False)
            nowhere = Multiaddr(f"/ip4/127.0.0.1/udp/{hole.getsockname()[1]}/quic-v1/noise")
            where = to_endpoint(server.addrs[0])
            firsts = []
            for _ in range(20):
                link = await quic_of(flooder).dial(nowhere)
                await link.pump()
                first = hole.recv(2048)
                firsts.append(first)
                link.abort()
                hole.recv(2048)  # its farewell
            for first in firsts * 5:
                hole.sendto(first, (where.host, where.port))
            await settled(lambda: transport._admission.half_open >= few.retry_above)
            assert transport._admission.half_open <= few.maximum
            # Honest peers pay a round trip, and are served.
            await client.dial(server.identity.peer_id, server.addrs)
            assert await ask_echo(client, server.identity.peer_id) == b"hello"
            hole.close()


async def test_a_stranger_who_only_says_hello_is_dropped_in_time():
    quick = Timeouts(handshake=0.3)
    async with running(listen=QUIC, timeouts=quick) as server, running(listen=()) as client:
        link = await quic_of(client).dial(server.addrs[0])
        while not link.session._core.handshake_complete:
            await link.pump()
        await settled(lambda: server._pending_inbound)
        await settled(lambda: not server._pending_inbound)
        await settled(lambda: not endpoint_of(server)._links)
        assert quic_of(server)._admission.half_open == 0
        link.abort()


# --- what is not QUIC ---


async def test_probes_leave_and_arrive_by_the_same_socket():
    async with running(listen=QUIC) as one, running(listen=QUIC) as other:
        here, there = endpoint_of(one), endpoint_of(other)
        with there.foreign() as arrivals:
            here.send_probe(b"\x00punch", there.local)
            probe = await arrivals.receive()
            assert probe.data == b"\x00punch"
            assert probe.source[:2] == here.local
            for _ in range(200):
                here.send_probe(b"\x01flood", there.local)
            await trio.sleep(0.05)
            assert arrivals.statistics().current_buffer_used <= 64
        with pytest.raises(LocalProtocolError, match="first byte"):
            here.send_probe(b"\x40", there.local)
        here.send_probe(b"\x00nobody listens to this", there.local)
        await one.dial(other.identity.peer_id, other.addrs)
        assert await ask_echo(one, other.identity.peer_id) == b"hello"


async def test_a_punched_socket_is_adopted():
    punched = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    punched.bind(("127.0.0.1", 0))
    port = punched.getsockname()[1]
    async with running(listen=QUIC) as server, running(listen=()) as client:
        endpoint = quic_of(client).adopt(punched)
        await client.dial(server.identity.peer_id, server.addrs)
        assert endpoint.local == ("127.0.0.1", port)
        await settled(lambda: server.registry.total)
        assert to_endpoint(connection_of(server, client).remote_addr).port == port


# --- many ---


async def test_ten_thousand_streams_one_after_the_other():
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        for _ in range(100):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(ask_echo, client, server.identity.peer_id)
        for swarm, other in ((client, server), (server, client)):
            session = connection_of(swarm, other).session
            await settled(partial(nothing, session.streams))


async def test_more_streams_than_the_budget():
    few = Limits(max_streams_per_connection=10)
    async with running(listen=QUIC, limits=few) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        streams = []
        for _ in range(30):
            stream = connection_of(client, server).open_stream()
            await stream.send_all(b"\x13/multistream/1.0.0\n")
            streams.append(stream)
        await settled(lambda: sum(stream.is_dead for stream in streams) >= 20)
        refused = sum(stream.is_dead for stream in streams)
        assert 20 <= refused < 30
        assert connection_of(server, client).stream_count <= 10


def test_other_programs_can_read_the_address():
    """The form uses registered protocols only; nobody fails on it, and nobody else dials it."""
    addr = with_peer(parse_multiaddr(QUIC[0]), Identity.generate().peer_id)
    assert Multiaddr(addr.to_bytes()) == addr
    assert [protocol.name for protocol in addr.protocols()] == [
        "ip4", "udp", "quic-v1", "noise", "p2p",
    ]  # fmt: skip
