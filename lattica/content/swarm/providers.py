"""Where providers of a content id come from: whom a fetch asks, and what of it is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lattica.content.manifest.cid import Cid
from lattica.content.swarm.messages import Member
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import ip_of, relay_of
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.targets import Claim, Vantage, may_reach
from lattica.nat.swarm.host import Host


class ProviderFinder(Protocol):
    """Something that knows who provides a content id: a DHT, for instance."""

    async def find_providers(self, cid: Cid, /) -> Sequence[Member]:
        """Peers that say that they have it, some seconds of looking; empty if there are none."""
        ...

    async def provide(self, cid: Cid, /) -> None:
        """Say for some time that this node has it. What comes of it is the finder's."""
        ...


def believed(node: Host, teller: PeerId, member: Member) -> Member:
    """A member, with those of the addresses told by a peer that this node may be sent to.

    Somebody on the internet must not have it scan its own networks
    (:mod:`lattica.nat.base.net.targets`).
    """
    path = node.path(teller)
    met = None if path is None else ip_of(path.addr)
    vantage = Vantage(local_interfaces(), allow_loopback=met is not None and met.is_loopback)
    return Member(member.peer_id, tuple(addr for addr in member.addrs if _may_reach(addr, vantage)))


def _may_reach(addr: Multiaddr, vantage: Vantage) -> bool:
    ip = ip_of(addr)
    if ip is None:
        return False
    claim = Claim.PEER if relay_of(addr) is None else Claim.OTHERS
    return may_reach(claim, ip, vantage)
