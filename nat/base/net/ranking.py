"""Which addresses of a node are told first, where there is no room for all.

Every list of addresses that leaves this node is cut somewhere: a ticket has 16, other
implementations read the first few kilobytes of identify. So it is in this order, which keeps what
most peers can use, one of everything that may be the only way for somebody, and the rest last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from itertools import zip_longest

from lattica.nat.base.net.addresses import Kind, ip_of, kind_of, relay_of
from lattica.nat.base.net.interfaces import LocalAddress, Use, local_addresses
from lattica.nat.base.net.ip import IpAddress, is_host, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.network_groups import network_of

MAX_RELAYS_FIRST = 4
"""Relays whose addresses go before everything else; further ones follow the private networks."""
MAX_PER_RELAY_FIRST = 2
"""Addresses of each of these relays that do, of different kinds."""


class _Class(IntEnum):
    CERTAIN = 0
    """At a relay, or outside of a NAT as others have seen it or a router has opened it, or a
    name: nobody announces those without a reason."""
    PUBLIC = 1
    """The first of each network: where one of its hosts is reached, the others are."""
    PRIVATE = 2
    """The same; that of the default route before all."""
    MORE = 3
    """Further ways through a relay, and further addresses in the same network."""
    UNREACHED = 4
    """Public, but strangers were seen to fail there."""
    CONFINED = 5
    PASSING = 6
    DOWN = 7
    HERE = 8
    """Loopback."""


_OF_USE = {
    Use.CONFINED: _Class.CONFINED,
    Use.PASSING: _Class.PASSING,
    Use.DOWN: _Class.DOWN,
}


def ranked(
    addrs: Iterable[Multiaddr],
    *,
    local: Sequence[LocalAddress] | None = None,
    reachable: Collection[Multiaddr] = (),
    unreachable: Collection[Multiaddr] = (),
) -> list[Multiaddr]:
    """This node's addresses, without duplicates, those that are to be told first in front.

    First relayed ones (two for each of four relays) and those that others have found, in turns;
    then one host for each public network, then one for each private one, then what remains. Last
    are those on bridges with nobody but this machine's own containers, temporary and deprecated
    IPv6, those of interfaces that are down, and loopback. Among equals the order stays.

    Args:
        local: the addresses of this machine, by default
            :func:`~lattica.nat.base.net.interfaces.local_addresses`.
        reachable, unreachable: addresses at which strangers could connect, or failed to.
    """
    if local is None:
        local = local_addresses()
    classes: dict[_Class, list[Multiaddr]] = {each: [] for each in _Class}
    relayed: list[Multiaddr] = []
    sorter = _Sorter(local)
    unique = list(dict.fromkeys(addrs))
    for addr in sorted(unique, key=sorter.is_beside):
        if kind_of(addr) is Kind.CIRCUIT:
            if sorter.is_first_way(addr):
                relayed.append(addr)
            else:
                classes[sorter.relay_class(addr)].append(addr)
        elif addr in reachable:
            classes[_Class.CERTAIN].append(addr)
        elif addr in unreachable:
            classes[_Class.UNREACHED].append(addr)
        else:
            classes[sorter.direct_class(addr)].append(addr)
    turns = zip_longest(relayed, classes.pop(_Class.CERTAIN))
    found = [addr for turn in turns for addr in turn if addr is not None]
    return [*found, *(addr for each in _Class if each in classes for addr in classes[each])]


def fitting(addrs: Iterable[Multiaddr], count: int, size: int) -> tuple[Multiaddr, ...]:
    """The first of some addresses: at most `count`, of at most `size` bytes together."""
    found: list[Multiaddr] = []
    for addr in addrs:
        size -= len(addr.to_bytes())
        if size < 0 or len(found) >= count:
            break
        found.append(addr)
    return tuple(found)


class _Sorter:
    """What it takes to class one address after the other."""

    def __init__(self, local: Sequence[LocalAddress]) -> None:
        self._local: dict[IpAddress, LocalAddress] = {}
        for address in sorted(local, key=lambda each: each.use):
            self._local.setdefault(address.ip, address)
        self._ways: dict[object, list[Kind]] = {}
        self._first_hosts: dict[str, IpAddress] = {}

    def is_beside(self, addr: Multiaddr) -> bool:
        """Not an address of the interface that the rest of the world is reached by."""
        ip = ip_of(addr)
        known = None if ip is None else self._local.get(ip)
        return known is not None and not known.is_default

    def is_first_way(self, addr: Multiaddr) -> bool:
        ip = ip_of(addr)
        if ip is not None and (ip.is_loopback or ip.is_unspecified):
            return False
        relay, kind = relay_of(addr), _first_hop(addr)
        if relay not in self._ways and len(self._ways) >= MAX_RELAYS_FIRST:
            return False
        kinds = self._ways.setdefault(relay, [])
        if kind in kinds or len(kinds) >= MAX_PER_RELAY_FIRST:
            return False
        kinds.append(kind)
        return True

    def relay_class(self, addr: Multiaddr) -> _Class:
        ip = ip_of(addr)
        here = ip is not None and (ip.is_loopback or ip.is_unspecified)
        return _Class.HERE if here else _Class.MORE

    def direct_class(self, addr: Multiaddr) -> _Class:
        ip = ip_of(addr)
        if ip is None:
            return _Class.CERTAIN
        if ip.is_loopback or ip.is_unspecified:
            return _Class.HERE
        known = self._local.get(ip)
        if known is not None and known.use in _OF_USE:
            return _OF_USE[known.use]
        is_public = is_public_host(ip)
        if is_public and known is None and self._local:
            return _Class.CERTAIN
        if not is_public and not is_host(ip):
            return _Class.MORE
        network = network_of(ip) if known is None else str(known.interface.network)
        if self._first_hosts.setdefault(network, ip) != ip:
            return _Class.MORE
        return _Class.PUBLIC if is_public else _Class.PRIVATE


def _first_hop(addr: Multiaddr) -> Kind:
    """The kind of the address at which the relay itself is."""
    names = [name for name, _ in addr.components]
    before = names[: names.index("p2p-circuit")]
    if "udp" in before:
        return Kind.QUIC
    return Kind.WEBSOCKET if {"ws", "wss"} & set(before) else Kind.TCP
