"""Dialing a peer: all its addresses at once, one dial for all who want it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from lattica.nat.base.concurrency.exception_groups import single_error
from lattica.nat.base.errors import (
    AccessDeniedError,
    AddressError,
    ConnectionClosedError,
    DialAttempt,
    DialError,
    LatticaError,
    LocalProtocolError,
    ResourceLimitError,
    renewed,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import (
    Kind,
    ip_of,
    kind_of,
    order_addresses,
    relay_of,
    split_peer,
    to_endpoint,
    with_peer,
)
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.names import needs_resolving, resolve_origins
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.swarm.addresses.doubtful import DoubtfulAddresses
from lattica.nat.swarm.dialing.connector import Connector, CrossedDialError
from lattica.nat.swarm.dialing.race import race
from lattica.nat.swarm.registry import Registry
from lattica.nat.transport.base import RawConn, SecureLink, Transport
from lattica.nat.transport.tcp import TcpTransport
from lattica.nat.transport.udp_socket import UdpSocket

if TYPE_CHECKING:
    from lattica.nat.quic.transport import QuicTransport

_HEAD_START = 5.0
"""Seconds by which others are tried before addresses that are in doubt, unless they fail."""

_BOTH_DIAL = 2.0
"""Seconds that a dial goes on when the peer has connected meanwhile: where both dial at once, each
must not give up its own for the other's."""

_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


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
        keep_apart: Callable[[Connection], Awaitable[None]],
        listen_addrs: Callable[[], Iterable[Multiaddr]],
        doubtful: DoubtfulAddresses,
        wait_connected: Callable[[PeerId], Awaitable[Connection]],
    ) -> None:
        self._config = config
        self._transports = transports
        self._connector = connector
        self._registry = registry
        self._register = register
        self._keep_apart = keep_apart
        self._listen_addrs = listen_addrs
        self._doubtful = doubtful
        self._wait_connected = wait_connected
        self._pending: dict[PeerId, _PendingDial] = {}

    async def dial(self, peer_id: PeerId | None, addrs: Iterable[Multiaddr]) -> Connection:
        """See :meth:`lattica.nat.swarm.swarm.Swarm.dial`."""
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
                raise renewed(pending.error)

    async def _dial_for_all(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> Connection:
        pending = self._pending[peer_id] = _PendingDial(frozenset(addrs))
        try:
            return await self._race(peer_id, addrs)
        except LatticaError as error:
            pending.error = renewed(error)  # what is raised here has this frame, which has that
            raise
        finally:
            # If this caller is cancelled, the next one in line dials for itself.
            del self._pending[peer_id]
            pending.done.set()

    async def probe(
        self,
        peer_id: PeerId | None,
        addrs: Iterable[Multiaddr],
        *,
        on_pipe: Callable[[Multiaddr], None] | None = None,
    ) -> Connection:
        """Race the addresses, whoever is connected; the connection is neither registered nor run.

        `on_pipe` is told where something answers, which is not yet the peer. Raises what
        :meth:`dial` raises.
        """
        timeouts = self._config.timeouts
        allowed = self._may_dial(peer_id, addrs)
        may_look_up = self._connector.gater.may_look_up
        origins = {addr: addr for addr in allowed if not may_look_up(addr)}
        origins |= await resolve_origins(filter(may_look_up, allowed), peer_id=peer_id)
        candidates, doubted = self._doubted_last(
            peer_id, self._one_a_relay(order_addresses(origins))
        )
        others = len(candidates) - len(doubted)
        others_failed = trio.Event()

        async def attempt(addr: Multiaddr) -> Connection:
            nonlocal others
            is_doubted = addr in doubted
            if is_doubted and others:
                with trio.move_on_after(_HEAD_START):
                    await others_failed.wait()
            try:
                connection = await self._dial_address(peer_id, addr, on_pipe=on_pipe)
            except (LatticaError, OSError):
                others -= not is_doubted
                if not others:
                    others_failed.set()
                raise
            asked, _ = split_peer(origins[addr])
            connection.dialed = frozenset({asked, connection.remote_addr})
            return connection

        return await race(
            candidates,
            attempt,
            stagger=self._config.dial_stagger,
            timeout_each=timeouts.dial,
            timeout_total=timeouts.connect,
            target=peer_id or ", ".join(map(str, candidates)),
            discard=lambda late: late.abort("another address was faster"),
        )

    async def _race(self, peer_id: PeerId | None, addrs: Iterable[Multiaddr]) -> Connection:
        connection = await self._first(peer_id, addrs)
        if connection is None:
            assert peer_id is not None
            existing = self._registry.best(peer_id)
            if existing is None:
                raise ConnectionClosedError("the peer had connected, and is gone again")
            return existing
        try:
            await self._keep_apart(connection)
        except BaseException:
            connection.abort("the peer is connected already, or the dial was given up")
            raise
        self._register(connection)
        best = self._registry.best(connection.peer_id) or connection
        if best.closed_reason is not None:
            raise ResourceLimitError(best.closed_reason)
        return best

    async def _first(self, peer_id: PeerId | None, addrs: Iterable[Multiaddr]) -> Connection | None:
        """:meth:`probe`; None when it comes to nothing, or to nothing soon, and the peer has
        connected to us.
        """
        if peer_id is None:
            return await self.probe(None, addrs)
        made: Connection | None = None
        failure: Exception | None = None

        async def give_up_when_connected() -> None:
            while True:
                inbound = await self._wait_connected(peer_id)
                with trio.move_on_after(_BOTH_DIAL):
                    await inbound.closed.wait()
                if inbound.closed_reason is None:
                    nursery.cancel_scope.cancel()
                    return

        # The swarm may stop meanwhile, of which the one who waits hears.
        with single_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up_when_connected)
                try:
                    made = await self.probe(peer_id, addrs)
                except Exception as error:
                    failure = error
                nursery.cancel_scope.cancel()
        if isinstance(failure, DialError) and self._registry.best(peer_id) is not None:
            failure = None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # which leads back here
        return made

    def _may_dial(self, peer_id: PeerId | None, addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
        """The addresses that may be dialed. Raises DialError if none of several may."""
        allowed: list[Multiaddr] = []
        refused: list[DialAttempt] = []
        for addr in addrs:
            try:
                self._connector.gater.check_dial(peer_id, addr)
                allowed.append(addr)
            except AccessDeniedError as error:
                refused.append(DialAttempt(str(addr), str(error)))
        if refused and not allowed:
            raise DialError(peer_id or refused[0].address, refused)
        return allowed

    def _doubted_last(
        self, peer_id: PeerId | None, candidates: Sequence[Multiaddr]
    ) -> tuple[list[Multiaddr], frozenset[Multiaddr]]:
        """Put last the addresses that connected before and then carried nothing; and name them."""
        if peer_id is None:
            return list(candidates), frozenset()
        doubted = [addr for addr in candidates if self._doubtful.get(peer_id, addr)]
        fine = [addr for addr in candidates if addr not in doubted]
        return fine + doubted, frozenset(doubted)

    def _one_a_relay(self, candidates: Iterable[Multiaddr]) -> list[Multiaddr]:
        """Leave out all but one way through each relay that is connected already."""
        kept: list[Multiaddr] = []
        relays: set[PeerId] = set()
        for addr in candidates:
            relay = relay_of(addr)
            if relay is None or relay not in relays:
                kept.append(addr)
            if relay is not None and self._registry.best(relay) is not None:
                relays.add(relay)
        return kept

    async def dial_fresh(
        self,
        peer_id: PeerId,
        addr: Multiaddr,
        *,
        as_responder: bool = False,
        unless_doubtful: bool = False,
        from_listen_port: bool = False,
    ) -> Connection:
        """See :meth:`lattica.nat.swarm.swarm.Swarm.dial_fresh`."""
        self._connector.gater.check_dial(peer_id, addr)
        doubt = self._doubtful.get(peer_id, addr)
        if unless_doubtful and doubt is not None:
            await trio.lowlevel.checkpoint()
            why = f"it connects, but carried nothing the last time ({doubt.reason})"
            raise DialError(peer_id, [DialAttempt(str(addr), why)])
        dial = self._dial_address(
            peer_id, addr, not as_responder, from_listen_port=from_listen_port
        )
        connection = await self._dial_one(peer_id, addr, dial)
        return self._registered(connection)

    async def dial_link(
        self, peer_id: PeerId, addr: Multiaddr, begin: Callable[[], SecureLink]
    ) -> Connection:
        """Make a connection over a link of the caller's."""

        def checked() -> SecureLink:
            self._connector.gater.check_dial(peer_id, addr)
            self._connector.gater.check_address(addr)
            return begin()

        connection = await self._dial_one(peer_id, addr, self._connect_link(peer_id, checked))
        return self._registered(connection)

    async def dial_unshared(
        self, peer_id: PeerId, addr: Multiaddr, quic: QuicTransport, source_ip: str | None
    ) -> Connection:
        """Dial from a port of its own, and do not register what comes of it."""

        async def dial() -> Connection:
            self._connector.gater.check_dial(peer_id, addr)
            self._connector.gater.check_address(addr)
            if quic.can_dial(addr):
                family = to_endpoint(addr).family
                sock = UdpSocket.bind(source_ip or _ANY[family], 0, family)
                return await self._connect_link(peer_id, lambda: quic.dial_alone(sock, addr))
            transport = self._transport_for(addr)
            if source_ip is not None and isinstance(transport, TcpTransport):
                raw: RawConn | SecureLink = await transport.dial(addr, source_ip=source_ip)
            else:
                raw = await transport.dial(addr)
            return await self._connect(raw, peer_id)

        return await self._dial_one(peer_id, addr, dial())

    async def _dial_one(
        self, peer_id: PeerId, addr: Multiaddr, dial: Coroutine[Any, Any, Connection]
    ) -> Connection:
        with trio.move_on_after(self._config.timeouts.dial):
            try:
                return await dial
            except (LatticaError, OSError) as error:
                raise DialError(peer_id, [DialAttempt(str(addr), str(error), error)]) from error
        limit = self._config.timeouts.dial
        raise DialError(peer_id, [DialAttempt(str(addr), f"timed out after {limit:g} s")])

    def _registered(self, connection: Connection) -> Connection:
        self._register(connection)
        if connection.closed_reason is not None:
            raise ResourceLimitError(connection.closed_reason)
        return connection

    async def _connect_link(self, peer_id: PeerId, begin: Callable[[], SecureLink]) -> Connection:
        link = begin()
        return await self._connect(link, peer_id)

    async def _connect(
        self, raw: RawConn | SecureLink, peer_id: PeerId | None, initiator: bool = True
    ) -> Connection:
        try:
            return await self._connector.connect(
                raw, Direction.OUTBOUND, peer_id, initiator=initiator
            )
        except BaseException:
            raw.abort()
            raise

    async def _dial_address(
        self,
        peer_id: PeerId | None,
        addr: Multiaddr,
        initiator: bool = True,
        on_pipe: Callable[[Multiaddr], None] | None = None,
        from_listen_port: bool = False,
    ) -> Connection:
        addr, named = split_peer(addr)
        if peer_id is not None and named is not None and named != peer_id:
            raise AddressError(f"the address belongs to {named}")
        peer_id = peer_id or named
        self._connector.gater.check_address(addr)
        source_port = None
        if kind_of(addr) is Kind.CIRCUIT:
            # The relay has to be told who is meant.
            if peer_id is None:
                raise AddressError("a relayed address must end in /p2p/ and the peer's ID")
            addr = with_peer(addr, peer_id)
        elif self._config.dial_from_listen_port and (ip := ip_of(addr)) is not None:
            source_port = self.tcp_listen_port(ip.version)
        raw = await self._dial_from(source_port, peer_id, addr, or_any=not from_listen_port)
        if on_pipe is not None and not isinstance(raw, SecureLink):
            on_pipe(addr)
        try:
            return await self._connect(raw, peer_id, initiator)
        except CrossedDialError:
            if from_listen_port:
                raise
        # From a port of its own, no dial meets one of the peer's.
        raw = await self._dial_from(None, peer_id, addr)
        return await self._connect(raw, peer_id, initiator)

    async def _dial_from(
        self,
        source_port: int | None,
        peer_id: PeerId | None,
        addr: Multiaddr,
        *,
        or_any: bool = True,
    ) -> RawConn | SecureLink:
        transport = self._transport_for(addr)
        doubt = None if peer_id is None else self._doubtful.get(peer_id, addr)
        if isinstance(transport, TcpTransport):
            max_segment = None if doubt is None else doubt.max_segment
            return await transport.dial(
                addr, source_port=source_port, max_segment=max_segment, or_any_port=or_any
            )
        return await transport.dial(addr, source_port=source_port)

    def _transport_for(self, addr: Multiaddr) -> Transport:
        for transport in self._transports:
            if transport.can_dial(addr):
                return transport
        if needs_resolving(addr):
            raise AddressError(f"the name {addr.components[0][1]} was not resolved")
        raise AddressError("no transport for this kind of address")

    def tcp_listen_port(self, version: int) -> int | None:
        """The TCP port that we listen on in this IP version, to dial from."""
        for bound in self._listen_addrs():
            ip = ip_of(bound)
            if ip is not None and ip.version == version and kind_of(bound) is Kind.TCP:
                return to_endpoint(bound).port
        return None
