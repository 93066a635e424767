"""What hole punching and reachability checks ask of a swarm."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
import trio

from lattica.errors import DialError
from lattica.nat.base.net.addresses import Kind, to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.config import AccessRules
from lattica.nat.swarm.events import AddressesChanged, PathChanged
from tests.support.nets.nets import ECHO, LISTEN_ON, ask_echo, open_files, running

BOTH = (*LISTEN_ON["tcp"], *LISTEN_ON["quic"])
RELAYED = Multiaddr(
    "/ip4/198.51.100.1/tcp/1/p2p/12D3KooWG7dwseLroJn3hzHmAoRe8WYzwthRwHg1PYhsqibxDRQS/p2p-circuit"
)


def bound_udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


async def test_quic_from_a_socket_of_somebody_else():
    async with running(listen=LISTEN_ON["quic"]) as server, running(listen=()) as client:
        peer_id, [addr] = server.identity.peer_id, server.addrs
        files = open_files()
        sock = bound_udp_socket()
        port = sock.getsockname()[1]
        connection = await client.dial_from_socket(sock, addr, peer_id)
        assert to_endpoint(connection.local_addr).port == port
        seen = await server.wait_connected(client.identity.peer_id)
        assert to_endpoint(seen.remote_addr).port == port
        assert await ask_echo(client, peer_id) == b"hello"
        await client.disconnect(peer_id)
        while sock.fileno() != -1:
            await trio.sleep(0.01)
        assert open_files() == files


async def test_a_dial_that_fails_closes_the_socket():
    with closing(bound_udp_socket()) as nobody:
        addr = Multiaddr(f"/ip4/127.0.0.1/udp/{nobody.getsockname()[1]}/quic-v1/noise")
    async with running() as server, running(listen=()) as client:
        sock = bound_udp_socket()
        with pytest.raises(DialError, match="efused"):
            await client.dial_from_socket(sock, addr, server.identity.peer_id)
        while sock.fileno() != -1:
            await trio.sleep(0.01)


async def test_a_dial_from_a_socket_to_a_network_that_is_denied():
    rules = AccessRules(deny_networks=("127.0.0.0/8",))
    async with running(listen=LISTEN_ON["quic"]) as server, running(access=rules) as client:
        sock = bound_udp_socket()
        with pytest.raises(DialError, match="127"):
            await client.dial_from_socket(sock, server.addrs[0], server.identity.peer_id)
        assert sock.fileno() == -1


@pytest.mark.parametrize("kind", [Kind.TCP, Kind.QUIC])
async def test_an_unshared_connection_comes_from_a_fresh_port_and_is_nobody_elses(kind):
    async with running(listen=BOTH) as asked, running(listen=BOTH) as asking:
        peer_id = asked.identity.peer_id
        addr = next(a for a in asked.addrs if (Kind.QUIC is kind) is ("quic" in str(a)))
        ours = {to_endpoint(bound).port for bound in asking.addrs}
        async with asking.dial_unshared(peer_id, addr, source_ip="127.0.0.1") as connection:
            assert to_endpoint(connection.local_addr).port not in ours
            assert asking.registry.best(peer_id) is None
            async with await connection.open(ECHO) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_exactly(5) == b"hello"
        assert connection.closed_reason is not None
        while asking.identity.peer_id in asked.registry.by_peer:
            await trio.sleep(0.01)
        with pytest.raises(DialError):
            async with asking.dial_unshared(peer_id, Multiaddr("/ip4/127.0.0.1/tcp/1")):
                pass


async def test_addresses_that_others_have_found_out_are_told():
    async with running() as swarm:
        with swarm.events.subscribe() as events:
            swarm.own_addresses.set("relayed", [RELAYED, RELAYED])
            swarm.own_addresses.set("relayed", [RELAYED])
            assert swarm.addrs[-1] == RELAYED
            swarm.own_addresses.set("relayed", [])
            first = await events.__anext__()
            second = await events.__anext__()
        assert first == AddressesChanged((*swarm.addrs, RELAYED))
        assert second == AddressesChanged(swarm.addrs)
        with pytest.raises(KeyError):
            swarm.own_addresses.set("dreamt", [])


async def test_a_better_path_is_told_and_so_is_falling_back():
    async with running(listen=BOTH) as server, running(listen=()) as client:
        peer_id = server.identity.peer_id
        tcp, quic = server.addrs
        await client.dial(peer_id, [quic])
        with client.events.subscribe() as events:
            fresh = await client.dial_fresh(peer_id, tcp)
            assert await events.__anext__() == PathChanged(
                peer_id, "direct-tcp", tcp, "direct-quic"
            )
            fresh.abort("test")
            assert await events.__anext__() == PathChanged(
                peer_id, "direct-quic", quic, "direct-tcp"
            )
        assert await client.wait_direct(peer_id) is client.registry.best(peer_id)
        assert await ask_echo(client, peer_id) == b"hello"


async def test_only_what_is_seen_of_the_listening_port_is_believed():
    async with running(listen=BOTH) as server, running(listen=BOTH) as client:
        peer_id = server.identity.peer_id
        tcp, quic = server.addrs
        outbound = await client.dial(peer_id, [tcp])
        claimed = Multiaddr("/ip4/8.8.8.8/tcp/1234")
        client.record_observation(outbound, claimed)
        client.record_observation(outbound, Multiaddr("/ip4/8.8.8.8/udp/1/quic-v1/noise"))
        client.record_observation(outbound, RELAYED)
        inbound = await server.wait_connected(client.identity.peer_id)
        server.record_observation(inbound, claimed)
        over_quic = await client.dial_fresh(peer_id, quic)
        later = Multiaddr("/ip4/8.8.4.4/udp/9/quic-v1/noise")
        client.record_observation(over_quic, later)
        assert client.observed.addrs(Kind.TCP) == [claimed]
        assert client.observed.addrs(Kind.QUIC) == [later]
        assert server.observed.addrs(Kind.TCP) == []
