"""What this node tells peers of itself, and which of their addresses it dials, as it is now."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, interface_addresses, kind_of
from lattica.nat.base.net.interfaces import local_addresses, local_interfaces
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.candidates import MAX_CLAIMED, public_ips, to_advertise, to_dial


class OwnSide:
    """The rules of :mod:`lattica.nat.traversal.punch.candidates`, applied to a swarm."""

    def __init__(self, swarm: Swarm, kinds: Collection[Kind], *, allow_loopback: bool) -> None:
        self._swarm = swarm
        self._gater = swarm.gater
        self._kinds = frozenset(kinds)
        self._allow_loopback = allow_loopback

    def advertised(self, peer_addrs: Iterable[Multiaddr] | None = None) -> list[Multiaddr]:
        """Where to dial us, for a peer; `peer_addrs` are those it has named, if it has."""
        return to_advertise(
            self._outside(),
            self._swarm.listen_addrs,
            kinds=self._kinds,
            interfaces=local_interfaces(),
            local=local_addresses(),
            peer_ips=None if peer_addrs is None else public_ips(peer_addrs),
            allow_loopback=self._allow_loopback,
        )

    def dialable(self, claimed: Sequence[Multiaddr], peer_id: PeerId) -> list[Multiaddr]:
        """Those of a peer's claimed addresses that may be dialed, the best first.

        None that the access rules forbid.
        """
        interfaces = local_interfaces()
        bound = interface_addresses(self._swarm.listen_addrs, interfaces=interfaces)
        return to_dial(
            [addr for addr in claimed[:MAX_CLAIMED] if self._is_allowed(addr)],
            peer_id,
            kinds=self._kinds,
            ours=[*self._outside(), *bound],
            interfaces=interfaces,
            proven_ips=self._proven_ips(peer_id),
            allow_loopback=self._allow_loopback,
        )

    def _is_allowed(self, addr: Multiaddr) -> bool:
        try:
            self._gater.check_address(addr)
        except LatticaError:  # forbidden, or not understood
            return False
        return True

    def _outside(self) -> list[Multiaddr]:
        swarm = self._swarm
        found = [
            *swarm.own_addresses.get("mapped"),
            *swarm.observed.addrs(Kind.TCP),
            *swarm.observed.addrs(Kind.QUIC),
            *swarm.own_addresses.get("observed"),
        ]
        return [addr for addr in dict.fromkeys(found) if kind_of(addr) is not Kind.CIRCUIT]

    def _proven_ips(self, peer_id: PeerId) -> frozenset[IpAddress]:
        """Public IP addresses at which the peer has proved to be."""
        return public_ips(
            connection.remote_addr
            for connection in self._swarm.registry.by_peer.get(peer_id, ())
            if not connection.is_relayed
        )
