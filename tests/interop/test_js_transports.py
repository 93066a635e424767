"""WebSocket and private networks (pnet), with js-libp2p, which has both."""

from __future__ import annotations

import os

import pytest

from lattica.errors import DialError
from tests.interop.foreign import EchoResult, ForeignError, js_peer
from tests.interop.ours import (
    address,
    call_echo,
    our_node,
    partner_connected,
    partner_learned,
    ping,
)

pytestmark = pytest.mark.foreign

SIZE = 3 * 1024 * 1024
WEBSOCKET = ("/ip4/127.0.0.1/tcp/0/ws",)
TCP = ("/ip4/127.0.0.1/tcp/0",)


async def exercise(node, partner):
    await ping(node, partner.peer_id)
    assert await partner.ping(str(node.peer_id)) is not None
    await partner_learned(partner, node.peer_id)
    assert await call_echo(node, partner.peer_id, SIZE) == EchoResult(SIZE, SIZE, same=True)
    assert await partner.echo(str(node.peer_id), SIZE) == EchoResult(SIZE, SIZE, same=True)


async def test_websocket_dialed_by_us(js_installed, tmp_path):
    async with js_peer(js_installed, tmp_path, listen=WEBSOCKET) as partner, our_node() as node:
        assert "/ws/" in partner.addrs[0]
        assert str(await node.connect(partner.addrs[0])) == partner.peer_id
        await exercise(node, partner)


async def test_websocket_dialed_by_js(js_installed, tmp_path):
    async with js_peer(js_installed, tmp_path) as partner, our_node(WEBSOCKET) as node:
        await partner.connect(address(node, ending="/ws"))
        await node.wait_connected(partner.peer_id, timeout=120)
        await exercise(node, partner)


async def test_websocket_to_a_plain_tcp_port_fails_at_once(js_installed, tmp_path):
    async with js_peer(js_installed, tmp_path) as partner, our_node() as node:
        wrong = partner.addrs[0].replace("/p2p/", "/ws/p2p/")
        with pytest.raises(DialError):
            await node.connect(wrong, timeout=20)
        await node.connect(partner.addrs[0])


@pytest.mark.parametrize("listen", [TCP, WEBSOCKET], ids=["tcp", "websocket"])
async def test_private_network_dialed_by_us(js_installed, tmp_path, listen):
    psk = os.urandom(32)
    async with js_peer(js_installed, tmp_path, listen, psk) as partner, our_node(psk=psk) as node:
        await node.connect(partner.addrs[0])
        await exercise(node, partner)


@pytest.mark.parametrize("listen", [TCP, WEBSOCKET], ids=["tcp", "websocket"])
async def test_private_network_dialed_by_js(js_installed, tmp_path, listen):
    psk = os.urandom(32)
    async with (
        js_peer(js_installed, tmp_path, psk=psk) as partner,
        our_node(listen, psk=psk) as node,
    ):
        await partner.connect(address(node, ending="/ws" if listen is WEBSOCKET else ""))
        await node.wait_connected(partner.peer_id, timeout=120)
        await exercise(node, partner)


@pytest.mark.parametrize("ours", [None, b"\x01" * 32], ids=["without", "other"])
async def test_private_network_needs_the_right_key(js_installed, tmp_path, ours):
    async with (
        js_peer(js_installed, tmp_path, psk=b"\x02" * 32) as partner,
        our_node(psk=ours) as node,
    ):
        with pytest.raises(DialError):
            await node.connect(partner.addrs[0])
        with pytest.raises(ForeignError):
            await partner.connect(address(node))
        await partner_connected(partner, node.peer_id, to_us=False)
        assert not node.is_connected(partner.peer_id)
