"""Relays, and swarms that use them, on the loopback interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit import circuit_addr
from lattica.nat.traversal.relay.circuit_transport import CircuitTransport
from lattica.nat.traversal.relay.client.client import RelayClient
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.messages import HOP, HopMessage, StopMessage, encode
from lattica.nat.traversal.relay.server.limits import RelayLimits
from lattica.nat.traversal.relay.server.service import RelayService
from tests.support.nets.nets import running


def addr_of(swarm: Swarm) -> Multiaddr:
    """Where a swarm listens, with its ID."""
    return with_peer(swarm.addrs[0], swarm.identity.peer_id)


def framed(message: HopMessage | StopMessage) -> bytes:
    """A message as it goes onto a stream, for those who send other things with it."""
    return encode_length_prefixed(encode(message))


def through(relay: Swarm, target: Swarm | PeerId) -> Multiaddr:
    """The way to a peer through a relay."""
    peer = target if isinstance(target, PeerId) else target.identity.peer_id
    return with_peer(circuit_addr(relay.addrs[0], relay.identity.peer_id), peer)


@dataclass
class Relay:
    swarm: Swarm
    service: RelayService

    def die(self) -> None:
        """Lose all connections at once, as a process that is killed, and take no new ones."""
        for listener in self.swarm.listeners._all:
            self.swarm.start_soon(listener.aclose)
        for connection in self.swarm.registry:
            connection.abort("the test kills the relay")


@asynccontextmanager
async def relaying(
    identity: Identity | None = None, limits: RelayLimits | None = None, **changes: Any
) -> AsyncIterator[Relay]:
    """A relay that is open to everybody; `changes` are fields of its swarm's configuration."""
    limits = limits or RelayLimits(open_to_strangers=True)
    async with running(identity, **changes) as swarm, trio.open_nursery() as nursery:
        service = RelayService(swarm, limits)
        swarm.protocols.handle_all(service.handlers)
        await nursery.start(service.run)
        yield Relay(swarm, service)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def scripted_relay(handler: Callable[[Stream], Awaitable[object]]) -> AsyncIterator[Swarm]:
    """A relay that does what the test says with each request."""
    async with running() as swarm:
        swarm.protocols.handle(HOP, handler)
        yield swarm


def use_relays(swarm: Swarm, **changes: Any) -> CircuitTransport:
    """Let a swarm dial through relays, and take circuits."""
    transport = CircuitTransport(swarm, RelayClientConfig(**changes))
    swarm.add_transport(transport)
    swarm.protocols.handle_all(transport.handlers)
    return transport


@asynccontextmanager
async def reserving(
    swarm: Swarm, *relays: Multiaddr, more: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[RelayClient]:
    """A relay client on a swarm; `changes` are of its configuration, `more` other arguments."""
    config = RelayClientConfig(relays=tuple(map(str, relays)), **changes)
    transport = CircuitTransport(swarm, config)
    swarm.add_transport(transport)
    swarm.protocols.handle_all(transport.handlers)
    client = RelayClient(swarm, transport, config, **(more or {}))
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()


@dataclass
class Relayed:
    """Two peers that know one another through a relay only."""

    alice: Swarm
    bob: Swarm
    relay: Relay

    async def connect(self) -> None:
        """Let Alice dial Bob."""
        bob = self.bob.identity.peer_id
        await self.alice.dial(bob, [through(self.relay.swarm, bob)])


@asynccontextmanager
async def relayed_pair(limits: RelayLimits | None = None) -> AsyncIterator[Relayed]:
    """Alice is connected to Bob, who has a reservation."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relaying(limits=limits))
        alice = await stack.enter_async_context(running())
        bob = await stack.enter_async_context(running())
        use_relays(alice)
        client = await stack.enter_async_context(reserving(bob, addr_of(relay.swarm)))
        await client.wait_ready(60)
        pair = Relayed(alice, bob, relay)
        await pair.connect()
        yield pair
