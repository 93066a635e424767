"""Multicast DNS where there is only IPv6, and where there is no network at all."""

from __future__ import annotations

from tests.netlab.holders import run_in_namespace

SETUP = """
ip link set lo up
ip link add one type veth peer name other
for i in one other; do
    echo 0 > /proc/sys/net/ipv6/conf/$i/accept_dad
    ip link set $i up
done
ip addr add fd00:1::1/64 dev one nodad
ip addr add fd00:1::2/64 dev other nodad
exec "$0" -c "$1"
"""
PROGRAM = """
import trio
from lattica import Node, load_config

def node(listen):
    settings = {"listen": [listen], "nat.port_mapping.enabled": False, "discovery.mdns": True,
                "discovery.mdns_interfaces": ["one"]}
    return Node(load_config(environment={}, overrides=settings))

async def main():
    async with node("/ip6/fd00:1::1/tcp/0") as a, node("/ip6/fd00:1::1/tcp/0") as b:
        found = []
        with trio.fail_after(120):
            while not found:
                found = [peer async for peer in a.discovery.find_peers("t")]
        assert [peer.source for peer in found] == ["mdns"]
        assert [peer.peer_id for peer in found] == [b.peer_id]
        assert [str(addr) for addr in found[0].addrs] == [str(addr) for addr in b.addrs]
        await a.connect(found[0].addrs, timeout=120)
    print("ok")

trio.run(main)
"""
BROKEN = """
import trio
from lattica import Node, load_config

async def main():
    settings = {"listen": [], "nat.port_mapping.enabled": False, "discovery.mdns": True}
    with trio.fail_after(120):
        async with Node(load_config(environment={}, overrides=settings)) as node:
            assert await node.discovery.advertise("t") == 0
            assert [peer async for peer in node.discovery.find_peers("t")] == []
    print("ok")

trio.run(main)
"""


def test_peers_find_each_other_over_ipv6_alone():
    result = run_in_namespace(SETUP, PROGRAM)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr


def test_a_node_without_a_network_neither_hangs_nor_ends():
    result = run_in_namespace('exec "$0" -c "$1"', BROKEN)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stderr
    assert result.stderr.count("no multicast DNS here") == 1, result.stderr
