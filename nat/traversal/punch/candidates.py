"""Which addresses a peer is told for a direct connection, and which of a peer's are dialed. Pure.

A peer may name any address, so that what is dialed is limited in number, in hosts and in kind:
else this node would scan networks, its own before all, on behalf of a liar.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from lattica.nat.base.errors import AddressError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import (
    Kind,
    interface_addresses,
    ip_of,
    kind_of,
    order_addresses,
    split_peer,
    to_endpoint,
)
from lattica.nat.base.net.interfaces import Interface, LocalAddress
from lattica.nat.base.net.ip import IpAddress, is_host, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import ranked
from lattica.nat.base.net.targets import Claim, Vantage, may_reach

MAX_CLAIMED = 64
"""Addresses of a peer among which those are that are looked at."""
MAX_LOOKED_AT = 16
"""Addresses of a peer that are looked at, of those that could be dialed the best."""
MAX_DIALED = 8
MAX_PUBLIC_HOSTS = 3
"""Different public IP addresses of one peer that are dialed."""
_MAX_TOLD_OBSERVED = 4


def public_ips(addrs: Iterable[Multiaddr]) -> frozenset[IpAddress]:
    """The public IP addresses among some addresses."""
    ips = (ip_of(addr) for addr in addrs)
    return frozenset(ip for ip in ips if ip is not None and is_public_host(ip))


def to_advertise(
    outside: Iterable[Multiaddr],
    listening: Iterable[Multiaddr],
    *,
    kinds: Collection[Kind],
    interfaces: Sequence[Interface],
    local: Sequence[LocalAddress] = (),
    peer_ips: frozenset[IpAddress] | None = None,
    allow_loopback: bool = False,
    limit: int = MAX_LOOKED_AT,
) -> list[Multiaddr]:
    """What a peer is told of where to dial us, the best first, at most `limit`.

    `outside` are addresses at which others see us or that a router has opened, the best first;
    `listening` are those that are bound, wildcards allowed; `local` is of how much use the
    addresses of the interfaces are to others. Private addresses of ours are told
    only to a peer that may be in the same network: one whose public addresses `peer_ips` have
    one of ours among them, or are not known (None).
    """
    bound = interface_addresses(
        (addr for addr in listening if kind_of(addr) in kinds), interfaces=interfaces
    )
    seen = [addr for addr in outside if kind_of(addr) in kinds][:_MAX_TOLD_OBSERVED]
    ours = public_ips([*seen, *bound])
    near = peer_ips is None or bool(ours & peer_ips)
    public: list[Multiaddr] = []
    private: list[Multiaddr] = []
    for addr in (*seen, *bound):
        ip = ip_of(addr)
        if ip is None or not (is_host(ip) or ip.is_loopback):
            continue
        if is_public_host(ip):
            public.append(addr)
        elif allow_loopback if ip.is_loopback else near:
            private.append(addr)
    return ranked([*public, *private], local=local)[:limit]


def to_dial(
    claimed: Iterable[Multiaddr],
    peer_id: PeerId,
    *,
    kinds: Collection[Kind],
    ours: Collection[Multiaddr],
    interfaces: Sequence[Interface],
    proven_ips: frozenset[IpAddress] = frozenset(),
    allow_loopback: bool = False,
) -> list[Multiaddr]:
    """Those of the addresses that a peer claims to have which may be dialed, the best first.

    Public ones, at most :data:`MAX_PUBLIC_HOSTS` hosts (and only those in `proven_ips` if that
    is not empty: where the peer has been met before); private ones in a network of this machine,
    or anywhere if the peer claims a public IP address of ours, being behind the same NAT.
    Never loopback, link-local, multicast or unspecified ones, names, other peers' and our own:
    `ours` are the addresses, wildcards replaced, at which this node listens or is seen.
    """
    found: list[Multiaddr] = []
    for addr in islice(claimed, MAX_CLAIMED):
        try:
            base, named = split_peer(addr)
        except AddressError:
            continue
        if named in (None, peer_id) and kind_of(base) in kinds and ip_of(base) is not None:
            found.append(base)
    found = [addr for addr in dict.fromkeys(found) if to_endpoint(addr).port]
    if len(found) > MAX_LOOKED_AT:  # not every peer names the best first
        found = order_addresses(found, interfaces=interfaces, limit=MAX_LOOKED_AT)
    our_places = {(ip_of(addr), to_endpoint(addr).port) for addr in ours if ip_of(addr)}
    our_ips = public_ips(ours)
    same_site = bool(our_ips & public_ips(found))
    vantage = Vantage(interfaces, (), same_site, allow_loopback)
    near: list[Multiaddr] = []
    far: list[Multiaddr] = []
    hosts: set[IpAddress] = set()
    for addr in found:
        ip = ip_of(addr)
        if ip is None or (ip, to_endpoint(addr).port) in our_places:
            continue
        if is_public_host(ip):
            if proven_ips and ip not in proven_ips:
                continue
            if ip in hosts or len(hosts) < MAX_PUBLIC_HOSTS:
                hosts.add(ip)
                far.append(addr)
        elif may_reach(Claim.PEER, ip, vantage):
            near.append(addr)
    # Of the public ones there is always room for some.
    kept = near[: MAX_DIALED - min(len(far), MAX_DIALED // 2)]
    return [*kept, *far][:MAX_DIALED]


def predicted(claimed: Iterable[Multiaddr], listening: Iterable[Multiaddr]) -> list[Multiaddr]:
    """TCP addresses that a peer may have besides those it claims to have.

    A peer that listens on a port, `listening` as it says in identify, and knows its public IP
    address, may not know how that port is seen: because it was only ever seen at other ports that
    it dialed from. Most NATs keep the port of the first who uses it. At most four are guessed.
    """
    hosts = [
        ip
        for addr in islice(claimed, MAX_CLAIMED)
        if kind_of(addr) is Kind.TCP and (ip := ip_of(addr)) is not None and is_public_host(ip)
    ]
    ports = [
        to_endpoint(addr).port
        for addr in listening
        if kind_of(addr) is Kind.TCP and ip_of(addr) is not None
    ]
    return [
        Multiaddr(f"/ip{ip.version}/{ip}/tcp/{port}")
        for ip in list(dict.fromkeys(hosts))[:2]
        for port in list(dict.fromkeys(ports))[:2]
    ]
