"""A swarm without the rest of a node, as services see it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import trio

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import split_peer, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.events import EventStream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.status import PathStatus, PeerStatus
from lattica.nat.swarm.swarm import Swarm


class SwarmHost:
    """A :class:`~lattica.nat.swarm.host.Host` on a swarm."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm

    @property
    def peer_id(self) -> PeerId:
        return self.swarm.identity.peer_id

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(with_peer(addr, self.peer_id) for addr in self.swarm.addrs)

    @property
    def announcing(self) -> tuple[str, ...]:
        return ()

    async def wait_announced(self, timeout: float, /) -> None:
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
        self.swarm.protocols.handle(
            protocol,
            handler,
            owner=owner,
            replace=replace,
            cancel_when_gone=cancel_when_gone,
            limit=limit,
        )

    def unhandle(self, protocol: str, *, owner: object) -> None:
        self.swarm.protocols.unhandle(protocol, owner=owner)

    async def connect(self, target: PeerId | Sequence[Multiaddr], /) -> PeerId:
        if isinstance(target, PeerId):
            return (await self.swarm.connect(target, [])).peer_id
        split = [split_peer(addr) for addr in target]
        connection = await self.swarm.connect(split[0][1], [addr for addr, _ in split])
        return connection.peer_id

    async def open_stream(self, peer: PeerId, protocol: str | Sequence[str], /) -> Stream:
        await self.connect(peer)
        return await self.swarm.open_stream(peer, protocol)

    def peers(self) -> tuple[PeerStatus, ...]:
        return tuple(PeerStatus(peer_id, "", ()) for peer_id in self.swarm.registry.by_peer)

    def path(self, peer: PeerId, /) -> PathStatus | None:
        connection = self.swarm.registry.best(peer)
        if connection is None:
            return None
        age = trio.current_time() - connection.established_at
        addr = connection.remote_addr
        return PathStatus(connection.path, addr, None, age, connection.session.rtt, (), None)

    def events(self) -> AbstractContextManager[EventStream]:
        return self.swarm.events.subscribe()
