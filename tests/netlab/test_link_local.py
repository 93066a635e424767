"""Link-local IPv6: an address without a router, which needs to say by which interface."""

from __future__ import annotations

from tests.netlab.holders import run_in_namespace

SETUP = """
ip link set lo up
ip link add one type veth peer name other
for i in one other; do
    echo 0 > /proc/sys/net/ipv6/conf/$i/accept_dad
    echo 1 > /proc/sys/net/ipv6/conf/$i/addr_gen_mode
    ip link set $i up
done
ip addr add fe80::1/64 dev one nodad
ip addr add fe80::2/64 dev other nodad
exec "$0" -c "$1"
"""
PROGRAM = """
import trio
from lattica import DialError, Node, load_config

def node(*listen):
    settings = {"listen": listen, "nat.port_mapping.enabled": False}
    return Node(load_config(environment={}, overrides=settings))

async def main():
    own = ("/ip6zone/one/ip6/fe80::1/tcp/0", "/ip6zone/one/ip6/fe80::1/tcp/0/ws",
           "/ip6zone/one/ip6/fe80::1/udp/0/quic-v1/noise")
    async with node(*own) as server:
        for addr, given in zip(server.addrs, own):
            assert str(addr).startswith("/ip6zone/one/ip6/fe80::1/"), addr
            async with node() as client:
                assert await client.connect(addr, timeout=120) == server.peer_id
                (peer,) = client.peers()
                assert str(peer.connections[0].addr).startswith("/ip6zone/one/ip6/fe80::1/")
        async with node() as client:
            try:
                await client.connect(str(server.addrs[0]).replace("/ip6zone/one", ""))
            except DialError as error:
                assert "/ip6zone/eth0/ip6/fe80::1/" in str(error), error
            else:
                raise AssertionError("dialed without a zone")
            try:
                await client.connect(str(server.addrs[0]).replace("zone/one", "zone/none0"))
            except DialError as error:
                assert "no interface none0" in str(error), error
    async with node("/ip6/::/tcp/0", "/ip6/::/udp/0/quic-v1/noise") as server:
        for bound in server.swarm.listen_addrs:
            rest = str(bound).removeprefix("/ip6/::")
            async with node() as client:
                addr = f"/ip6zone/one/ip6/fe80::1{rest}/p2p/{server.peer_id}"
                assert await client.connect(addr, timeout=120) == server.peer_id
    print("ok")

trio.run(main)
"""


def test_listening_and_dialing_with_a_zone():
    result = run_in_namespace(SETUP, PROGRAM)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr
