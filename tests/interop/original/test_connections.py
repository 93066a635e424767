"""The original lattica 1.0.21 (rust-libp2p): TCP, Noise, yamux, identify, ping.

It disconnects whoever's identify says another `protocol_version` than its own, which is
`/lattica/1.0.0` unless it is told otherwise.
"""

from __future__ import annotations

import pytest
import trio

from lattica.errors import DialError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.swarm.events import PeerConnected, PeerDisconnected
from tests.interop.foreign import IDENTIFY, PING, original_peer
from tests.interop.ours import (
    PATIENCE,
    address,
    eventually,
    learned,
    our_node,
    partner_connected,
    ping,
)

pytestmark = pytest.mark.foreign

SECONDS_OF_LIFE = 3.0


async def exercise(node, original):
    """Identify and ping in both directions, and nobody ends the connection."""
    await partner_connected(original, node.peer_id)
    await ping(node, original.peer_id)
    spoken = {PING, IDENTIFY}
    await eventually(lambda: spoken <= learned(node, original.peer_id), "identify of the original")

    with trio.fail_after(PATIENCE):
        while (known := await original.identified(str(node.peer_id))) is None:
            await trio.sleep(0.05)
        while (seconds := await original.ping(str(node.peer_id))) is None:
            await trio.sleep(0.05)
    assert known.protocol_version == "/lattica/1.0.0"
    assert spoken <= set(known.protocols)
    assert 0 < seconds < PATIENCE

    await trio.sleep(SECONDS_OF_LIFE)
    await partner_connected(original, node.peer_id)
    await ping(node, original.peer_id)


async def test_we_dial(original_installed, tmp_path):
    async with original_peer(original_installed, tmp_path) as original, our_node() as node:
        assert str(await node.connect(original.addrs[0])) == original.peer_id
        await exercise(node, original)


async def test_we_are_dialed(original_installed, tmp_path):
    async with our_node() as node:
        dial = [address(node)]
        async with original_peer(original_installed, tmp_path, dial) as original:
            await node.wait_connected(original.peer_id, timeout=120)
            await exercise(node, original)


async def test_wrong_peer_id_is_refused_by_us(original_installed, tmp_path):
    async with original_peer(original_installed, tmp_path) as original, our_node() as node:
        somebody = Identity.generate().peer_id
        wrong = original.addrs[0].replace(original.peer_id, str(somebody))
        with pytest.raises(DialError, match=f"expected peer {somebody}"):
            await node.connect(wrong)
        await node.connect(original.addrs[0])


async def test_another_network_is_left_by_the_original(original_installed, tmp_path):
    """It hears our identify, says so in its log, and closes; we go on."""
    async with (
        original_peer(original_installed, tmp_path) as original,
        our_node(protocol_version="/other/1.0.0") as node,
    ):
        with node.events() as events:
            await node.connect(original.addrs[0])
            with trio.fail_after(PATIENCE):
                async for event in events:
                    if isinstance(event, PeerConnected):
                        assert str(event.peer_id) == original.peer_id
                    if isinstance(event, PeerDisconnected):
                        break
        assert not node.is_connected(original.peer_id)
        log = (tmp_path / "original.log").read_text()
        assert f"protocol version mismatch, disconnect from peer {node.peer_id}" in log
