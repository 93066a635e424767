"""What the DHT needs of its node beyond a :class:`~lattica.nat.swarm.host.Host`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.stream import Stream


class Ties(Protocol):
    """For the trio thread only."""

    def addresses_of(self, peer_id: PeerId, /) -> Sequence[Multiaddr]:
        """Where a peer is, as it has said or the application has."""
        ...

    def is_connected(self, peer_id: PeerId, /) -> bool:
        """Whether there is a connection to a peer, over a relay or not."""
        ...

    def met_at(self, peer_id: PeerId, /) -> Multiaddr | None:
        """Where a peer is connected; None: it is not, or over a relay."""
        ...

    async def wait_addresses(self, peer_id: PeerId, /) -> None:
        """Wait until a connected peer has said where it is, or is gone."""
        ...

    async def open_stream(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr] | None, protocol: str, /
    ) -> Stream:
        """As :meth:`Host.open_stream`, but where the peer is not connected by dialing it at `addrs`
        and where it has said itself that it is. They are not remembered: the peer says which of
        them are its own. Nobody is asked where the peer is. Without `addrs` (None) it is not
        dialed: raises `NotConnectedError`.
        """
        ...

    def bootstrap_peers(self) -> Iterable[PeerId]:
        """Those of the configuration, as far as they are known."""
        ...

    def is_reachable(self) -> bool | None:
        """Whether strangers can connect to this node; None: nobody has tried."""
        ...
