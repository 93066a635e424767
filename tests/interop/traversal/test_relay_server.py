"""Our relay with foreign clients: they reserve, are reached through it, and dial through it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from lattica.config import NodeConfig
from lattica.nat.base.keys.identity import parse_peer_id
from lattica.nat.config import SwarmConfig
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.path_plan import PathConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.server.events import (
    CircuitOpened,
    Refused,
    RelayEvent,
    ReservationMade,
)
from lattica.nat.traversal.relay.server.limits import RelayLimits, RelayServerConfig, StrangerLimits
from lattica.node import Node
from tests.interop.foreign import (
    ECHO,
    EchoResult,
    ForeignError,
    ForeignPeer,
    original_peer,
)
from tests.interop.godaemon import GoDaemon, go_daemon
from tests.interop.ours import (
    LOOPBACK,
    PATIENCE,
    address,
    call_echo,
    eventually,
    partner_connected,
    ping,
)
from tests.interop.traversal.relays import js_relay_peer
from tests.support.nets.nets import echo

pytestmark = pytest.mark.foreign

SIZE = 3 * 1024 * 1024
SAME = EchoResult(SIZE, SIZE, same=True)
UNLIMITED = RelayLimits(
    open_to_strangers=True,
    strangers_rate=0,
    for_strangers=StrangerLimits(duration=0, data=0, rate=0),
)


class OurRelay:
    """A node of ours that relays for everybody, and what its relay has said."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.addr = address(node)
        self.events: list[RelayEvent] = []
        service = node.traversal.relay_service
        assert service is not None
        service.on_event.append(self.events.append)

    def has_reserved(self, peer: str) -> bool:
        peer_id = parse_peer_id(peer)
        return any(isinstance(e, ReservationMade) and e.peer_id == peer_id for e in self.events)

    def has_connected(self, source: str, target: str) -> bool:
        return CircuitOpened(parse_peer_id(source), parse_peer_id(target)) in self.events

    def to(self, peer: object) -> str:
        return f"{self.addr}/p2p-circuit/p2p/{peer}"


@asynccontextmanager
async def our_relay(limits: RelayLimits = UNLIMITED) -> AsyncIterator[OurRelay]:
    config = NodeConfig(
        swarm=SwarmConfig(listen=LOOPBACK),
        nat=TraversalConfig(relay_server=RelayServerConfig(enabled=True, limits=limits)),
    )
    async with Node(config) as node:
        yield OurRelay(node)


@asynccontextmanager
async def relayed_node(*relays: str) -> AsyncIterator[Node]:
    """A node of ours that reserves at `relays`, and looks for no direct paths."""
    nat = TraversalConfig(relay=RelayClientConfig(relays=relays), paths=PathConfig(enabled=False))
    async with Node(NodeConfig(swarm=SwarmConfig(listen=LOOPBACK), nat=nat)) as node:
        node.handle(ECHO, echo)
        if relays:
            await node.traversal.relays.wait_ready(PATIENCE)
        yield node


def path_to(node: Node, peer: str) -> str:
    connection = node.swarm.registry.best(parse_peer_id(peer))
    return "" if connection is None else connection.path


def go_behind(installed: Path, folder: Path, relay: str) -> AbstractAsyncContextManager[GoDaemon]:
    """A p2pd that believes to be unreachable, and reserves at `relay`."""
    options = ("-forceReachabilityPrivate", "-relayDiscovery=false", "-autoRelay", "-dhtClient")
    return go_daemon(installed, folder, *options, "-trustedRelays", relay)


Behind = Callable[[str], AbstractAsyncContextManager[ForeignPeer]]


@pytest.fixture(params=["go", "js"])
def start_behind(request: pytest.FixtureRequest, tmp_path: Path) -> Behind:
    """Starts a partner that reserves at the relay whose address it gets."""
    installed: Path = request.getfixturevalue(f"{request.param}_installed")
    if request.param == "go":
        return lambda relay: go_behind(installed, tmp_path, relay)
    return lambda relay: js_relay_peer(installed, tmp_path, "js-target", "--reserve", relay)


async def test_partner_reserves_and_is_reached(start_behind):
    async with our_relay() as relay, start_behind(relay.addr) as partner, relayed_node() as alice:
        await eventually(lambda: relay.has_reserved(partner.peer_id), "a reservation")
        await alice.connect(relay.to(partner.peer_id))
        assert relay.has_connected(str(alice.peer_id), partner.peer_id)
        # go ends both directions at once.
        result = await call_echo(alice, partner.peer_id, SIZE, half_close_first=False)
        assert result == SAME
        await ping(alice, partner.peer_id)
        assert path_to(alice, partner.peer_id) == "relayed"


async def test_partner_is_reached_within_limits(js_installed, tmp_path):
    limits = RelayLimits(open_to_strangers=True)
    async with (
        our_relay(limits) as relay,
        js_relay_peer(js_installed, tmp_path, "js-target", "--reserve", relay.addr) as js,
        relayed_node() as alice,
    ):
        await eventually(lambda: relay.has_reserved(js.peer_id), "a reservation")
        await alice.connect(relay.to(js.peer_id))
        await ping(alice, js.peer_id)


@pytest.mark.parametrize("name", ["go", "js"])
async def test_partner_dials_ours_through_our_relay(request, tmp_path, name):
    installed: Path = request.getfixturevalue(f"{name}_installed")
    partner: AbstractAsyncContextManager[ForeignPeer]
    if name == "go":
        partner = go_daemon(installed, tmp_path)
    else:
        partner = js_relay_peer(installed, tmp_path, "js-dialer")
    async with our_relay() as relay, relayed_node(relay.addr) as bob, partner as dialer:
        await dialer.connect(relay.to(bob.peer_id))
        await partner_connected(dialer, bob.peer_id)
        assert relay.has_connected(dialer.peer_id, str(bob.peer_id))
        assert await dialer.ping(str(bob.peer_id)) is not None
        # The other way on the same connection.
        result = await call_echo(bob, dialer.peer_id, SIZE, half_close_first=False)
        assert result == SAME
        assert path_to(bob, dialer.peer_id) == "relayed"


async def test_js_dials_js_through_our_relay(js_installed, tmp_path):
    async with (
        our_relay() as relay,
        js_relay_peer(js_installed, tmp_path, "js-target", "--reserve", relay.addr) as target,
        js_relay_peer(js_installed, tmp_path, "js-dialer") as dialer,
    ):
        await eventually(lambda: relay.has_reserved(target.peer_id), "a reservation")
        await dialer.connect(relay.to(target.peer_id))
        assert relay.has_connected(dialer.peer_id, target.peer_id)
        assert await dialer.ping(target.peer_id) is not None


async def test_the_original_reserves_and_is_reached(original_installed, tmp_path):
    async with (
        our_relay() as relay,
        original_peer(original_installed, tmp_path, relays=[relay.addr]) as original,
        relayed_node() as alice,
    ):
        await eventually(lambda: relay.has_reserved(original.peer_id), "a reservation")
        await alice.connect(relay.to(original.peer_id))
        assert relay.has_connected(str(alice.peer_id), original.peer_id)
        await ping(alice, original.peer_id)


async def test_the_original_dials_through_our_relay(original_installed, tmp_path):
    async with our_relay() as relay, relayed_node(relay.addr) as bob:
        dial = [relay.to(bob.peer_id)]
        # Without a relay of its own it does not dial through one.
        started = original_peer(original_installed, tmp_path, dial, relays=[relay.addr])
        async with started as original:
            await bob.wait_connected(original.peer_id, timeout=PATIENCE)
            assert relay.has_connected(original.peer_id, str(bob.peer_id))
            await ping(bob, original.peer_id)


async def test_partner_that_is_not_allowed_gets_nothing(js_installed, tmp_path):
    async with our_relay(RelayLimits()) as relay:
        reserve = "--reserve", relay.addr
        with pytest.raises(ForeignError, match="PERMISSION_DENIED"):
            async with js_relay_peer(js_installed, tmp_path, "js", *reserve):
                pass
        (refused,) = relay.events
        assert isinstance(refused, Refused)
