"""Multicast DNS on the loopback interface, where the system lets it."""

from __future__ import annotations

import pytest
import trio

from lattica.dht.discovery.mdns.service import MdnsSource
from lattica.dht.discovery.source import FoundPeer
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from tests.support.nets.nets import unused_port


def source(nursery: trio.Nursery, interfaces: list[str], port: int) -> MdnsSource:
    peer_id = Identity.generate().peer_id
    addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id}")
    return MdnsSource(peer_id, nursery, lambda: [addr], lambda: interfaces, port=port)


async def test_peers_on_one_interface_find_each_other():
    port = unused_port()
    async with trio.open_nursery() as nursery:
        one, two = (source(nursery, ["127.0.0.1"], port) for _ in range(2))
        found: list[FoundPeer] = []
        with trio.move_on_after(20):
            while not found:
                found = [peer async for peer in one.find("t")]
        await one.aclose()
        await two.aclose()
    if not found:
        pytest.skip("no multicast on loopback here")
    assert found[0].peer_id == two._own_id
    assert found[0].source == "mdns"


@pytest.mark.parametrize("interfaces", [[], ["192.0.2.77"]])
async def test_where_multicast_is_broken_nothing_hangs_or_ends(interfaces, caplog):
    async with trio.open_nursery() as nursery:
        one = source(nursery, interfaces, unused_port())
        with trio.fail_after(60):
            assert [peer async for peer in one.find("t")] == []
            await one.aclose()
    assert "no multicast DNS here" in caplog.text
