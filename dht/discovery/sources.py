"""Peers that are known or connected, and those that rendezvous points and the DHT know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

import trio

from lattica.dht.discovery.source import FoundPeer, Source
from lattica.dht.rendezvous.client import discover, register, unregister
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.addresses.believed import believed
from lattica.nat.swarm.addresses.told_names import ToldNames
from lattica.nat.swarm.host import Host

REPROVIDE = 22 * 3600.0
"""Seconds after which a provider record in the DHT is renewed."""


class StaticSource(Source):
    """Peers that the configuration names; they are told for every topic."""

    name = "static"
    is_met = True

    def __init__(self, addrs: Iterable[str]) -> None:
        self._peers: dict[PeerId, list[Multiaddr]] = {}
        for text in addrs:
            addr, peer_id = split_peer(parse_multiaddr(text))
            if peer_id is not None:
                self._peers.setdefault(peer_id, []).append(with_peer(addr, peer_id))

    async def find(self, topic: str) -> AsyncIterator[FoundPeer]:
        for peer_id, addrs in self._peers.items():
            yield FoundPeer(peer_id, tuple(addrs), self.name)


class TopicSource(Source):
    """Connected peers that have subscribed to the topic: subscribing is what advertises it."""

    name = "topic"
    is_met = True

    def __init__(self, peers: Callable[[str], Iterable[PeerId]]) -> None:
        self._peers = peers

    async def find(self, topic: str) -> AsyncIterator[FoundPeer]:
        for peer_id in self._peers(topic):
            yield FoundPeer(peer_id, (), self.name)


class RendezvousSource(Source):
    """A rendezvous point.

    Args:
        addr: where it is, with `/p2p/ID`.
        own_record: this node's signed peer record.
        names: looks up the names among addresses.
    """

    name = "rendezvous"

    def __init__(
        self,
        host: Host,
        addr: str,
        own_record: Callable[[], bytes],
        names: ToldNames | None = None,
    ) -> None:
        self._host = host
        self._addr = parse_multiaddr(addr)
        self._own_record = own_record
        self._names = names or ToldNames(trio.current_time)

    async def _point(self) -> PeerId:
        return await self._host.connect([self._addr])

    async def advertise(self, topic: str) -> float | None:
        point = await self._point()
        return 0.5 * await register(self._host, point, topic, self._own_record())

    async def withdraw(self, topic: str) -> None:
        await unregister(self._host, await self._point(), topic)

    async def find(self, topic: str) -> AsyncIterator[FoundPeer]:
        point = await self._point()
        async for meeting in discover(self._host, point, topic):
            peer_id = meeting.record.peer_id
            told = meeting.record.addrs
            addrs = believed(self._host, point, peer_id, told)
            if not addrs:
                found = await self._names.resolved(told)
                addrs = tuple(with_peer(addr, peer_id) for addr in found)
            yield FoundPeer(peer_id, addrs, self.name)


class Provider(Protocol):
    """A peer that the DHT has found."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def addrs(self) -> tuple[Multiaddr, ...]: ...


class Providers(Protocol):
    """What of a DHT is needed here; :class:`lattica.Node` hands it in."""

    async def provide(self, key: str, /) -> int:
        """Be found under a key; how many peers hold that."""
        ...

    def find_providers(self, key: str, /) -> AsyncIterator[Provider]:
        """Who is found under it."""
        ...

    async def withdraw(self, key: str, /) -> int:
        """Be found there no more."""
        ...


class DhtSource(Source):
    """The DHT: who advertises a topic provides the key `/topic/NAME`."""

    name = "dht"

    def __init__(self, providers: Providers) -> None:
        self._providers = providers

    async def advertise(self, topic: str) -> float | None:
        if not await self._providers.provide(f"/topic/{topic}"):
            raise LatticaError("no peer of the DHT has taken the record")
        return REPROVIDE

    async def withdraw(self, topic: str) -> None:
        await self._providers.withdraw(f"/topic/{topic}")

    async def find(self, topic: str) -> AsyncIterator[FoundPeer]:
        async for peer in self._providers.find_providers(f"/topic/{topic}"):
            yield FoundPeer(peer.peer_id, peer.addrs, self.name)
