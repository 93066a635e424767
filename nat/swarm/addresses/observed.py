"""At which addresses other peers see this node, as they say in identify messages.

Only peers that this node has dialed from its listening port are believed to see anything of
use: the address at which such a peer sees us is the one that a NAT in between has given to
that port, and to which a hole can be punched. What they say may be a lie; who uses it must
not come to harm by that.
"""

from __future__ import annotations

from collections import OrderedDict

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, ip_of, kind_of, split_peer, to_endpoint
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection, Direction

_MAX_OBSERVATIONS = 128


class ObservedAddresses:
    """The latest observation of each observer, by kind of address and IP version."""

    def __init__(self) -> None:
        self._by_observer: OrderedDict[tuple[PeerId, Kind, int], Multiaddr] = OrderedDict()

    def record(self, connection: Connection, addr: Multiaddr, ports: frozenset[int]) -> None:
        """A peer says that it sees us at `addr`; `ports` are those that this node listens on."""
        addr, _ = split_peer(addr)
        kind, ip = kind_of(addr), ip_of(addr)
        if (
            ip is None
            or kind is not kind_of(connection.remote_addr)
            or not shows_a_port(connection, ports)
        ):
            return
        key = connection.peer_id, kind, ip.version
        self._by_observer.pop(key, None)
        self._by_observer[key] = addr
        while len(self._by_observer) > _MAX_OBSERVATIONS:
            self._by_observer.popitem(last=False)

    def lacks(self, connection: Connection, ports: frozenset[int]) -> bool:
        """Whether the peer sees a port that this node listens on by a connection, and has not said
        at which address.
        """
        kind, ip = kind_of(connection.remote_addr), ip_of(connection.remote_addr)
        return (
            ip is not None
            and shows_a_port(connection, ports)
            and (connection.peer_id, kind, ip.version) not in self._by_observer
        )

    def addrs(self, kind: Kind) -> list[Multiaddr]:
        """Where the listening port of this kind was seen, newest first, without duplicates."""
        found = [addr for addr in self._by_observer.values() if kind_of(addr) is kind]
        return list(dict.fromkeys(reversed(found)))

    def clear(self) -> None:
        """Forget everything: the network is another one."""
        self._by_observer.clear()


def shows_a_port(connection: Connection, ports: frozenset[int]) -> bool:
    """Whether the peer sees by a connection what a NAT has given to a port of these."""
    return (
        connection.direction is Direction.OUTBOUND
        and kind_of(connection.remote_addr) in (Kind.TCP, Kind.QUIC)
        and to_endpoint(connection.local_addr).port in ports
    )
