"""Our node as the client of foreign relays: reserving, being dialed through them, dialing.

Foreign relays limit what a circuit may carry (go: 128 KiB and two minutes unless told
otherwise), and go and js peers open streams over such circuits only for protocols that ask
for it; so mostly it is our side that calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from lattica.identity import parse_peer_id
from lattica.node import Node
from tests.interop.foreign import ECHO, EchoResult, ForeignPeer, ScriptPeer
from tests.interop.godaemon import go_daemon
from tests.interop.ours import call_echo, eventually, our_node, partner_connected
from tests.interop.relays import go_relay, js_relay_peer, relay_client

pytestmark = [pytest.mark.foreign, pytest.mark.timeout(600)]

SIZE = 60 * 1024

StartRelay = Callable[[], AbstractAsyncContextManager[ForeignPeer]]


@pytest.fixture(params=["go", "js"])
def start_relay(request: pytest.FixtureRequest, tmp_path: Path) -> StartRelay:
    """Starts a relay of another implementation."""
    installed: Path = request.getfixturevalue(f"{request.param}_installed")
    if request.param == "go":
        return lambda: go_relay(installed, tmp_path)
    return lambda: js_relay_peer(installed, tmp_path, "js-relay", "--serve")


@asynccontextmanager
async def reachable_through(relay: ForeignPeer) -> AsyncIterator[tuple[Node, str]]:
    """A node of ours with a reservation at `relay`, and its relayed address."""
    async with our_node() as bob, relay_client(bob, relay.addrs[0]) as client:
        (addr, *_) = client.addrs
        assert str(addr).endswith(f"/p2p/{relay.peer_id}/p2p-circuit")
        yield bob, f"{addr}/p2p/{bob.peer_id}"


def path_to(node: Node, peer: str) -> str:
    connection = node.swarm.registry.best(parse_peer_id(peer))
    return "" if connection is None else connection.path


async def test_reservation(start_relay):
    async with (
        start_relay() as relay,
        our_node() as bob,
        relay_client(bob, relay.addrs[0]) as client,
    ):
        (status,) = client.status()
        assert str(status.relay) == relay.peer_id
        assert status.reserved_until is not None
        assert status.last_error == ""


async def test_two_of_ours_meet(start_relay):
    async with (
        start_relay() as relay,
        reachable_through(relay) as (bob, addr),
        our_node() as alice,
        relay_client(alice),
    ):
        await alice.connect(addr)
        assert path_to(alice, str(bob.peer_id)) == "relayed"
        same = EchoResult(SIZE, SIZE, same=True)
        assert await call_echo(alice, str(bob.peer_id), SIZE) == same
        (theirs,) = bob.swarm.registry.by_peer[alice.peer_id]
        assert theirs.is_relayed
        stream = theirs.open_stream()
        assert stream.peer_id == alice.peer_id
        stream.reset()


async def test_peer_without_a_reservation(start_relay):
    async with (
        start_relay() as relay,
        our_node() as bob,
        our_node() as alice,
        relay_client(alice),
    ):
        with pytest.raises(OSError, match="NO_RESERVATION"):
            await alice.connect(f"{relay.addrs[0]}/p2p-circuit/p2p/{bob.peer_id}")


async def test_dialed_by_go(go_installed, tmp_path):
    async with (
        go_relay(go_installed, tmp_path) as relay,
        reachable_through(relay) as (bob, addr),
        go_daemon(go_installed, tmp_path) as go,
    ):
        await go.connect(addr)
        await partner_connected(go, bob.peer_id)
        await eventually(lambda: path_to(bob, go.peer_id) == "relayed", "a relayed connection")
        result = await call_echo(bob, go.peer_id, SIZE, half_close_first=False)
        assert result == EchoResult(SIZE, SIZE, same=True)


async def test_dialed_by_js(js_installed, tmp_path):
    relay_of_js = js_relay_peer(js_installed, tmp_path, "js-relay", "--serve")
    async with (
        relay_of_js as relay,
        reachable_through(relay) as (bob, addr),
        js_relay_peer(js_installed, tmp_path, "js-dialer") as js,
    ):
        await js.connect(addr)
        await eventually(lambda: path_to(bob, js.peer_id) == "relayed", "a relayed connection")
        assert await js.ping(str(bob.peer_id)) is not None
        result = await call_echo(bob, js.peer_id, SIZE)
        assert result == EchoResult(SIZE, SIZE, same=True)


async def test_js_is_dialed(js_installed, tmp_path, start_relay):
    """js-libp2p has the reservation, and we dial it."""
    async with start_relay() as relay:
        reserve = "--reserve", relay.addrs[0]
        async with (
            js_relay_peer(js_installed, tmp_path, "js-target", *reserve) as js,
            our_node() as alice,
            relay_client(alice),
        ):
            assert isinstance(js, ScriptPeer)
            await eventually_reserved(js, relay)
            await alice.connect(f"{relay.addrs[0]}/p2p-circuit/p2p/{js.peer_id}")
            assert path_to(alice, js.peer_id) == "relayed"
            async with await alice.open_stream(js.peer_id, ECHO) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_exactly(5) == b"hello"


async def eventually_reserved(js: ScriptPeer, relay: ForeignPeer) -> None:
    with trio.fail_after(20):
        while relay.peer_id not in await js.peers():
            await trio.sleep(0.05)
        await trio.sleep(0.5)
