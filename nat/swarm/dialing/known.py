"""Which of the addresses that are known of a peer are dialed, by who has said them.

What the application has given is dialed as it is, and so is an address at which a dial has worked.
What a peer has said of itself is judged by :mod:`lattica.nat.base.net.targets`, looked up with care
and dialed now and then. Else whoever breaks a connection could have this node dial what it likes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import ip_of, order_addresses, relay_of, split_peer
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.base.net.ip import IpAddress, is_public_host
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.names import needs_resolving, resolve
from lattica.nat.base.net.targets import Claim, TargetBudget, Vantage, may_reach
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.addresses.address_book import AddressBook

MAX_TOLD = 8
"""Addresses that a peer has said of itself which are dialed at a time."""
MAX_TOLD_NAMES = 2
"""Names among them that are looked up."""
_MAX_PEERS = 4096
_MAX_PLACES = 8


class KnownAddresses:
    """The addresses of one node's peers that may be dialed.

    Args:
        own_addrs: where this node is seen from outside.
        clock: seconds.
        is_connected: whether a peer is.
        may_look_up: whether the name in an address may be looked up.
    """

    def __init__(
        self,
        book: AddressBook,
        own_addrs: Callable[[], Iterable[Multiaddr]],
        clock: Callable[[], float],
        *,
        is_connected: Callable[[PeerId], bool] = lambda _: False,
        may_look_up: Callable[[Multiaddr], bool] = lambda _: True,
    ) -> None:
        self._book = book
        self._own_addrs = own_addrs
        self._is_connected = is_connected
        self._may_look_up = may_look_up
        self._budget = TargetBudget(clock)
        self._met: OrderedDict[PeerId, OrderedDict[Multiaddr, bool]] = OrderedDict()
        """Where peers were connected, and whether this node had dialed them there."""

    def on_connected(self, connection: Connection) -> None:
        """The peer is at the other end of a connection that is not relayed, or is."""
        if connection.is_relayed:
            return
        places = self._met.pop(connection.peer_id, None) or OrderedDict()
        self._met[connection.peer_id] = places
        addr, _ = split_peer(connection.remote_addr)
        dialed = places.pop(addr, False) or connection.direction is Direction.OUTBOUND
        places[addr] = dialed
        while len(places) > _MAX_PLACES:
            places.popitem(last=False)
        while len(self._met) > _MAX_PEERS:
            self._met.popitem(last=False)

    async def of(self, peer_id: PeerId) -> list[Multiaddr]:
        """What may be dialed now; what is counted for it is counted.

        Cancellation: at any time.
        """
        given, told = self._book.by_source(peer_id)
        places = self._met.get(peer_id) or OrderedDict[Multiaddr, bool]()
        worked = [addr for addr in told if places.get(addr)]
        rest = [addr for addr in told if not places.get(addr)]
        return [*given, *worked, *await self._judged(rest, _ips(places))]

    async def _judged(
        self, told: Iterable[Multiaddr], met_at: frozenset[IpAddress]
    ) -> list[Multiaddr]:
        numeric, named, names = list[Multiaddr](), list[Multiaddr](), list[Multiaddr]()
        for addr in told:
            if needs_resolving(addr):
                (names if self._may_look_up(addr) else named).append(addr)
            elif ip_of(addr) is not None:
                numeric.append(addr)
        names = names[:MAX_TOLD_NAMES]
        found = [*numeric, *named, *(await resolve(names) if names else ())]
        ours = {ip for ip in _ips(self._own_addrs()) if is_public_host(ip)}
        vantage = Vantage(local_interfaces(), met_at, bool(ours.intersection(_ips(found))))
        allowed = [addr for addr in found if self._may_reach(addr, vantage)]
        best = order_addresses(allowed, limit=MAX_TOLD) if allowed else []
        return [addr for addr in best if self._take(addr)]

    def _may_reach(self, addr: Multiaddr, vantage: Vantage) -> bool:
        """Whether the claim may reach the address."""
        relay, ip = relay_of(addr), ip_of(addr)
        # The peer says where somebody else is: whom we may know better.
        if relay is not None and self._is_connected(relay):
            return True
        if ip is None:
            return False
        if relay is None:
            return may_reach(Claim.PEER, ip, vantage)
        return may_reach(Claim.OTHERS, ip, Vantage(met_at=_ips(self._met.get(relay, ()))))

    def _take(self, addr: Multiaddr) -> bool:
        if (relay := relay_of(addr)) is not None and self._is_connected(relay):
            return True  # the relay is asked, and nobody dialed
        ip = ip_of(addr)
        return ip is not None and self._budget.take(ip)


def _ips(addrs: Iterable[Multiaddr]) -> frozenset[IpAddress]:
    return frozenset(ip for addr in addrs if (ip := ip_of(addr)) is not None)
