"""QUIC under the swarm, on real sockets: sharing a port, floods, moves, and hostile packets."""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Sized
from contextlib import suppress
from functools import partial

import pytest
import trio
from multiaddr.multiaddr import Multiaddr as TheirMultiaddr

from lattica.errors import (
    ConnectionClosedError,
    DialError,
    LatticaError,
    ListenError,
    LocalProtocolError,
    StreamResetError,
)
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import parse_multiaddr, to_endpoint, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules, Limits, QuicConfig, Timeouts
from lattica.nat.mux import connection as mux_connection
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream import Stream
from lattica.nat.quic.admission import AdmissionControl, AdmissionLimits
from lattica.nat.quic.connection import QuicConnection
from lattica.nat.quic.endpoint import QuicEndpoint
from lattica.nat.quic.fec.codec import MAX_GROUPS, MAX_HELD, is_fec
from lattica.nat.quic.fec.policy import FecPolicy
from lattica.nat.quic.fec.socket import FecSocket
from lattica.nat.quic.first_packet import NewClient
from lattica.nat.quic.link import QuicLink
from lattica.nat.quic.transport import QuicTransport
from lattica.nat.swarm.swarm import Swarm
from tests.support.nets.nets import (
    ECHO,
    LISTEN_ON,
    ask_echo,
    open_files,
    running,
    settled,
    swarm_config,
)
from tests.support.nets.udp_proxy import udp_proxied

QUIC = ("/ip4/127.0.0.1/udp/0/quic-v1/noise",)
BIG = random.Random(4).randbytes(3 << 20)
LESS = BIG[: 1 << 20]
PATIENT = Timeouts(keep_alive_timeout=1000, delivery=1000)
"""For what takes as long as the machine is busy: nobody is let go for being slow."""


def nothing(streams: Sized) -> bool:
    return not streams


def quic_of(swarm: Swarm) -> QuicTransport:
    (found,) = [t for t in swarm._transports if isinstance(t, QuicTransport)]
    return found


def endpoint_of(swarm: Swarm) -> QuicEndpoint:
    return next(iter(quic_of(swarm)._endpoints))


def fec_of(swarm: Swarm) -> FecSocket:
    return quic_of(swarm)._endpoints[endpoint_of(swarm)]


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
    async with running(listen=both) as server, running(dial_stagger=60) as client:
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
        with pytest.raises(DialError, match=r"[Rr]efused"), trio.fail_after(60):
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
            await settled(lambda: not endpoint_of(client)._links)


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


async def test_a_connection_taken_for_dead_says_no_goodbye(monkeypatch):
    """Its other end has lost what was under way, and may dial again at once."""
    monkeypatch.setattr(mux_connection, "_LASTING", 0.0)
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        stream = await client.open_stream(server.identity.peer_id, [ECHO])
        await stream.send_all(b"hello")
        await stream.receive_exactly(5)
        there = connection_of(server, client)
        there.stalled = True
        there.abort("the peer has not answered for 13 s")
        here = stream.connection
        with trio.fail_after(60):
            await here.closed.wait()
        assert here.closed_reason == "the path was taken for dead by the peer"
        assert here.interrupted


async def test_an_occupied_port_is_explained():
    async with running(listen=QUIC) as server, running(listen=()) as other:
        with pytest.raises(ListenError, match="in use by this program itself"):
            await other.listen(server.listen_addrs[0])


async def test_both_ends_learn_of_the_end():
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        await settled(lambda: server.registry.total)
        there = connection_of(server, client)
        stream = await client.open_stream(server.identity.peer_id, [ECHO])
        await stream.send_all(BIG[:200_000])
        with trio.fail_after(60):
            await client.disconnect(server.identity.peer_id)
            await there.closed.wait()
        assert there.closed_reason == "closed by the peer"
        assert not endpoint_of(server)._links


async def test_a_peer_that_was_killed_is_noticed():
    async with (
        running(listen=QUIC) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=()) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        await settled(lambda: server.registry.total)
        there = connection_of(server, client)
        there.session.timeouts = Timeouts(keep_alive_interval=0.2, keep_alive_timeout=0.6)
        proxy.treat = lambda _: []  # nothing is heard of it any more
        with trio.fail_after(60):
            await there.closed.wait()
        assert re.fullmatch(r"the peer has not answered for \d+ s", there.closed_reason or "")


# --- the path changes ---


async def test_a_client_that_moves_keeps_its_streams():
    async with (
        running(listen=QUIC, timeouts=PATIENT) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=(), timeouts=PATIENT) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
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
                        await proxy.rebind()
                await stream.send_eof()
        assert received == BIG
        assert connection_of(client, server) is connection
        await settled(lambda: str(connection_of(server, client).remote_addr) != before)


async def test_a_peer_that_moves_to_where_none_may_be_is_let_go():
    """It came from an allowed network, and was followed to any."""
    rules = AccessRules(deny_networks=("127.0.0.2/32",))
    async with (
        running(listen=QUIC, access=rules) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=()) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        there = connection_of(server, client)
        await proxy.rebind("127.0.0.2")
        with trio.fail_after(60), suppress(LatticaError):
            while not there.closed.is_set():
                await ask_echo(client, server.identity.peer_id)
        await there.closed.wait()
        assert "is in 127.0.0.2/32 of access.deny_networks" in str(there.closed_reason)


async def test_a_nat_that_forgets_its_mapping():
    async with (
        running(listen=QUIC, timeouts=PATIENT) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=(), timeouts=PATIENT) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        connection = connection_of(client, server)
        for _ in range(3):
            await proxy.rebind()
            assert await echo_all(client, server.identity.peer_id, LESS) == LESS
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
        running(listen=QUIC, timeouts=PATIENT) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=(), timeouts=PATIENT) as client,
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
        admission = transport._first_packets.admission = AdmissionControl(few)
        async with running(listen=()) as flooder:
            # Real first packets whose sender never answers: those of dials that go nowhere.
            hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            hole.bind(("127.0.0.1", 0))
            hole.setblocking(False)
            nowhere = Multiaddr(f"/ip4/127.0.0.1/udp/{hole.getsockname()[1]}/quic-v1/noise")
            where = to_endpoint(server.addrs[0])
            firsts = []
            for _ in range(20):
                link = (await quic_of(flooder).dial(nowhere)).link
                await link.pump()
                first = hole.recv(2048)
                firsts.append(first)
                link.abort()
                hole.recv(2048)  # its farewell
            for first in firsts * 5:
                hole.sendto(first, (where.host, where.port))
            await settled(lambda: admission.half_open >= few.retry_above)
            assert admission.half_open <= few.maximum
            # Honest peers pay a round trip, and are served.
            await client.dial(server.identity.peer_id, server.addrs)
            assert await ask_echo(client, server.identity.peer_id) == b"hello"
            hole.close()


async def test_a_stranger_who_only_says_hello_is_dropped_in_time():
    quick = Timeouts(handshake=1.0)
    async with running(listen=QUIC, timeouts=quick) as server, running(listen=()) as client:
        link = (await quic_of(client).dial(server.addrs[0])).link
        while not link.session._drive.core.handshake_complete:
            await link.pump()
        await settled(lambda: server.listeners.pending)
        await settled(lambda: not server.listeners.pending)
        await settled(lambda: not endpoint_of(server)._links)
        assert quic_of(server)._first_packets.admission.half_open == 0
        link.abort()


async def test_messages_that_may_be_lost():
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        await settled(lambda: server.registry.total)
        here, there = connection_of(client, server), connection_of(server, client)
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                there.send_datagram((await there.receive_datagram()).upper())

            nursery.start_soon(answer)
            here.send_datagram(b"a tensor's name")
            assert await here.receive_datagram() == b"A TENSOR'S NAME"
        with pytest.raises(LocalProtocolError, match="at most"):
            here.send_datagram(bytes(1200))
        for number in range(1000):  # nobody receives them
            here.send_datagram(number.to_bytes(2, "big"))
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        assert len(there.session.messages) <= 256
        there.session.messages.clear()
        async with trio.open_nursery() as nursery:

            async def wait_in_vain() -> None:
                with pytest.raises(ConnectionClosedError):
                    await there.receive_datagram()

            nursery.start_soon(wait_in_vain)
            await client.disconnect(server.identity.peer_id)


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


async def test_thousands_of_streams_one_after_the_other():
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        for _ in range(30):
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
    theirs = TheirMultiaddr(addr.to_bytes())
    assert str(theirs) == str(addr)
    assert [protocol.name for protocol in theirs.protocols()] == [
        "ip4", "udp", "quic-v1", "noise", "p2p",
    ]  # fmt: skip


# --- nothing is left behind, and nobody suffers for others ---


def nothing_left(swarm: Swarm) -> bool:
    """No trace of a connection, begun or finished, but answers for peers that ask again."""
    transport = quic_of(swarm)
    return not (
        any(e._links or e._strangers or e._admitted for e in transport._endpoints)
        or any(fec._paths or fec._followed for fec in transport._endpoints.values())
        or transport._first_packets.admission.half_open
        or swarm.listeners.pending
        or swarm.receive_memory.sessions
    )


async def test_dials_given_up_at_any_moment_leave_nothing():
    rng = random.Random(12)
    quick = Timeouts(handshake=0.5)
    async with running(listen=QUIC, timeouts=quick) as server, running(listen=()) as client:

        async def dial(patience: float) -> None:
            with trio.move_on_after(patience):
                connection = await client.dial_fresh(server.identity.peer_id, server.addrs[0])
                connection.abort("no longer wanted")

        async with trio.open_nursery() as nursery:
            for _ in range(80):
                nursery.start_soon(dial, rng.random() * 0.3)
        files = open_files()
        await settled(partial(nothing_left, client))
        await settled(partial(nothing_left, server))
        assert open_files() <= files


async def test_a_handshake_that_fails_leaves_nothing():
    quick = Timeouts(handshake=0.5)
    async with running(listen=QUIC, timeouts=quick) as server, running(listen=()) as client:
        for _ in range(10):
            with pytest.raises(DialError):
                await client.dial(Identity.generate().peer_id, server.addrs)
        await settled(partial(nothing_left, client))
        await settled(partial(nothing_left, server))


async def test_connections_that_come_and_go_leave_nothing():
    async with running(listen=QUIC) as server, running(listen=QUIC) as client:
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.dial, server.identity.peer_id, server.addrs)
                nursery.start_soon(server.dial, client.identity.peer_id, client.addrs)
            assert await ask_echo(client, server.identity.peer_id) == b"hello"
            await client.disconnect(server.identity.peer_id)
            await settled(partial(nothing_left, client))
            await settled(partial(nothing_left, server))


async def test_a_swarm_that_is_cancelled_says_goodbye():
    async with running(listen=QUIC) as server:
        async with trio.open_nursery() as nursery:
            client = Swarm(Identity.generate(), swarm_config(listen=()))
            await nursery.start(client.run)
            await client.dial(server.identity.peer_id, server.addrs)
            await settled(lambda: server.registry.total)
            there = connection_of(server, client)
            nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            await there.closed.wait()
        assert there.closed_reason == "closed by the peer"


async def test_a_defect_costs_one_connection(monkeypatch, caplog):
    async with (
        running(listen=QUIC) as server,
        running(listen=()) as client,
        running(listen=()) as other,
    ):
        for dialer in (client, other):
            await dialer.dial(server.identity.peer_id, server.addrs)
            assert await ask_echo(dialer, server.identity.peer_id) == b"hello"
        there = connection_of(server, client)

        def fail(*_: object) -> None:
            raise KeyError("a defect")

        monkeypatch.setattr(there._link, "on_events", fail)
        stream = await client.open_stream(server.identity.peer_id, [ECHO])
        await stream.send_all(b"x")
        await there.closed.wait()
        assert there.closed_reason == "internal error"
        assert await ask_echo(other, server.identity.peer_id) == b"hello"
        # And one that no connection has to do with.
        monkeypatch.setattr(endpoint_of(server), "_deliver_foreign", fail)
        endpoint_of(other).send_probe(b"\x00probe", endpoint_of(server).local)
        await settled(lambda: "datagrams dropped" in caplog.text)
        assert await ask_echo(other, server.identity.peer_id) == b"hello"


# --- forged error correction ---


async def test_forged_error_correction_changes_nothing():
    rng = random.Random(21)
    async with (
        running(listen=QUIC, timeouts=PATIENT) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=(), timeouts=PATIENT) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        recorded = list(proxy.to_target)

        def forged() -> bytes:
            kind = rng.choice((0x20, 0x20, 0x21, 0x28, 0x29, 0x3F))
            number = rng.choice((rng.randrange(1 << 24), rng.randrange(40)))
            place, hold = rng.choice((1, rng.randrange(256))), 255
            data = rng.choice((rng.choice(recorded), rng.randbytes(rng.randrange(1400))))
            return bytes((kind, *number.to_bytes(3, "big"), place, hold)) + data

        # Beside each that passes, not by time: a slow machine would only be flooded.
        proxy.treat = lambda datagram: [forged(), datagram, forged()]
        assert await echo_all(client, server.identity.peer_id, LESS) == LESS
        (path,) = fec_of(server)._paths.values()
        assert len(path._receiver._held) <= MAX_HELD
        assert len(path._receiver._groups) <= MAX_GROUPS
        await client.disconnect(server.identity.peer_id)
        await settled(partial(nothing_left, server))


@pytest.mark.parametrize("server_fec", ["auto", "off"])
@pytest.mark.parametrize("client_fec", ["auto", "off"])
async def test_each_end_has_its_own_setting_of_error_correction(
    server_fec, client_fec, monkeypatch
):
    monkeypatch.setattr("lattica.nat.quic.fec.codec._SMALL", 0)
    monkeypatch.setattr(FecPolicy, "protecting", lambda self, now: True)
    rng = random.Random(6)
    wrapped = {True: 0, False: 0}

    def treat(datagram: bytes) -> list[bytes]:
        wrapped[is_fec(datagram)] += 1
        return [] if rng.random() < 0.03 else [datagram]

    async with (
        running(listen=QUIC, quic=QuicConfig(fec=server_fec)) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=(), quic=QuicConfig(fec=client_fec)) as client,
    ):
        proxy.treat = treat
        await client.dial(server.identity.peer_id, [proxy.addr])
        some = BIG[:400_000]
        assert await echo_all(client, server.identity.peer_id, some) == some
        assert await echo_all(server, client.identity.peer_id, some) == some
        assert bool(wrapped[True]) is ("auto" in (server_fec, client_fec))
        for swarm, setting in ((server, server_fec), (client, client_fec)):
            assert bool(fec_of(swarm)._paths) is (setting == "auto")


async def test_a_peer_that_moves_is_followed_though_all_it_sends_is_protected(monkeypatch):
    monkeypatch.setattr("lattica.nat.quic.fec.codec._SMALL", 0)
    monkeypatch.setattr(FecPolicy, "protecting", lambda self, now: True)
    async with (
        running(listen=QUIC) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=()) as client,
    ):
        await client.dial(server.identity.peer_id, [proxy.addr])
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        before = str(connection_of(server, client).remote_addr)
        proxy.to_target.clear()
        await proxy.rebind()
        some = BIG[:50_000]
        assert await echo_all(client, server.identity.peer_id, some) == some
        assert all(datagram[0] < 0x40 for datagram in proxy.to_target)
        await settled(lambda: str(connection_of(server, client).remote_addr) != before)


# --- strangers, again ---


def first_packet(destination_cid: bytes, version: int = 1) -> bytes:
    """What looks like a client's first packet."""
    header = b"\xc3" + version.to_bytes(4, "big") + bytes((len(destination_cid),))
    header += destination_cid + b"\x08" + bytes(8)
    rest = 1250 - len(header) - 3
    return header + b"\0" + (0x4000 | rest).to_bytes(2, "big") + os.urandom(rest)


async def test_what_is_answered_to_first_packets():
    async with running(listen=QUIC) as server:
        endpoint = endpoint_of(server)
        accepted: list[bytes] = []
        make_link = endpoint._make_link
        assert make_link is not None

        def accept(client: NewClient) -> QuicLink:
            accepted.append(client.original_cid)
            return make_link(client)

        endpoint.listen(accept)
        stranger = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger:
            await stranger.bind(("127.0.0.1", 0))
            for size in (0, 1, 7):  # the RFC wants 8
                await stranger.sendto(first_packet(bytes(size)), endpoint.local)
            await stranger.sendto(first_packet(b"too-small")[:1199], endpoint.local)
            await stranger.sendto(first_packet(b"right size"), endpoint.local)
            await settled(lambda: accepted)
            assert accepted == [b"right size"]
            await stranger.sendto(first_packet(b"negotiate", 0x1A2A3A4A), endpoint.local)
            with trio.fail_after(60):
                answer = await stranger.recv(2048)
            assert answer[1:5] == bytes(4)  # version negotiation
            assert answer.endswith(b"\0\0\0\1")
            assert b"negotiate" in answer


async def test_a_closed_connection_is_no_amplifier():
    async with running(listen=QUIC) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        await settled(lambda: server.registry.total)
        endpoint = endpoint_of(server)
        cid = next(iter(endpoint._links))
        connection_of(server, client).abort("a test")
        await settled(lambda: endpoint._farewells)
        stranger = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger:
            await stranger.bind(("127.0.0.1", 0))
            farewell = endpoint._farewells[cid]
            farewell.datagram = bytes(300)
            for size in (9, 99, 100):
                await stranger.sendto(b"\x40" + cid + bytes(size - 9), endpoint.local)
            with trio.fail_after(60):
                assert await stranger.recv(2048) == bytes(300)
            await settled(lambda: farewell.left == 7)


async def test_thousands_of_random_datagrams():
    rng = random.Random(2)
    few = Timeouts(handshake=0.5)
    async with running(listen=QUIC, timeouts=few) as server, running(listen=()) as client:
        await client.dial(server.identity.peer_id, server.addrs)
        endpoint = endpoint_of(server)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for number in range(5000):
                size = rng.randrange(1, 1473)
                datagram = rng.choice((rng.randbytes(size), first_packet(rng.randbytes(8))[:size]))
                if number % 10 == 0:
                    datagram = first_packet(rng.randbytes(rng.randrange(21)))
                stranger.sendto(datagram, endpoint.local)
                if number % 50 == 0:
                    await trio.lowlevel.checkpoint()
        assert await ask_echo(client, server.identity.peer_id) == b"hello"
        await settled(lambda: not quic_of(server)._first_packets.admission.half_open)
        assert len(server.receive_memory.sessions) == 1
        assert len(set(endpoint._links.values())) == 1


# --- under load ---


async def test_cancellation_and_resets_under_load_corrupt_nothing():
    rng = random.Random(5)
    pattern = rng.randbytes(1 << 20)
    first_complete = trio.Event()

    def treat(datagram: bytes) -> list[bytes]:
        kind = rng.random()
        return [] if kind < 0.01 else [datagram] * (2 if kind < 0.02 else 1)

    async def send(stream: Stream, end: int) -> None:
        position = 0
        while position < end:
            size = min(rng.randrange(1, 60_000), end - position)
            with trio.move_on_after(rng.random() * 2) as patience:
                await stream.send_all(pattern[position : position + size])
            if patience.cancelled_caught or rng.random() < 0.01:
                stream.reset()
                return
            position += size
        await stream.send_eof()

    async def receive(stream: Stream) -> None:
        position = 0
        while True:
            with trio.move_on_after(rng.random() * 0.01) as patience:
                most = rng.randrange(1, 50_000)
                data = await stream.receive_some(most)
            if patience.cancelled_caught:
                continue
            if not data:
                return
            assert data == pattern[position : position + len(data)]
            position += len(data)

    async def serve(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, stream, rng.randrange(300_000))
            nursery.start_soon(receive, stream)

    async def use(client: Swarm, server: Swarm) -> None:
        while True:
            try:
                async with await client.open_stream(server.identity.peer_id, ["/load/1"]) as stream:
                    await serve(stream)
                first_complete.set()
            except* StreamResetError:
                pass  # one side has aborted it

    async with (
        running(listen=QUIC, timeouts=PATIENT) as server,
        udp_proxied(server.addrs[0]) as proxy,
        running(listen=(), timeouts=PATIENT) as client,
    ):
        for swarm in (server, client):
            swarm.protocols.handle("/load/1", serve)
        await client.dial(server.identity.peer_id, [proxy.addr])
        proxy.treat = treat
        await settled(lambda: server.registry.total)
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(use, client, server)
                nursery.start_soon(use, server, client)
            await trio.sleep(1)
            await first_complete.wait()
            nursery.cancel_scope.cancel()
        assert await echo_all(client, server.identity.peer_id, BIG) == BIG
        for swarm, other in ((client, server), (server, client)):
            await settled(partial(nothing, connection_of(swarm, other).session.streams))
            assert not swarm.receive_memory.used


async def test_a_reader_that_does_not_read_holds_up_nobody():
    async def sit(stream: Stream) -> None:
        await trio.sleep_forever()

    async with running(listen=QUIC) as server, running(listen=()) as client:
        server.protocols.handle("/sit/1", sit)
        peer_id = server.identity.peer_id
        await client.dial(peer_id, server.addrs)

        async def pour() -> None:
            async with await client.open_stream(peer_id, ["/sit/1"]) as stream:
                for _ in range(10):
                    await stream.send_all(BIG)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(pour)
            assert await echo_all(client, peer_id, BIG) == BIG
            assert server.receive_memory.used <= 20 * INITIAL_WINDOW
            nursery.cancel_scope.cancel()


async def test_quic_beside_tcp_between_the_same_two():
    both = (*LISTEN_ON["tcp"], *QUIC)
    async with running(listen=both) as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        tcp, quic = server.addrs
        await client.dial(peer_id, [quic])
        async with await client.open_stream(peer_id, [ECHO]) as stream:
            await stream.send_all(b"by QUIC")
            faster = await client.dial_fresh(peer_id, tcp)  # on this machine
            assert client.registry.best(peer_id) is faster
            assert await stream.receive_exactly(7) == b"by QUIC"
            assert await echo_all(client, peer_id, BIG) == BIG
            await stream.send_all(b"goes on")
            assert await stream.receive_exactly(7) == b"goes on"
        for swarm, other in ((client, server), (server, client)):
            kept, old = swarm.registry.by_peer[other.identity.peer_id]
            assert isinstance(old, QuicConnection)
            assert [kept.retired_at is None, old.retired_at is None] == [True, False]
            assert old.closed_reason is None
        assert await ask_echo(server, client.identity.peer_id) == b"hello"
