"""Addresses of a peer that somebody else has told of: which of them this node may be sent to."""

from __future__ import annotations

from collections.abc import Iterable

from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.net.addresses import ip_of, relay_of, with_peer
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.targets import Claim, Vantage, may_reach
from lattica.nat.swarm.host import Host


def believed(
    host: Host, teller: PeerId, peer_id: PeerId, addrs: Iterable[Multiaddr]
) -> tuple[Multiaddr, ...]:
    """Those of a peer's addresses, told by a connected one, that may be dialed, with its ID.

    Somebody on the internet must not have this node scan its own networks
    (:mod:`lattica.nat.base.net.targets`); whoever is on this machine's loopback may name others
    there.
    """
    path = host.path(teller)
    return judged(None if path is None else ip_of(path.addr), peer_id, addrs)


def judged(
    teller_ip: IpAddress | None, peer_id: PeerId, addrs: Iterable[Multiaddr]
) -> tuple[Multiaddr, ...]:
    """The same, of somebody at an IP address."""
    vantage = Vantage(
        local_interfaces(), allow_loopback=teller_ip is not None and teller_ip.is_loopback
    )
    return tuple(with_peer(addr, peer_id) for addr in addrs if _may_reach(addr, vantage))


def _may_reach(addr: Multiaddr, vantage: Vantage) -> bool:
    ip = ip_of(addr)
    if ip is None:
        return False  # a name may lead anywhere
    claim = Claim.PEER if relay_of(addr) is None else Claim.OTHERS
    return may_reach(claim, ip, vantage)
