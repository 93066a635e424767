"""Which addresses of a relay are told to others as ways to this node: pure.

A relay says itself where it is reached, and may lie: then peers would knock at doors of
somebody else. So at most eight are passed on for each relay, without effect on anybody but
for a refused handshake, and private ones only of hosts that this node reaches there.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import DIRECT_KINDS, ip_of, kind_of, split_peer
from lattica.nat.base.net.ip import IpAddress, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.targets import Claim, Vantage, may_reach
from lattica.nat.traversal.relay.circuit import circuit_addr

MAX_PER_RELAY = 8


def own_addrs_of(
    relay: PeerId, advertised: Iterable[Multiaddr], used: Iterable[Multiaddr]
) -> list[Multiaddr]:
    """The addresses of a relay that are believed, without `/p2p/ID`, public ones first.

    `advertised` are those that the relay gives, `used` those at which this node reaches it or was
    told by its user to do so.
    """
    certain = [base for base, _ in map(split_peer, used) if kind_of(base) in DIRECT_KINDS]
    hosts = {ip for ip in map(ip_of, certain) if ip is not None}
    claimed = [
        base
        for base, named in map(split_peer, advertised)
        if named in (None, relay)
        and kind_of(base) in DIRECT_KINDS
        and ((ip := ip_of(base)) is None or ip in hosts or may_reach(Claim.RELAY, ip, Vantage()))
    ]
    found = sorted(dict.fromkeys([*certain, *claimed]), key=_rank)
    if found and _rank(found[0]) < 2:
        found = [addr for addr in found if _rank(addr) < 2]
    return found[:MAX_PER_RELAY]


@lru_cache(maxsize=64)
def relayed_addrs(
    relay: PeerId, advertised: tuple[Multiaddr, ...], used: tuple[Multiaddr, ...]
) -> tuple[Multiaddr, ...]:
    """`/RELAYADDR/p2p/RELAY/p2p-circuit` for each of :func:`own_addrs_of`."""
    return tuple(circuit_addr(addr, relay) for addr in own_addrs_of(relay, advertised, used))


def is_public(ip: IpAddress | None) -> bool:
    """Whether everybody can reach an address; None stands for a name."""
    return ip is None or is_public_host(ip)


def _rank(addr: Multiaddr) -> int:
    ip = ip_of(addr)
    if is_public(ip):
        return 0
    return 2 if ip is not None and ip.is_loopback else 1
