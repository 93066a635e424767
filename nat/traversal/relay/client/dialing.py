"""Connecting to relays: over TCP where they have it, and from the listening port."""

from __future__ import annotations

import logging
from contextlib import suppress

import trio

from lattica.nat.base.errors import DialError, LatticaError
from lattica.nat.base.net.addresses import Kind, ip_of, kind_of
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.names import resolve
from lattica.nat.mux.connection import Direction
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit_transport import direct_connection
from lattica.nat.traversal.relay.client.addresses import own_addrs_of
from lattica.nat.traversal.relay.client.known import KnownRelay
from lattica.nat.traversal.relay.client.status import Source

logger = logging.getLogger(__name__)

_TCP_HEAD_START = 1.5
"""Seconds that TCP gets before a relay's other addresses are tried too."""


class RelayDialer:
    """Of one node. What comes of it is noted in the relay."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    async def dial(self, r: KnownRelay) -> None:
        """Connect to a relay: TCP first, and before long whatever it has."""
        try:
            await self._dial_any(r)
            if direct_connection(self._swarm, r.relay) is None:
                raise LatticaError("the connection did not last")
            r.dial_error = ""
        except (LatticaError, OSError) as error:
            r.turns_away = not isinstance(error, DialError) or error.has_met_another
            r.dialing.failed(trio.current_time())
            if not r.dial_error:
                logger.info("relay is unreachable: %s relay=%s", error, r.relay)
            r.dial_error = str(error)

    async def _dial_any(self, r: KnownRelay) -> None:
        if self._swarm.registry.best(r.relay) is not None:
            # Connected through another relay, which is of no use here.
            for addr in await resolve(r.addrs, peer_id=r.relay):
                with suppress(LatticaError):
                    await self._swarm.dial_fresh(r.relay, addr)
                    return
        tcp = [addr for addr in r.addrs if kind_of(addr) is Kind.TCP]
        if 0 < len(tcp) < len(r.addrs):
            with trio.move_on_after(_TCP_HEAD_START), suppress(LatticaError):
                await self._swarm.dial(r.relay, tcp)
                return
        await self._swarm.dial(r.relay, r.addrs)

    def lacks_tcp(self, r: KnownRelay) -> bool:
        """No connection of ours keeps the mapping of our TCP port, though there could be one."""
        swarm = self._swarm
        if not swarm.config.dial_from_listen_port or any(
            kind_of(c.remote_addr) is Kind.TCP and swarm.shows_a_port(c)
            for c in swarm.registry.by_peer.get(r.relay, ())
        ):
            return False
        if all(swarm.tcp_listen_port(version) is None for version in (4, 6)):
            return False
        return bool(self._tcp_addrs(r))

    def _tcp_addrs(self, r: KnownRelay) -> list[Multiaddr]:
        used = self.used_addrs(r)
        found = own_addrs_of(r.relay, r.advertised, used)
        # A name that a relay has said is for others to look up, if they like.
        numeric = (addr for addr in found if addr in used or ip_of(addr) is not None)
        return [addr for addr in numeric if kind_of(addr) is Kind.TCP]

    async def add_tcp(self, r: KnownRelay) -> None:
        """Have TCP besides, for that mapping."""
        for addr in await resolve(self._tcp_addrs(r)):
            try:
                await self._swarm.dial_fresh(r.relay, addr, from_listen_port=True)
                break
            except (LatticaError, OSError) as error:
                logger.debug("no TCP to the relay besides: %s relay=%s", error, r.relay)
        r.tcp.failed(trio.current_time())  # another try, later, should it not last

    def used_addrs(self, r: KnownRelay) -> tuple[Multiaddr, ...]:
        """Where this node reaches the relay, and where its user says that it is."""
        dialed = [
            c.remote_addr
            for c in self._swarm.registry.by_peer.get(r.relay, ())
            if c.direction is Direction.OUTBOUND and not c.is_relayed
        ]
        given = r.addrs if r.source is Source.CONFIGURED else []
        return (*given, *dialed)
