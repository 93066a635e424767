"""Nodes of a DHT on hosts in memory, each at an address of the internet of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from lattica.dht.config import DhtConfig
from lattica.dht.dht import Dht
from lattica.nat.base.errors import NotConnectedError
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
from tests.support.doubles.memory_host import MemoryHost, MemoryNet, memory_net


class MemoryTies:
    """A host in memory as the DHT's :class:`~lattica.dht.client.ties.Ties`."""

    def __init__(self, host: MemoryHost, bootstrap: Sequence[PeerId] = ()) -> None:
        self._host = host
        self._bootstrap = bootstrap

    def addresses_of(self, peer_id: PeerId) -> Sequence[Multiaddr]:
        addr = self._addr_of(peer_id)
        return () if addr is None else (addr,)

    def is_connected(self, peer_id: PeerId) -> bool:
        return peer_id in self._host.connections

    def met_at(self, peer_id: PeerId) -> Multiaddr | None:
        return self._addr_of(peer_id) if self.is_connected(peer_id) else None

    def _addr_of(self, peer_id: PeerId) -> Multiaddr | None:
        """None: it is in the net no more, whose connections may still be there."""
        host = self._host.net.hosts.get(peer_id)
        return None if host is None else host.addr

    async def wait_addresses(self, peer_id: PeerId) -> None:
        await trio.lowlevel.checkpoint()

    async def open_stream(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr] | None, protocol: str
    ) -> Stream:
        if addrs is None and not self.is_connected(peer_id):
            raise NotConnectedError(f"{peer_id} is not connected")
        return await self._host.open_stream(peer_id, protocol)

    def bootstrap_peers(self) -> Sequence[PeerId]:
        return self._bootstrap

    def is_reachable(self) -> bool | None:
        return True


class MemoryDhtNet:
    """The nodes, which all know the first."""

    def __init__(self, net: MemoryNet, clock: Callable[[], float]) -> None:
        self.net = net
        self.clock = clock
        self.hosts: list[MemoryHost] = []

    def host(self) -> MemoryHost:
        """A host that does not serve the DHT, or not yet."""
        host = self.net.host()
        self.hosts.append(host)
        number = len(self.hosts)
        host.addr = Multiaddr(f"/ip4/8.{number // 250}.{number % 250}.1/tcp/4001")
        return host

    def add(
        self,
        config: DhtConfig | None = None,
        *,
        host: MemoryHost | None = None,
        path: Path | None = None,
        clock: Callable[[], float] | None = None,
    ) -> Dht:
        """One more node."""
        bootstrap = [self.hosts[0].peer_id] if self.hosts else []
        host = host or self.host()
        return Dht(
            host,
            self.net.nursery,
            config or DhtConfig(),
            identity=host.identity,
            ties=MemoryTies(host, [peer for peer in bootstrap if peer != host.peer_id]),
            path=path,
            clock=clock or self.clock,
        )


@asynccontextmanager
async def memory_dht_net(clock: Callable[[], float] = time.time) -> AsyncIterator[MemoryDhtNet]:
    """A net that ends with the block, with all of its nodes."""
    async with memory_net() as net:
        yield MemoryDhtNet(net, clock)
