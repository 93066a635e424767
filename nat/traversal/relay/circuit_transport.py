"""Connections through relays, in both directions: the client's half of circuit relay v2.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. An outbound circuit is
a stream to the relay (hop protocol: connect me to that peer), an inbound one a stream from it
(stop protocol: that peer wants to connect to you). Both become pipes that the swarm secures
and multiplexes as it does those of TCP.

A dial waits for the relay only where it must. The hop protocol's name, the request and the first
message of the set-up with the peer leave together; a relay passes on what follows a request when
the circuit is there (go, rust and js read no more than the message, or keep the rest for that).
So through a relay that is connected already, it takes two round trips to the peer, of which the
first has the part between relay and peer twice, until the connection is there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import trio

from lattica.nat.base.errors import (
    AccessDeniedError,
    AddressError,
    LatticaError,
    ListenError,
    RemoteProtocolError,
    renewed,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, kind_of, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.base import Listener
from lattica.nat.traversal.relay.circuit import CircuitConn
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.messages import (
    HOP,
    MAX_MESSAGE,
    STOP,
    Connect,
    HopStatus,
    Limit,
    Reserve,
    Status,
    StopConnect,
    StopStatus,
    decode_hop,
    decode_stop,
    encode,
)
from lattica.nat.traversal.relay.refusal import connect_refused

logger = logging.getLogger(__name__)

_CIRCUIT = Multiaddr("/p2p-circuit").to_bytes()


def split_circuit(addr: Multiaddr) -> tuple[Multiaddr, PeerId, PeerId | None]:
    """`/RELAYADDR/p2p/RELAY/p2p-circuit[/p2p/TARGET]` as (address, relay, target).

    The address is empty where only the relay's ID is given.

    Raises:
        AddressError: the address is damaged, leads through several relays, or names none.
    """
    base, target = split_peer(addr)
    names = [name for name, _ in base.components]
    if names.count("p2p-circuit") != 1 or names[-1] != "p2p-circuit":
        raise AddressError("a relayed address leads through one relay and ends in /p2p-circuit")
    relay_addr, relay = split_peer(Multiaddr(base.to_bytes()[: -len(_CIRCUIT)]))
    if relay is None:
        raise AddressError("a relayed address must name its relay by /p2p/ID before /p2p-circuit")
    return relay_addr, relay, target


def direct_connection(swarm: Swarm, peer_id: PeerId) -> Connection | None:
    """The best connection to a peer that does not go through another one."""
    usable = [
        connection
        for connection in swarm.registry.by_peer.get(peer_id, ())
        if connection.closed_reason is None and not connection.is_relayed
    ]
    return min(usable, key=lambda c: c.retired_at is not None, default=None)


async def ask_relay(connection: Connection, request: Connect | Reserve) -> tuple[Stream, HopStatus]:
    """Send a request over the hop protocol; return its stream and the answer.

    Waits without limit, and costs one round trip (and the relay's own to the target). Raises what a
    stream does, too.

    Raises:
        UnsupportedProtocolError: the peer is no relay.
        RemoteProtocolError: the answer is malformed.
    """
    stream = await _send_request(connection, request)
    try:
        return stream, await _read_status(stream)
    except BaseException:
        stream.reset()
        raise


async def _send_request(connection: Connection, request: Connect | Reserve) -> Stream:
    stream = await connection.open(HOP, optimistic=True)
    try:
        await stream.send_message(encode(request))
    except BaseException:
        stream.reset()
        raise
    return stream


async def _read_status(stream: Stream) -> HopStatus:
    answer = decode_hop(await stream.receive_message(MAX_MESSAGE))
    if not isinstance(answer, HopStatus):
        raise RemoteProtocolError("the relay answered with something else than a status")
    return answer


class _PendingDial:
    """A dial to a relay, for others who want the same meanwhile."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.error: LatticaError | None = None


class CircuitTransport:
    """Dials through relays, and takes circuits that relays bring.

    To be registered with :meth:`Swarm.add_transport`, and its :attr:`handlers` with the
    swarm's protocols. Circuits are taken from the relays in :attr:`accepts_from` only.
    """

    def __init__(self, swarm: Swarm, config: RelayClientConfig | None = None) -> None:
        self.accepts_from: set[PeerId] = set()
        """Relays at which this node has a reservation; kept by whoever makes them."""
        self._swarm = swarm
        self._config = config or RelayClientConfig()
        self._gater = swarm.gater
        self._dials: dict[tuple[PeerId, Multiaddr], _PendingDial] = {}
        self._arriving: Counter[PeerId] = Counter()
        """Circuits by relay that are not authenticated yet."""

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The handlers to register, by protocol."""
        return {STOP: self._on_stop}

    # --- outbound ---

    def can_dial(self, addr: Multiaddr) -> bool:
        if kind_of(addr) is not Kind.CIRCUIT:
            return False
        try:
            split_circuit(addr)
        except AddressError:
            return False
        return True

    def can_listen(self, addr: Multiaddr) -> bool:
        return False

    async def listen(self, addr: Multiaddr) -> Listener:
        """Circuits arrive by reservation only. Raises :class:`ListenError`."""
        await trio.lowlevel.checkpoint()
        raise ListenError(f"{addr}: a node is reached through relays that it has reserved at")

    async def dial(self, addr: Multiaddr, *, source_port: int | None = None) -> CircuitConn:
        """Open a circuit to `/RELAYADDR/p2p/RELAY/p2p-circuit/p2p/TARGET`.

        Connects to the relay first where that is not connected; dials at one time share such
        a connection. `source_port` does not matter. Returns before the relay has answered.

        Raises :class:`~lattica.errors.DialError` (the relay is not reached), :class:`TimeoutError`,
        :class:`AddressError`, and what a stream raises. What the relay says is told by the first
        `receive`: :class:`TimeoutError` when `circuit_timeout` has passed since the dial began,
        :class:`~lattica.nat.traversal.relay.refusal.RelayRefusedError`, `UnsupportedProtocolError`
        (it is no relay), :class:`RemoteProtocolError`, and what a stream raises.
        """
        relay_addr, relay, target = split_circuit(addr)
        ours = self._swarm.identity.peer_id
        if target is None:
            raise AddressError("a relayed address must end in /p2p/ and the peer's ID")
        if relay == ours:
            raise AddressError("the relay of this address is this node itself")
        if target == relay:
            raise AddressError("the peer of this address is the relay itself: dial it directly")
        deadline = trio.current_time() + self._config.circuit_timeout
        with trio.move_on_at(deadline):
            connection = await self._connect_relay(relay, relay_addr)
            token = self._config.token_for(relay)
            stream = await _send_request(connection, Connect(target, token))
            return CircuitConn(stream, answer=lambda: self._take_answer(stream, token, deadline))
        limit = self._config.circuit_timeout
        raise TimeoutError(f"the relay is not connected within {limit:g} s relay={relay}")

    async def _take_answer(self, stream: Stream, token: bytes, deadline: float) -> Limit | None:
        """The relay's answer to a request for a circuit, with its limit."""
        with trio.move_on_at(deadline):
            answer = await _read_status(stream)
            if answer.status is not Status.OK:
                raise connect_refused(stream.peer_id, answer, token, time.time())
            return answer.limit
        limit = self._config.circuit_timeout
        raise TimeoutError(f"the relay has not answered within {limit:g} s relay={stream.peer_id}")

    async def _connect_relay(self, relay: PeerId, addr: Multiaddr) -> Connection:
        """A connection to the relay, made through `addr` or by anybody else meanwhile."""
        while (connection := direct_connection(self._swarm, relay)) is None:
            if not addr.to_bytes():
                raise AddressError("the relay is not connected, and the address says not where")
            pending = self._dials.get((relay, addr))
            if pending is None:
                await self._dial_relay(relay, addr)
                continue
            await pending.done.wait()
            if pending.error is not None and direct_connection(self._swarm, relay) is None:
                raise renewed(pending.error)
        return connection

    async def _dial_relay(self, relay: PeerId, addr: Multiaddr) -> None:
        """Dial one address until it, or somebody, has connected the relay."""
        pending = self._dials[relay, addr] = _PendingDial()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_for, relay, nursery.cancel_scope)
                try:
                    await self._swarm.dial_fresh(relay, addr)
                except LatticaError as error:
                    pending.error = renewed(error)
                nursery.cancel_scope.cancel()
        finally:
            # If this caller is cancelled, the next one in line dials for itself.
            del self._dials[relay, addr]
            pending.done.set()
        if pending.error is not None and direct_connection(self._swarm, relay) is None:
            raise renewed(pending.error)  # one that is caught or raised here leads back here

    async def _wait_for(self, relay: PeerId, scope: trio.CancelScope) -> None:
        with suppress(LatticaError):  # the swarm ends, and so does the dial
            connection = await self._swarm.wait_connected(relay)
            if not connection.is_relayed:
                scope.cancel()

    # --- inbound ---

    async def _on_stop(self, stream: Stream) -> None:
        """Serve a circuit that a relay brings, to its end."""
        relay = stream.peer_id
        try:
            with trio.fail_after(self._config.request_timeout):
                request = decode_stop(await stream.receive_message(MAX_MESSAGE))
        except trio.TooSlowError:
            logger.debug("inbound circuit: the relay does not say for whom relay=%s", relay)
            stream.reset()
            return
        except RemoteProtocolError as error:
            peer_log.log(
                logger,
                logging.WARNING,
                relay,
                "inbound circuit refused: %s relay=%s",
                error,
                relay,
            )
            await stream.send_message(encode(StopStatus(Status.MALFORMED_MESSAGE)))
            return
        if not isinstance(request, StopConnect):
            peer_log.log(
                logger,
                logging.WARNING,
                relay,
                "inbound circuit refused: not a request relay=%s",
                relay,
            )
            await stream.send_message(encode(StopStatus(Status.UNEXPECTED_MESSAGE)))
            return
        status = self._judge(stream, request.peer)
        if status is not Status.OK:
            logger.debug(
                "inbound circuit refused: %s peer=%s relay=%s", status.name, request.peer, relay
            )
            await stream.send_message(encode(StopStatus(status)))
            return
        connection = await self._adopt(stream, request)
        if connection is not None:
            # The stream is this handler's: when it returns, that ends.
            await connection.closed.wait()

    def _judge(self, stream: Stream, peer: PeerId) -> Status:
        relay = stream.peer_id
        if stream.connection.is_relayed:
            return Status.PERMISSION_DENIED
        if relay not in self.accepts_from:
            return Status.NO_RESERVATION  # not "denied", which sounds like an allow-list
        if peer in (relay, self._swarm.identity.peer_id):
            return Status.PERMISSION_DENIED
        try:
            self._gater.check_peer(peer)
        except AccessDeniedError:
            return Status.PERMISSION_DENIED
        if self._arriving[relay] >= self._config.max_inbound_pending:
            return Status.RESOURCE_LIMIT_EXCEEDED
        return Status.OK

    async def _adopt(self, stream: Stream, request: StopConnect) -> Connection | None:
        relay, peer = stream.peer_id, request.peer
        self._arriving[relay] += 1
        try:
            await stream.send_message(encode(StopStatus(Status.OK)))
            conn = CircuitConn(stream, request.limit)
            return await self._swarm.adopt(conn, Direction.INBOUND, peer)
        except (LatticaError, OSError) as error:
            logger.debug("inbound circuit failed: %s peer=%s relay=%s", error, peer, relay)
            return None
        finally:
            self._arriving[relay] -= 1
            if not self._arriving[relay]:
                del self._arriving[relay]
