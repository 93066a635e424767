"""Provider records with go-libp2p's daemon and js-libp2p, in a network of their protocol: whoever
provides is found by the other, through a third that keeps the record.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from lattica.content.manifest.cid import Cid
from lattica.nat.base.net.addresses import split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.node import Node
from tests.interop.foreign import ScriptPeer, js_script
from tests.interop.godaemon import GoDaemon, go_daemon
from tests.interop.ours import PATIENCE, address, our_node

pytestmark = pytest.mark.foreign

KAD = "/ipfs/kad/1.0.0"
MANY = 100


def cid_of(name: str) -> bytes:
    """That of a raw block, in its binary form."""
    return b"\x01\x55\x12\x20" + hashlib.sha256(name.encode()).digest()


def text_of(name: str) -> str:
    """The same as text."""
    return str(Cid.from_bytes(cid_of(name)))


def js_kad(installed: Path, folder: Path) -> AbstractAsyncContextManager[ScriptPeer]:
    return js_script(installed, folder, "js-kad", "kad.mjs")


def go_kad(installed: Path, folder: Path) -> AbstractAsyncContextManager[GoDaemon]:
    folder.mkdir(exist_ok=True)
    return go_daemon(installed, folder, "-dhtServer")


async def found_by(node: Node, name: str) -> dict[str, set[str]]:
    """The providers that we find, and where they are, without their IDs."""
    return {
        str(peer.peer_id): {str(split_peer(addr)[0]) for addr in peer.addrs}
        async for peer in node.dht.find_providers(cid_of(name))
    }


def places(addrs: tuple[str, ...] | list[str]) -> set[str]:
    return {str(split_peer(Multiaddr(addr))[0]) for addr in addrs}


async def test_what_go_and_we_provide_is_found_by_the_other(go_installed, tmp_path):
    async with (
        go_kad(go_installed, tmp_path / "keeper") as keeper,
        go_kad(go_installed, tmp_path / "go") as go,
        our_node(dht_protocol=KAD) as node,
    ):
        await go.connect(keeper.addrs[0])
        await node.connect(keeper.addrs[0])
        with trio.fail_after(PATIENCE):
            await node.dht.wait_ready()
            assert await node.dht.provide(text_of("ours")) >= 1
            found = await go.find_providers(cid_of("ours"), 5)
            assert places(found[str(node.peer_id)]) == places([address(node)])
            await go.provide(cid_of("theirs"))
            assert await found_by(node, "theirs") == {go.peer_id: places(go.addrs)}


async def test_many_keys_are_provided_in_a_network_of_go(go_installed, tmp_path):
    """It knows no message of many keys; this node does without, then and when it provides them
    again."""
    async with (
        go_kad(go_installed, tmp_path / "keeper") as keeper,
        go_kad(go_installed, tmp_path / "go") as go,
        our_node(dht_protocol=KAD) as node,
    ):
        await go.connect(keeper.addrs[0])
        await node.connect(keeper.addrs[0])
        keys = [text_of(str(number)) for number in range(MANY)]
        with trio.fail_after(PATIENCE):
            await node.dht.wait_ready()
            assert set((await node.dht.provide_many(keys)).values()) == {2}
            for number in (0, MANY - 1):
                assert str(node.peer_id) in await go.find_providers(cid_of(str(number)), 5)
            # There is no message for it, and nobody is believed less because of that.
            assert await node.dht.withdraw(keys[0]) == 0
            assert len(node.dht.peers()) == 2


async def test_what_js_and_we_provide_is_found_by_the_other(
    go_installed, js_kad_installed, tmp_path
):
    async with (
        go_kad(go_installed, tmp_path / "keeper") as keeper,
        js_kad(js_kad_installed, tmp_path) as js,
        our_node(dht_protocol=KAD) as node,
    ):
        await js.connect(keeper.addrs[0])
        await node.connect(keeper.addrs[0])
        with trio.fail_after(PATIENCE):
            await node.dht.wait_ready()
            while not await js.ask("known"):
                await trio.sleep(0.05)
            assert await node.dht.provide(text_of("ours")) >= 1
            found = await js.ask("providers", cid=text_of("ours"))
            assert places(found[str(node.peer_id)]) == places([address(node)])
            await js.ask("provide", cid=text_of("theirs"))
            assert await found_by(node, "theirs") == {js.peer_id: places(js.addrs)}
            # It does not answer a message of many keys at all.
            await node.connect(js.addrs[0])
            keys = [text_of(str(number)) for number in range(MANY)]
            assert min((await node.dht.provide_many(keys)).values()) >= 1
            found = await js.ask("providers", cid=keys[0])
            assert str(node.peer_id) in found
