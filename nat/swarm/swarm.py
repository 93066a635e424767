"""The swarm: every connection of a node, how it is made, kept, limited and ended."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from lattica.nat.base.concurrency.watched import Watched
from lattica.nat.base.errors import (
    AccessDeniedError,
    ConnectionClosedError,
    DialError,
    LocalProtocolError,
    NotConnectedError,
    ResourceLimitError,
)
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.addresses import (
    Kind,
    interface_addresses,
    kind_of,
    parse_multiaddr,
    to_endpoint,
)
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import ranked
from lattica.nat.config import AccessRules, SwarmConfig
from lattica.nat.mux.budget import MemoryBudget
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.secure.gater import Gater
from lattica.nat.swarm.addresses.address_book import GIVEN_TTL, AddressBook
from lattica.nat.swarm.addresses.doubtful import DoubtfulAddresses
from lattica.nat.swarm.addresses.nat_report import NatReport
from lattica.nat.swarm.addresses.observed import ObservedAddresses, shows_a_port
from lattica.nat.swarm.addresses.own_addresses import OwnAddresses
from lattica.nat.swarm.addresses.told_names import ToldNames
from lattica.nat.swarm.background import Background
from lattica.nat.swarm.connections import Connections
from lattica.nat.swarm.dialing.connector import Connector
from lattica.nat.swarm.dialing.dialer import Dialer
from lattica.nat.swarm.dialing.known import KnownAddresses
from lattica.nat.swarm.events import AddressesChanged, EventBus
from lattica.nat.swarm.listeners import Listeners
from lattica.nat.swarm.registry import Registry
from lattica.nat.swarm.serving.inbound_streams import InboundStreams
from lattica.nat.swarm.serving.protocols import ProtocolTable
from lattica.nat.swarm.upkeep.descriptors import fitting, in_use, raise_limit
from lattica.nat.swarm.upkeep.heap import Heap, malloc_trim, resident
from lattica.nat.swarm.upkeep.rounds import Rounds
from lattica.nat.swarm.upkeep.same_key import SameKey
from lattica.nat.swarm.upkeep.silent_peers import SilentPeers
from lattica.nat.swarm.upkeep.watchdog import watching
from lattica.nat.transport.base import RawConn, ServedTransport, Transport
from lattica.nat.transport.tcp import TcpTransport
from lattica.nat.transport.udp_socket import UdpSocket
from lattica.nat.transport.websocket_transport import WebSocketTransport

if TYPE_CHECKING:
    from lattica.nat.quic.endpoint import QuicEndpoint

logger = logging.getLogger(__name__)

_HANDSHAKE_PATIENCE = 2.0
"""Seconds after which a handshake under way, and a stream without a protocol, yields to anybody
where there is no place left."""

_CLOSE_GRACE = 1.0
"""Seconds that a pipe of somebody else may take to close."""


class Swarm:
    """All connections of one identity.

    :meth:`run` owns every task; the other methods work while it runs. Handlers for
    inbound streams are in :attr:`protocols`.
    """

    def __init__(
        self,
        identity: Identity,
        config: SwarmConfig | None = None,
    ) -> None:
        self.identity = identity
        self.config = config or SwarmConfig()
        self.protocols = ProtocolTable(negotiate_timeout=self.config.timeouts.negotiate)
        self.registry = Registry(identity.peer_id, self.config.limits)
        self.address_book = AddressBook(
            self.config.limits.max_connections,
            is_connected=lambda peer_id: self.registry.best(peer_id) is not None,
        )
        """What is known of where peers are, connected or not."""
        self.doubtful = DoubtfulAddresses(trio.current_time)
        """Where peers were connected to, and then nothing got through."""
        self.events = EventBus()
        self._background = Background()
        self._close_requested = trio.Event()
        self._stopped = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        self._heap = Heap(trio.current_time, resident, malloc_trim())
        self.inbound_streams = InboundStreams(
            self.config.limits,
            self.protocols,
            self._background,
            unproven_after=_HANDSHAKE_PATIENCE,
        )
        self._connector = Connector(identity, self.config, self.inbound_streams.take)
        self.own_addresses = OwnAddresses(self._on_addresses_changed)
        self.observed = ObservedAddresses()
        self.known = KnownAddresses(
            self.address_book,
            self._seen_addrs,
            trio.current_time,
            is_connected=lambda peer_id: self.registry.best(peer_id) is not None,
            may_look_up=self.gater.may_look_up,
        )
        """Which of the addresses in :attr:`address_book` may be dialed."""
        self.told_names = ToldNames(trio.current_time, self.gater.may_look_up)
        """Looks up names that somebody has told of about somebody else."""
        self.nat = Watched(NatReport())
        """What is known of the NAT for IPv4; whoever measures it sets it."""
        from lattica.nat.quic.transport import QuicTransport  # half of what importing us would take

        connector = self._connector
        self._quic = QuicTransport(
            identity,
            self.config,
            connector.budget,
            connector.turnstile,
            connector.nuisance,
            connector.instance,
        )
        self._transports = list(self._default_transports())
        self._connections = Connections(
            self.registry,
            self._background,
            self.events,
            self.address_book,
            self.known,
            self.doubtful,
            is_closing=self._close_requested.is_set,
            on_taken=self._watch_key,
            on_forgotten=self.inbound_streams.forget,
            on_ended=self._heap.note_end,
            on_changed=self._notify_changed,
        )
        self.on_connected = self._connections.on_connected
        """Awaited in the background for each connection; their errors are logged."""
        self.on_disconnected = self._connections.on_disconnected
        self.listeners = Listeners(
            self.config,
            self._transports,
            self._connector,
            self.events,
            self._background,
            self._connections.register,
            self._heap.note_end,
            unproven_after=_HANDSHAKE_PATIENCE,
        )
        self._dialer = Dialer(
            self.config,
            self._transports,
            self._connector,
            self.registry,
            self._connections.register,
            lambda connection: self._same_key.keep_apart(connection),
            lambda: self.listen_addrs,
            self.doubtful,
            self.wait_connected,
        )
        self._same_key = SameKey(self.registry, self._dialer.probe, self._connections.register)
        self._rounds = Rounds(
            self.registry,
            self._connections,
            SilentPeers(self._dialer, self.address_book),
            self._background,
        )

    def _default_transports(self) -> tuple[Transport, ...]:
        tcp = TcpTransport()
        return tcp, WebSocketTransport(tcp), self._quic

    def add_transport(self, transport: Transport) -> None:
        """Use another way of dialing too. It needs no :meth:`run` of its own."""
        self._transports.append(transport)

    # --- life ---

    def __repr__(self) -> str:
        return f"<Swarm of {self.identity.peer_id}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until :meth:`close` or cancellation. May be called once.

        Listens on `config.listen` before it reports having started; raises
        :class:`ListenError` or :class:`AddressError` when that fails.
        """
        if self._background.nursery is not None or self._stopped.is_set():
            raise LocalProtocolError("a swarm runs once")
        try:
            async with trio.open_nursery() as nursery:
                self._background.nursery = nursery
                self._fit_limits()
                for transport in self._transports:
                    if isinstance(transport, ServedTransport):
                        await nursery.start(transport.run)
                for addr in self.config.listen:
                    await self.listeners.listen_if_possible(parse_multiaddr(addr))
                nursery.start_soon(self._tick_loop)
                task_status.started()
                await self._close_requested.wait()
                await self._shut_down()
                nursery.cancel_scope.cancel()
        finally:
            try:
                for connection in self.registry:
                    connection.abort("this node shuts down")
                with trio.CancelScope(shield=True):
                    await self.listeners.aclose()
            finally:  # whatever failed: `close` waits for it
                self._background.nursery = None
                self._stopped.set()
            self._notify_changed()
            self.events.close()

    def _fit_limits(self) -> None:
        """Let the process have all the descriptors that it may, and count on no more."""
        limits = fitting(self.config.limits, raise_limit(), in_use())
        self.registry.limits = limits
        self.listeners.pending.limit = limits.max_pending_inbound

    async def close(self) -> None:
        """End all connections in good order, within `Timeouts.shutdown`; then stop."""
        self._close_requested.set()
        if self._background.nursery is not None:
            await self._stopped.wait()

    async def _shut_down(self) -> None:
        await self.listeners.aclose()
        with trio.move_on_after(self.config.timeouts.shutdown):
            async with trio.open_nursery() as nursery:
                for connection in self.registry:
                    nursery.start_soon(connection.aclose)

    async def _tick_loop(self) -> None:
        with watching(trio.lowlevel.current_trio_token()):
            while True:
                await self._rounds.go()
                await self._heap.look()

    @property
    def receive_memory(self) -> MemoryBudget:
        """What all connections have received and nobody has read, and its limit; bytes."""
        return self._connector.budget

    # --- listening ---

    async def listen(self, addr: Multiaddr) -> tuple[Multiaddr, ...]:
        """Bind an address and accept connections on it; return the bound addresses.

        With a name in it, those of its IP addresses that this machine has.

        Raises:
            ListenError: it cannot be listened on.
            AddressError: it is none that could be.
        """
        return await self.listeners.listen(addr)

    @property
    def listen_addrs(self) -> tuple[Multiaddr, ...]:
        """Bound addresses as bound, wildcards included."""
        return self.listeners.addrs

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Where others may try to reach this node.

        The bound addresses, with wildcards replaced by those of the interfaces, and
        :attr:`own_addresses`.
        """
        found = (*interface_addresses(self.listen_addrs), *self.own_addresses.all)
        return tuple(dict.fromkeys(found))

    @property
    def ranked_addrs(self) -> list[Multiaddr]:
        """:attr:`addrs`, those first that help most where there is no room for all."""
        own = self.own_addresses
        return ranked(self.addrs, reachable=own.reachable, unreachable=own.unreachable)

    def _seen_addrs(self) -> tuple[Multiaddr, ...]:
        seen = (*self.observed.addrs(Kind.TCP), *self.observed.addrs(Kind.QUIC))
        direct = (addr for addr in self.own_addresses.all if kind_of(addr) is not Kind.CIRCUIT)
        return (*direct, *seen)

    def _on_addresses_changed(self) -> None:
        self.events.publish(AddressesChanged(self.addrs))
        self._notify_changed()

    @property
    def udp_endpoints(self) -> tuple[QuicEndpoint, ...]:
        """The listening QUIC sockets, over which STUN, ICE and probes go too, first bound first."""
        return self.listeners.udp_endpoints

    def tcp_listen_port(self, version: int) -> int | None:
        """The TCP port that this node listens on, and dials from, in IP version 4 or 6."""
        return self._dialer.tcp_listen_port(version)

    def record_observation(self, connection: Connection, addr: Multiaddr) -> None:
        """A peer says that it sees us at `addr`."""
        self.observed.record(connection, addr, self._listen_ports)
        self._notify_changed()

    def lacks_observation(self, connection: Connection) -> bool:
        """Whether a peer sees by a connection what others do of this node, and has not said it."""
        return self.observed.lacks(connection, self._listen_ports)

    def shows_a_port(self, connection: Connection) -> bool:
        """Whether this node has dialed from a port that it listens on, and not from any other."""
        return shows_a_port(connection, self._listen_ports)

    @property
    def _listen_ports(self) -> frozenset[int]:
        return frozenset(
            to_endpoint(bound).port
            for bound in self.listen_addrs
            if kind_of(bound) in (Kind.TCP, Kind.QUIC)
        )

    # --- making connections ---

    async def adopt(
        self, raw: RawConn, direction: Direction, expected_peer: PeerId | None
    ) -> Connection:
        """Secure, multiplex and register a pipe that somebody else has made.

        `direction` is the role in the set-up. The pipe is closed when this fails.
        """
        connection = None
        try:
            with trio.fail_after(self.config.timeouts.handshake):
                connection = await self._connector.connect(
                    raw, direction, expected_peer, initiator=direction is Direction.OUTBOUND
                )
        except trio.TooSlowError:
            raise ConnectionClosedError("the handshake took too long") from None
        finally:
            if connection is None:
                raw.abort()
                with trio.move_on_after(_CLOSE_GRACE, shield=True):
                    await raw.aclose()
        self._connections.register(connection)
        if connection.closed_reason is not None:
            raise ResourceLimitError(connection.closed_reason)
        return connection

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run background work that belongs to the swarm; its errors are logged."""
        self._background.start_soon(function, *args)

    def _watch_key(self, connection: Connection) -> None:
        if self._same_key.other_of(connection) is not None:
            self.start_soon(self._same_key.watch, connection)

    def _notify_changed(self) -> None:
        self._changed.unpark_all()

    # --- dialing ---

    async def dial(self, peer_id: PeerId | None, addrs: Iterable[Multiaddr]) -> Connection:
        """Return a connection to the peer, dialing all of `addrs` if there is none.

        Addresses are raced (RFC 8305), each with `Timeouts.dial`, all together with
        `Timeouts.connect`. Without `peer_id`, whoever answers is accepted. Several callers for one
        peer share one dial.

        Raises:
            DialError: no address could be reached; with the reason of each.
            AccessDeniedError: the access rules forbid it.
        """
        self._background.require_nursery()
        return await self._dialer.dial(peer_id, addrs)

    async def connect(self, peer_id: PeerId | None, addrs: Sequence[Multiaddr] = ()) -> Connection:
        """Return the best connection to the peer; where there is none, :meth:`dial`.

        That tries `addrs`, which are remembered if it works, and what is known of the peer
        already. Of two programs with the peer's key the connection is to the one at `addrs`
        (:class:`~lattica.nat.swarm.upkeep.same_key.SameKey`). Raises :class:`NotConnectedError`
        when nothing is known, and what :meth:`dial` raises.
        """
        if peer_id is None:
            answered = await self.dial(None, addrs)
            if len(addrs) == 1:  # else who knows at which of them it is
                self.address_book.add(answered.peer_id, addrs, GIVEN_TTL)
            return answered
        existing = self.registry.best(peer_id)
        if existing is not None:
            await trio.lowlevel.checkpoint()
            connection = existing
        else:
            known = [*addrs, *await self.known.of(peer_id)]
            if not known and peer_id != self.identity.peer_id:
                told = "that may be dialed now " if self.address_book.addrs(peer_id) else ""
                raise NotConnectedError(
                    f"no address of {peer_id} {told}is known; connect to a full multiaddr first"
                )
            connection = await self.dial(peer_id, known)
        try:
            await self._same_key.confirm(connection, addrs)
        except DialError:
            if existing is not None:
                raise
            # An address that was known before has led to the other one.
            connection.abort("the peer is meant that is elsewhere")
        if connection.closed_reason is not None and addrs:
            connection = await self.dial(peer_id, addrs)
        if existing is None:
            self.address_book.add(peer_id, addrs, GIVEN_TTL)
        return connection

    async def dial_fresh(
        self,
        peer_id: PeerId,
        addr: Multiaddr,
        *,
        as_responder: bool = False,
        unless_doubtful: bool = False,
        from_listen_port: bool = False,
    ) -> Connection:
        """Dial one address even if the peer is connected, as hole punching does.

        `as_responder` takes the responder's part in the set-up, for a dial that may meet
        the peer's own (DCUtR assigns the parts). With `unless_doubtful` an address at which
        connections carried nothing (:attr:`doubtful`) is refused: there is a path that carries.
        `from_listen_port`: by TCP from the port that is listened on, or not at all.
        Raises what :meth:`dial` raises.
        """
        self._background.require_nursery()
        return await self._dialer.dial_fresh(
            peer_id,
            addr,
            as_responder=as_responder,
            unless_doubtful=unless_doubtful,
            from_listen_port=from_listen_port,
        )

    async def dial_from_socket(
        self, sock: socket.socket, addr: Multiaddr, peer_id: PeerId
    ) -> Connection:
        """Dial by QUIC from a UDP socket that somebody else has bound, and punched with.

        The socket is closed with the connection, or when the dial fails. Raises what
        :meth:`dial` raises.
        """
        self._background.require_nursery()
        try:
            return await self._dialer.dial_link(
                peer_id, addr, lambda: self._quic.dial_alone(UdpSocket.adopt(sock), addr)
            )
        except BaseException:
            sock.close()  # where it was not adopted
            raise

    @asynccontextmanager
    async def dial_unshared(
        self, peer_id: PeerId, addr: Multiaddr, *, source_ip: str | None = None
    ) -> AsyncIterator[Connection]:
        """A connection from a fresh port that is not one of the swarm's: nobody else finds it,
        and it ends with the block.

        For learning whether the peer can be reached at `addr` by somebody new. `source_ip`: the
        address of ours to come from; not for WebSocket. Raises what :meth:`dial` raises.
        """
        connection = await self._dialer.dial_unshared(peer_id, addr, self._quic, source_ip)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            try:
                yield connection
            finally:
                with trio.move_on_after(_CLOSE_GRACE, shield=True):
                    await connection.aclose()
                connection.abort("it has served its purpose")

    # --- using connections ---

    def note_identified(self, connection: Connection) -> None:
        """What the peer says of itself is known now: who waits for that may look again."""
        self._notify_changed()

    async def wait_changed(self) -> None:
        """Wait until there is news of connections or addresses.

        That is: a connection has come, has gone, or its peer is identified; a peer has said where
        it sees this node; or the addresses that others are told have changed.

        Raises:
            LocalProtocolError: the swarm is not running.
        """
        self._background.require_nursery()
        await self._changed.park()

    async def wait_direct(self, peer_id: PeerId) -> Connection:
        """Wait until there is a direct connection to the peer, whoever makes it."""
        await trio.lowlevel.checkpoint()
        while (best := self.registry.best(peer_id)) is None or best.is_relayed:
            await self.wait_changed()
        return best

    async def wait_connected(self, peer_id: PeerId) -> Connection:
        """Wait until there is a connection to the peer, whoever makes it."""
        await trio.lowlevel.checkpoint()
        while (connection := self.registry.best(peer_id)) is None:
            await self.wait_changed()
        return connection

    async def open_stream(
        self,
        peer_id: PeerId,
        protocols: str | Sequence[str],
        *,
        wait_for_place: float | None = None,
    ) -> Stream:
        """Open a stream to a connected peer, on the best path there is.

        `wait_for_place` as in :meth:`Connection.open`, whose errors are raised too.

        Raises:
            NotConnectedError: the peer is not connected.
        """
        connection = self.registry.best(peer_id)
        if connection is None:
            await trio.lowlevel.checkpoint()  # whoever tries again at once must not stop the rest
            raise NotConnectedError(f"not connected to {peer_id}; connect first")
        return await connection.open(protocols, wait_for_place=wait_for_place)

    @property
    def gater(self) -> Gater:
        """Who may be connected, as it is at any time: :meth:`set_access` changes it."""
        return self._connector.gater

    async def set_access(self, rules: AccessRules) -> None:
        """Who may be connected from now on; whoever may not is disconnected.

        Raises:
            ConfigError: a rule is none; then nothing has changed.
        """
        gater = self.gater
        gater.change(rules)
        for connection in tuple(self.registry):
            try:
                gater.check_peer(connection.peer_id)
                if not connection.is_relayed:
                    gater.check_address(connection.remote_addr)
            except AccessDeniedError as error:
                logger.info("disconnected: %s", error)
                await self.disconnect(connection.peer_id)

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close all connections to a peer in good order."""
        with trio.move_on_after(self.config.timeouts.shutdown):
            async with trio.open_nursery() as nursery:
                for connection in list(self.registry.by_peer.get(peer_id, ())):
                    nursery.start_soon(connection.aclose)
        for connection in list(self.registry.by_peer.get(peer_id, ())):
            connection.abort("closed by this side")
        with suppress(KeyError):
            while self.registry.by_peer[peer_id]:
                await self._changed.park()
