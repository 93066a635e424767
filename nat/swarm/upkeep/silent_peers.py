"""Peers that are silent where only they could answer: busy, gone, or behind a path that is dead.

Over QUIC nothing but the peer's process acknowledges anything. It is waited for, as it may be
busy; meanwhile its other addresses are dialed. A peer that answers at one of them is not busy, and
the silent path is dead. Where only the system of its machine answers, for TCP, it is busy.
"""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import trio

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.net.addresses import Kind, ip_of, kind_of, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.addresses.address_book import AddressBook
from lattica.nat.swarm.dialing.dialer import Dialer

logger = logging.getLogger(__name__)


class SilentPeers:
    """Looks elsewhere for peers on whose connection nothing is heard, once in each silence."""

    def __init__(self, dialer: Dialer, address_book: AddressBook) -> None:
        self._dialer = dialer
        self._book = address_book
        self._seen: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        """Connections, and since when they have been silent."""

    def is_news(self, connection: Connection) -> bool:
        """Whether a connection's peer has become silent; True once."""
        since = connection.session.last_received
        if not connection.in_doubt or self._seen.get(connection) == since:
            return False
        self._seen[connection] = since
        return True

    async def look_elsewhere(self, connection: Connection) -> Connection | None:
        """Another connection to the peer, not registered; None: it answers nowhere else.

        Takes as long as a dial does.
        """
        here, ip = connection.remote_addr, ip_of(connection.remote_addr)
        addrs = [
            addr for addr in self._book.addrs(connection.peer_id) if split_peer(addr)[0] != here
        ]
        if not addrs:
            await trio.lowlevel.checkpoint()
            return None

        def note(addr: Multiaddr) -> None:
            if kind_of(addr) is not Kind.CIRCUIT and ip_of(addr) == ip and connection.in_doubt:
                connection.note_machine_seen()

        try:
            return await self._dialer.probe(connection.peer_id, addrs, on_pipe=note)
        except LatticaError as error:
            logger.debug("silent peer: %s peer=%s", error, connection.peer_id)
            return None
