"""A relay that one network floods: those of others are served as ever."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
import trio

from lattica import Node
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.relay.circuit_transport import ask_relay
from lattica.nat.traversal.relay.messages import Reserve, Status
from tests.loopback.lattica.daemon.relay_process import client, is_at, relay_process
from tests.support.nets.nets import running

HALF_OPEN, PEERS = 600, 12
LISTEN_6 = "/ip6/::1/tcp/0"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="the other network is that of IPv6's loopback")
async def test_a_flood_from_one_network_leaves_others_served(tmp_path):
    async with relay_process(tmp_path, "--open", "--listen", LISTEN_6) as relay:
        four, six = sorted(relay.addrs)
        addr, peer_id = split_peer(Multiaddr(four))
        assert peer_id is not None
        port = int(four.split("/")[4])
        with ExitStack() as stack:
            for _ in range(HALF_OPEN):  # they say nothing, and stay
                flooder = stack.enter_context(socket.socket())
                flooder.setblocking(False)
                flooder.connect_ex(("127.0.0.1", port))
            granted = 0
            async with trio.open_nursery() as nursery:

                async def reserve() -> None:
                    nonlocal granted
                    async with running(listen=()) as swarm:
                        connection = await swarm.dial(peer_id, [addr])
                        stream, answer = await ask_relay(connection, Reserve())
                        await stream.aclose()
                        granted += answer.status is Status.OK
                        await trio.sleep_forever()

                for _ in range(PEERS):
                    nursery.start_soon(reserve)
                async with Node(client(six)) as node:
                    await node.wait_reachable(60)
                    assert is_at(node, six)
                    async with Node(client(six)) as caller:
                        through = f"{six}/p2p-circuit/p2p/{node.peer_id}"
                        await caller.connect(through, timeout=60)
                nursery.cancel_scope.cancel()
            assert granted <= 8  # of one address, by default
