"""Dialing a peer: all its addresses at once, one dial for all who want it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import trio
from multiaddr.multiaddr import Multiaddr

from lattica.errors import (
    AddressError,
    DialAttempt,
    DialError,
    LatticaError,
    LocalProtocolError,
    ResourceLimitError,
)
from lattica.identity import PeerId
from lattica.nat.addresses import (
    Kind,
    components,
    ip_of,
    kind_of,
    order_addresses,
    resolve,
    split_peer,
)
from lattica.nat.config import SwarmConfig
from lattica.nat.connection import Connection, Direction
from lattica.nat.connector import Connector
from lattica.nat.happy_eyeballs import race
from lattica.nat.registry import Registry
from lattica.nat.transport import Transport


class _PendingDial:
    """A dial in progress, for those who want the same peer meanwhile."""

    def __init__(self, addrs: frozenset[Multiaddr]) -> None:
        self.addrs = addrs
        self.done = trio.Event()
        self.error: LatticaError | None = None


class Dialer:
    """Makes outbound connections and hands each to `register`."""

    def __init__(
        self,
        config: SwarmConfig,
        transports: Sequence[Transport],
        connector: Connector,
        registry: Registry,
        register: Callable[[Connection], None],
        listen_addrs: Callable[[], Iterable[Multiaddr]],
    ) -> None:
        self._config = config
        self._transports = transports
        self._connector = connector
        self._registry = registry
        self._register = register
        self._listen_addrs = listen_addrs
        self._pending: dict[PeerId, _PendingDial] = {}

    async def dial(self, peer_id: PeerId | None, addrs: Iterable[Multiaddr]) -> Connection:
        """See :meth:`lattica.nat.swarm.Swarm.dial`."""
        if peer_id is None:
            return await self._race(None, addrs)
        if peer_id == self._connector.identity.peer_id:
            raise LocalProtocolError("a node cannot connect to itself")
        self._connector.gater.check_peer(peer_id)
        wanted = tuple(addrs)
        while True:
            connection = self._registry.best(peer_id)
            if connection is not None:
                await trio.lowlevel.checkpoint()
                return connection
            pending = self._pending.get(peer_id)
            if pending is None:
                return await self._dial_for_all(peer_id, wanted)
            await pending.done.wait()
            if pending.error is not None and pending.addrs.issuperset(wanted):
                raise pending.error

    async def _dial_for_all(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> Connection:
        pending = self._pending[peer_id] = _PendingDial(frozenset(addrs))
        try:
            return await self._race(peer_id, addrs)
        except LatticaError as error:
            pending.error = error
            raise
        finally:
            # If this caller is cancelled, the next one in line dials for itself.
            del self._pending[peer_id]
            pending.done.set()

    async def _race(self, peer_id: PeerId | None, addrs: Iterable[Multiaddr]) -> Connection:
        timeouts = self._config.timeouts
        candidates = order_addresses(await resolve(addrs))

        async def attempt(addr: Multiaddr) -> Connection:
            return await self._dial_address(peer_id, addr)

        try:
            connection = await race(
                candidates,
                attempt,
                stagger=self._config.dial_stagger,
                timeout_each=timeouts.dial,
                timeout_total=timeouts.connect,
                target=peer_id or ", ".join(map(str, candidates)),
                discard=lambda late: late.abort("another address was faster"),
            )
        except DialError:
            # The peer may have reached us in the meantime.
            existing = self._registry.best(peer_id) if peer_id is not None else None
            if existing is None:
                raise
            return existing
        self._register(connection)
        best = self._registry.best(connection.peer_id) or connection
        if best.closed_reason is not None:
            raise ResourceLimitError(best.closed_reason)
        return best

    async def dial_fresh(
        self, peer_id: PeerId, addr: Multiaddr, *, as_responder: bool = False
    ) -> Connection:
        """See :meth:`lattica.nat.swarm.Swarm.dial_fresh`."""
        with trio.move_on_after(self._config.timeouts.dial):
            try:
                connection = await self._dial_address(peer_id, addr, not as_responder)
            except (LatticaError, OSError) as error:
                raise DialError(peer_id, [DialAttempt(str(addr), str(error))]) from error
            self._register(connection)
            if connection.closed_reason is not None:
                raise ResourceLimitError(connection.closed_reason)
            return connection
        limit = self._config.timeouts.dial
        raise DialError(peer_id, [DialAttempt(str(addr), f"timed out after {limit:g} s")])

    async def _dial_address(
        self, peer_id: PeerId | None, addr: Multiaddr, initiator: bool = True
    ) -> Connection:
        addr, named = split_peer(addr)
        if peer_id is not None and named is not None and named != peer_id:
            raise AddressError(f"the address belongs to {named}")
        self._connector.gater.check_address(addr)
        for transport in self._transports:
            if transport.can_dial(addr):
                break
        else:
            raise AddressError("no transport for this kind of address")
        raw = await transport.dial(addr, source_port=self._source_port(addr))
        try:
            return await self._connector.connect(
                raw, Direction.OUTBOUND, peer_id or named, initiator=initiator
            )
        except BaseException:
            raw.abort()
            raise

    def _source_port(self, addr: Multiaddr) -> int | None:
        """The port we listen on in the address's family, to dial from."""
        if not self._config.dial_from_listen_port:
            return None
        ip = ip_of(addr)
        for bound in self._listen_addrs():
            bound_ip = ip_of(bound)
            if ip and bound_ip and ip.version == bound_ip.version and kind_of(bound) is Kind.TCP:
                return int(components(bound)[-1][1])
        return None
