"""What the DHT needs of a node beyond its services' door: where peers are, and how to get there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lattica.nat.base.errors import ConnectionClosedError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.swarm import Swarm


class SwarmTies:
    """A swarm as the DHT's :class:`~lattica.dht.client.ties.Ties`.

    Args:
        bootstrap: peers of the configuration, as far as they are known.
    """

    def __init__(self, swarm: Swarm, bootstrap: Callable[[], Iterable[PeerId]]) -> None:
        self._swarm = swarm
        self.bootstrap_peers = bootstrap

    def addresses_of(self, peer_id: PeerId) -> Sequence[Multiaddr]:
        return self._swarm.address_book.addrs(peer_id)

    def is_connected(self, peer_id: PeerId) -> bool:
        return self._swarm.registry.best(peer_id) is not None

    def met_at(self, peer_id: PeerId) -> Multiaddr | None:
        best = self._swarm.registry.best(peer_id)
        return None if best is None or best.is_relayed else best.remote_addr

    async def wait_addresses(self, peer_id: PeerId) -> None:
        swarm = self._swarm
        while swarm.registry.best(peer_id) is not None and not swarm.address_book.addrs(peer_id):
            await swarm.wait_changed()

    async def open_stream(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr] | None, protocol: str
    ) -> Stream:
        swarm = self._swarm
        for last in (False, True):
            if addrs is not None and swarm.registry.best(peer_id) is None:
                known = [*addrs, *await swarm.known.of(peer_id)] if addrs else []
                await (swarm.dial(peer_id, known) if addrs else swarm.connect(peer_id))
            try:
                return await swarm.open_stream(peer_id, protocol)
            except ConnectionClosedError:
                # It was dead or superseded, and nothing was sent on it for the DHT.
                if last:
                    raise
        raise AssertionError("unreachable")

    def is_reachable(self) -> bool | None:
        own = self._swarm.own_addresses
        if own.reachable:
            return True
        return False if own.unreachable else None
