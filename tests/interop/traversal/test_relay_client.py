"""Our node as the client of foreign relays: reserving, being dialed through them, dialing.

Foreign relays limit what a circuit may carry (go: 128 KiB and two minutes unless told
otherwise), and go and js peers open streams over such circuits only for protocols that ask
for it; so mostly it is our side that calls.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from lattica.content import Publisher, Ticket, fetch
from lattica.content.events import FetchEvent, Retrying
from lattica.errors import DialError
from lattica.nat.base.keys.identity import parse_peer_id
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.node import Node
from tests.interop.foreign import EchoResult, ForeignPeer
from tests.interop.godaemon import go_daemon
from tests.interop.ours import (
    LOOPBACK,
    PATIENCE,
    call_echo,
    eventually,
    our_node,
    partner_connected,
)
from tests.interop.traversal.relays import go_relay, js_relay_peer, relayed_node

pytestmark = pytest.mark.foreign

SIZE = 20 * 1024

StartRelay = Callable[[], AbstractAsyncContextManager[ForeignPeer]]


@pytest.fixture(params=["go", "js"])
def start_relay(request: pytest.FixtureRequest, tmp_path: Path) -> StartRelay:
    """Starts a relay of another implementation."""
    installed: Path = request.getfixturevalue(f"{request.param}_installed")
    if request.param == "go":
        return lambda: go_relay(installed, tmp_path)
    return lambda: js_relay_peer(installed, tmp_path, "js-relay", "--serve")


@asynccontextmanager
async def reachable_through(
    relay: ForeignPeer, listen: tuple[str, ...] = LOOPBACK
) -> AsyncIterator[tuple[Node, str]]:
    """A node of ours with a reservation at `relay`, and its relayed address."""
    async with relayed_node(relay.addrs[0], listen) as bob:
        (addr, *_) = bob.traversal.relays.addrs
        assert str(addr).endswith(f"/p2p/{relay.peer_id}/p2p-circuit")
        yield bob, f"{addr}/p2p/{bob.peer_id}"


def path_to(node: Node, peer: str) -> str:
    connection = node.swarm.registry.best(parse_peer_id(peer))
    return "" if connection is None else connection.path


async def test_reservation(start_relay):
    async with start_relay() as relay, reachable_through(relay) as (bob, _):
        (status,) = bob.traversal.relays.status()
        assert str(status.relay) == relay.peer_id
        assert status.reserved_until is not None
        assert status.last_error == ""


async def test_two_of_ours_meet(start_relay):
    async with (
        start_relay() as relay,
        reachable_through(relay) as (bob, addr),
        relayed_node() as alice,
    ):
        await alice.connect(addr)
        for here, there in ((alice, bob), (bob, alice)):
            assert path_to(here, str(there.peer_id)) == "relayed"
            same = EchoResult(SIZE, SIZE, same=True)
            assert await call_echo(here, str(there.peer_id), SIZE) == same


async def fetch_through(relay: ForeignPeer, source: Path, out: Path) -> list[str]:
    """Fetch by the relay alone; return what was said of each loss of the connection."""
    lost: list[str] = []

    def watch(event: FetchEvent) -> None:
        if isinstance(event, Retrying):
            lost.append(event.error)

    async with (
        reachable_through(relay, listen=()) as (bob, addr),
        Publisher(bob) as publisher,
        relayed_node(listen=()) as alice,
    ):
        ticket = await publisher.publish(source)
        ticket = Ticket.make(ticket.cid, bob.peer_id, [Multiaddr(addr)])
        await fetch(alice, ticket, out, progress=watch)
    return lost


async def test_a_fetch_of_more_than_one_circuit_carries(go_installed, tmp_path):
    source = tmp_path / "weights.bin"
    source.write_bytes(random.Random(5).randbytes(1 << 20))
    # The daemon starts two relay services, one of which allows 4 GiB; which one serves is chance.
    for attempt in range(20):
        out = tmp_path / f"out{attempt}"
        async with go_relay(go_installed, tmp_path) as relay:
            lost = await fetch_through(relay, source, out)
        assert (out / source.name).read_bytes() == source.read_bytes()
        if lost:
            break
    else:
        pytest.skip("the daemon never had go-libp2p's default limit")
    assert all("this relay allows 131072 bytes each way" in text for text in lost), lost


async def test_peer_without_a_reservation(start_relay):
    async with start_relay() as relay, our_node() as bob, relayed_node() as alice:
        with pytest.raises(DialError, match="NO_RESERVATION"):
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
    async with (
        js_relay_peer(js_installed, tmp_path, "js-relay", "--serve") as relay,
        reachable_through(relay) as (bob, addr),
        js_relay_peer(js_installed, tmp_path, "js-dialer") as js,
    ):
        await js.connect(addr)
        await eventually(lambda: path_to(bob, js.peer_id) == "relayed", "a relayed connection")
        assert await js.ping(str(bob.peer_id)) is not None
        assert await call_echo(bob, js.peer_id, SIZE) == EchoResult(SIZE, SIZE, same=True)


async def test_js_is_dialed(js_installed, tmp_path, start_relay):
    """js-libp2p has the reservation, and we dial it."""
    async with (
        start_relay() as relay,
        js_relay_peer(js_installed, tmp_path, "js-target", "--reserve", relay.addrs[0]) as js,
        relayed_node() as alice,
    ):
        addr = f"{relay.addrs[0]}/p2p-circuit/p2p/{js.peer_id}"
        with trio.fail_after(PATIENCE):
            while not alice.is_connected(js.peer_id):
                with suppress(DialError):  # until js has its reservation
                    await alice.connect(addr)
                await trio.sleep(0.05)
        assert path_to(alice, js.peer_id) == "relayed"
        assert await call_echo(alice, js.peer_id, SIZE) == EchoResult(SIZE, SIZE, same=True)
