"""Hosts that reach each other in memory: real connections and streams, and no swarm or socket.

For tests of services (:mod:`lattica.nat.swarm.host`)::

    async with memory_net() as net:
        server, client = net.host(), net.host()
        server.handle("/echo/1", echo, owner="test")
        async with await client.open_stream(server.peer_id, "/echo/1") as stream:
            ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager

import trio

from lattica.errors import DialError, NotConnectedError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.limits.places import source_of
from lattica.nat.base.net.addresses import split_peer, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.events import EventBus, EventStream, PeerConnected, PeerDisconnected
from lattica.nat.swarm.serving.protocols import ProtocolTable, StreamHandler
from lattica.nat.swarm.status import PathStatus, PeerStatus
from tests.support.pairs.connected import make_end, pipe_pair, upgraded_pair


class MemoryNet:
    """Hosts that know each other by their IDs."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.hosts: dict[PeerId, MemoryHost] = {}

    def host(self, identity: Identity | None = None) -> MemoryHost:
        """A new member."""
        made = MemoryHost(self, identity or Identity.generate())
        self.hosts[made.peer_id] = made
        return made

    def link(self, dialer: MemoryHost, listener: MemoryHost) -> Connection:
        """Connect two hosts; the dialer's end."""
        raws = pipe_pair()
        upgraded = upgraded_pair(dialer.identity, listener.identity)
        ends = [
            make_end(raw, one, on_stream=host.serve)
            for host, raw, one in zip((dialer, listener), raws, upgraded, strict=True)
        ]
        for host, other, end in zip((dialer, listener), (listener, dialer), ends, strict=True):
            if other.seen_at is not None:
                end.connection.session.source = source_of(other.seen_at, other.peer_id)
            host.take(end.connection)
        return ends[0].connection


class MemoryHost:
    """A :class:`~lattica.nat.swarm.host.Host`, with at most one connection to each peer."""

    def __init__(self, net: MemoryNet, identity: Identity) -> None:
        self.net = net
        self.identity = identity
        self.protocols = ProtocolTable(negotiate_timeout=10.0)
        self.connections: dict[PeerId, Connection] = {}
        self.addr = Multiaddr("/ip4/192.0.2.1/tcp/4001")
        """Where it says that it is."""
        self.seen_at: Multiaddr | None = None
        """Where others see that it is, for what is shared by network; None: nowhere."""
        self.is_reachable = True
        """Whether others can connect to it."""
        self._events = EventBus()

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        return (with_peer(self.addr, self.peer_id),)

    @property
    def announcing(self) -> tuple[str, ...]:
        return ()

    async def wait_announced(self, timeout: float) -> None:
        await trio.lowlevel.checkpoint()

    def handle(
        self,
        protocol: str,
        handler: StreamHandler,
        *,
        owner: object,
        replace: bool = False,
        cancel_when_gone: bool = False,
        limit: int | None = None,
    ) -> None:
        self.protocols.handle(
            protocol,
            handler,
            owner=owner,
            replace=replace,
            cancel_when_gone=cancel_when_gone,
            limit=limit,
        )

    def unhandle(self, protocol: str, *, owner: object) -> None:
        self.protocols.unhandle(protocol, owner=owner)

    async def connect(self, target: PeerId | Sequence[Multiaddr], /) -> PeerId:
        await trio.lowlevel.checkpoint()
        peer_id = target if isinstance(target, PeerId) else split_peer(target[0])[1]
        assert peer_id is not None
        if peer_id not in self.connections:
            peer = self.net.hosts.get(peer_id)
            if peer is None:
                raise NotConnectedError(f"no address of {peer_id} is known")
            if not peer.is_reachable:
                raise DialError(peer_id, [])
            self.net.link(self, peer)
        return peer_id

    async def open_stream(self, peer: PeerId, protocol: str | Sequence[str], /) -> Stream:
        await self.connect(peer)
        return await self.connections[peer].open(protocol)

    def peers(self) -> tuple[PeerStatus, ...]:
        return tuple(PeerStatus.of(peer, [each]) for peer, each in self.connections.items())

    def path(self, peer: PeerId, /) -> PathStatus | None:
        connection = self.connections.get(peer)
        if connection is None:
            return None
        age = trio.current_time() - connection.established_at
        rtt = connection.session.rtt
        return PathStatus(connection.path, connection.remote_addr, None, age, rtt, (), None)

    def events(self) -> AbstractContextManager[EventStream]:
        return self._events.subscribe()

    # --- for the test ---

    def drop(self, peer: PeerId) -> None:
        """Lose the connection to a peer."""
        self.connections[peer].abort("cut by the test")

    # --- for the net ---

    def take(self, connection: Connection) -> None:
        self.connections[connection.peer_id] = connection
        self.net.nursery.start_soon(self._run, connection)
        self._events.publish(
            PeerConnected(
                connection.peer_id, connection.remote_addr, connection.direction, connection.path
            )
        )

    def serve(self, stream: Stream) -> None:
        self.net.nursery.start_soon(self.protocols.serve, stream, lambda: None)

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            if self.connections.get(connection.peer_id) is connection:
                del self.connections[connection.peer_id]
            reason = connection.closed_reason or ""
            self._events.publish(
                PeerDisconnected(connection.peer_id, reason, connection.interrupted)
            )


@asynccontextmanager
async def memory_net() -> AsyncIterator[MemoryNet]:
    """A net that ends with the block, and with it all connections and handlers."""
    async with trio.open_nursery() as nursery:
        yield MemoryNet(nursery)
        nursery.cancel_scope.cancel()
