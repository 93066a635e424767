"""A circuit relay v2 server on a swarm: the driver of `books`.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. What the relay keeps of
a circuit's data is one message each way, and what the peers have sent into their streams' windows
while the other end was slow: those begin at 256 KiB and grow only for a circuit that moves more,
within the memory budgets of the swarm.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from lattica.nat.base.concurrency.exception_groups import leaves
from lattica.nat.base.errors import LatticaError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, ip_of, kind_of, with_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.net.ranking import fitting, ranked
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.relay.circuit_transport import direct_connection
from lattica.nat.traversal.relay.leaving import LEAVING, encode_leaving
from lattica.nat.traversal.relay.messages import (
    HOP,
    MAX_MESSAGE,
    MAX_RELAY_ADDRS,
    MAX_RELAY_ADDRS_BYTES,
    STOP,
    Connect,
    HopStatus,
    Reservation,
    Reserve,
    Status,
    StopConnect,
    StopStatus,
    decode_hop,
    decode_stop,
    encode,
)
from lattica.nat.traversal.relay.server.access import Access, Lists
from lattica.nat.traversal.relay.server.books import Circuit, LimitUsage, Refusal, RelayBooks
from lattica.nat.traversal.relay.server.events import (
    CircuitClosed,
    CircuitOpened,
    Refused,
    RelayEvent,
    ReservationEnded,
    ReservationMade,
)
from lattica.nat.traversal.relay.server.forwarding import (
    FROM_SOURCE,
    FROM_TARGET,
    LimitReachedError,
    forward,
)
from lattica.nat.traversal.relay.server.limits import RelayLimits
from lattica.nat.traversal.relay.server.quotas import Ledger, Quotas
from lattica.nat.traversal.relay.voucher import seal

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 10.0
"""Seconds a client may take to say what it wants."""
STOP_TIMEOUT = 10.0
"""Seconds the target of a circuit may take to accept it."""
_SWEEP = 1.0
"""Seconds between two looks for what has run out or died."""
_TELL_TIMEOUT = 5.0
"""Seconds that a client may take to hear that this relay is about to stop."""
_TAG = "relay"
"""Peers with a reservation are protected from trimming under this name."""

_PASSED_ON = (
    Status.PERMISSION_DENIED,
    Status.RESOURCE_LIMIT_EXCEEDED,
    Status.NO_RESERVATION,
)
"""What a target may say that its caller is told; anything else is a failed connection."""


@dataclass(frozen=True, slots=True)
class RelayStats:
    """What a relay does at present, and what it has done since it began."""

    reservations: int
    circuits: int
    circuits_total: int
    """Circuits opened, among them those that have ended."""
    bytes_total: int
    """Bytes forwarded in either direction on circuits that have ended, and those at present."""
    refused_total: int


@dataclass(slots=True, eq=False)
class _Live:
    """A circuit with the streams that make it."""

    circuit: Circuit
    source: Stream
    target: Stream | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: list[bool] = field(default_factory=lambda: [False, False])
    """The end of each direction was passed on."""
    opened: bool = False
    reason: str = ""
    """Why it was cut off; empty while it was not."""

    def is_dead(self) -> bool:
        """One of its streams is gone, which nobody who waits for the other one can see."""
        # The target has a reader until it has accepted.
        streams = (self.source, self.target) if self.opened else (self.source,)
        return any(
            stream is not None
            and (stream.is_dead or (ended and stream.connection.closed_reason is not None))
            for stream, ended in zip(streams, self.ended, strict=False)
        )

    def abort(self, reason: str) -> None:
        """Reset both streams, so that neither end takes it for a good end. Idempotent."""
        self.reason = self.reason or reason
        self.source.reset(reason)
        if self.target is not None:
            self.target.reset(reason)


class RelayService:
    """Relays for peers of `swarm`; register :attr:`handlers`, and let :meth:`run` run.

    `allow_peers` get what `limits.for_allowed` says; `access`, where it is given, says who is
    served in their place. `addresses` are those told to clients, by default all of the swarm.
    """

    def __init__(
        self,
        swarm: Swarm,
        limits: RelayLimits | None = None,
        allow_peers: Iterable[PeerId] = (),
        *,
        access: Access | None = None,
        quotas: Quotas | None = None,
        addresses: Callable[[], Iterable[Multiaddr]] | None = None,
    ) -> None:
        self._swarm = swarm
        self._addresses = addresses or (lambda: swarm.addrs)
        limits = limits or RelayLimits()
        if access is None:
            access = Lists(allow_peers, strangers=limits.open_to_strangers)
        self._server = RelayBooks(swarm.identity.peer_id, limits, access, quotas)
        self._live: dict[Circuit, _Live] = {}
        self._last_ended = trio.Event()
        """Set when the last circuit of a relay that drains has ended."""
        self._circuits_total = 0
        self._bytes_total = 0
        self._refused_total = 0
        self._limits_hit: Counter[str] = Counter()
        self.on_event: list[Callable[[RelayEvent], None]] = []
        """Called with each event, and must not wait nor raise."""

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The protocols to serve."""
        return {HOP: self._serve_hop}

    @property
    def stats(self) -> RelayStats:
        under_way = sum(sum(circuit.forwarded) for circuit in self._server.circuits)
        return RelayStats(
            self._server.reservation_count,
            self._server.circuit_count,
            self._circuits_total,
            self._bytes_total + under_way,
            self._refused_total,
        )

    @property
    def limits_hit(self) -> Mapping[str, int]:
        """How often each limit was hit, by the name of its setting."""
        return self._limits_hit

    def usage(self) -> list[LimitUsage]:
        """How much of each limit that is set is used."""
        return self._server.usage()

    @property
    def ledger(self) -> Ledger:
        """Who has used how much."""
        return self._server.ledger

    @property
    def access(self) -> Access:
        """Who is served; when it is set anew, whoever is not served any more is let go."""
        return self._server.access

    @access.setter
    def access(self, access: Access) -> None:
        self._server.access = access

    def set_limits(self, limits: RelayLimits, quotas: Quotas) -> None:
        """New ones; see :meth:`RelayBooks.set_limits`."""
        self._server.set_limits(limits, quotas)

    async def drain(self, patience: float) -> None:
        """Grant nothing more, tell clients to go elsewhere, and wait until circuits have ended.

        Clients of ours reserve at another relay that they know, and announce that, before they
        give up this one; others notice when this one ends. Returns after `patience` seconds in any
        case; what is open then ends with the swarm.
        """
        self._server.draining = True
        with trio.move_on_after(patience):
            async with trio.open_nursery() as nursery:
                for peer_id in self._server.reservations():
                    nursery.start_soon(self._tell_leaving, peer_id, patience)
            if self._live:
                await self._last_ended.wait()

    async def _tell_leaving(self, peer_id: PeerId, seconds: float) -> None:
        connection = direct_connection(self._swarm, peer_id)
        if connection is None:
            return
        with trio.move_on_after(_TELL_TIMEOUT), suppress(LatticaError, OSError):
            async with await connection.open(LEAVING) as stream:
                await stream.send_message(encode_leaving(seconds))
                await stream.receive_message(0)  # it has heard

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End what has run out, and what belongs to peers that are gone; until cancelled.

        Circuits that are open then go on until the swarm ends.
        """
        hooks = self._swarm.on_disconnected
        hooks.append(self._on_disconnected)
        try:
            task_status.started()
            while True:
                await trio.sleep(_SWEEP)
                self._sweep()
        finally:
            hooks.remove(self._on_disconnected)

    def _sweep(self) -> None:
        for peer_id in self._server.expire(trio.current_time()):
            self._end_reservation(peer_id, "it was not renewed")
        denied, circuits = self._server.take_denied()
        for peer_id, reason in denied:
            self._end_reservation(peer_id, reason, is_withdrawn=True)
        for circuit, reason in circuits:
            self._cut_off(circuit, reason)
        for circuit, live in tuple(self._live.items()):
            if live.is_dead():
                self._cut_off(circuit, "one end is gone")

    def _cut_off(self, circuit: Circuit, reason: str) -> None:
        """End a circuit at once, unless it has ended."""
        if (live := self._live.get(circuit)) is not None:
            live.abort(reason)
            live.scope.cancel()

    async def _on_disconnected(self, connection: Connection) -> None:
        peer_id = connection.peer_id
        await trio.lowlevel.checkpoint()
        if direct_connection(self._swarm, peer_id) is None and self._server.peer_gone(peer_id):
            self._end_reservation(peer_id, "the peer has disconnected")

    def _end_reservation(self, peer_id: PeerId, reason: str, is_withdrawn: bool = False) -> None:
        self._swarm.registry.tags.unprotect(peer_id, _TAG)
        peer_log.log(
            logger, logging.INFO, peer_id, "reservation ended: %s peer=%s", reason, peer_id
        )
        self._publish(ReservationEnded(peer_id, reason, is_withdrawn))

    def _publish(self, event: RelayEvent) -> None:
        for hook in self.on_event:
            hook(event)

    # --- requests ---

    async def _serve_hop(self, stream: Stream) -> None:
        try:
            with trio.fail_after(REQUEST_TIMEOUT):
                request = decode_hop(await stream.receive_message(MAX_MESSAGE))
        except trio.TooSlowError:
            stream.reset("no request came")
            return
        except RemoteProtocolError as error:
            logger.debug("malformed hop request: %s peer=%s", error, stream.peer_id)
            await self._refuse(stream, None, Refusal(Status.MALFORMED_MESSAGE, str(error)))
            return
        target = request.peer if isinstance(request, Connect) else None
        if stream.connection.is_relayed:
            reason = "this connection is relayed itself"
            await self._refuse(stream, target, Refusal(Status.PERMISSION_DENIED, reason))
            return
        match request:
            case Reserve(token):
                await self._learn(stream, token)
                await self._reserve(stream)
            case Connect(peer, token):
                await self._learn(stream, token)
                await self._connect(stream, peer)
            case HopStatus():
                refusal = Refusal(Status.UNEXPECTED_MESSAGE, "a status is no request")
                await self._refuse(stream, None, refusal)

    async def _learn(self, stream: Stream, token: bytes) -> None:
        ip = ip_of(stream.connection.remote_addr)
        await self._server.access.learn(stream.peer_id, token, ip)

    async def _refuse(self, stream: Stream, target: PeerId | None, refusal: Refusal) -> None:
        self._refused_total += 1
        if refusal.limit:
            self._limits_hit[refusal.limit] += 1
        logger.debug(
            "refused: %s status=%s peer=%s target=%s",
            refusal.reason,
            refusal.status.name,
            stream.peer_id,
            target,
        )
        self._publish(
            Refused(stream.peer_id, target, refusal.status, refusal.reason, refusal.limit)
        )
        is_denied = refusal.status is Status.PERMISSION_DENIED
        clock = int(time.time()) if is_denied else None
        await stream.send_message(encode(HopStatus(refusal.status, clock=clock)))

    async def _reserve(self, stream: Stream) -> None:
        peer_id = stream.peer_id
        if direct_connection(self._swarm, peer_id) is None:
            return  # gone, and nobody would tell us again
        ip, now = ip_of(stream.connection.remote_addr), trio.current_time()
        grant = self._server.reserve(peer_id, ip, now)
        if isinstance(grant, Refusal):
            await self._refuse(stream, None, grant)
            return
        self._swarm.registry.tags.protect(peer_id, _TAG)
        lifetime = grant.expires - now
        level = logging.DEBUG if grant.renewed else logging.INFO
        peer_log.log(
            logger,
            level,
            peer_id,
            "reservation made for %.0f s peer=%s addr=%s",
            lifetime,
            peer_id,
            ip,
        )
        self._publish(ReservationMade(peer_id, lifetime, grant.renewed))
        # Clients count from the answer: rather too early than too late.
        expire = int(time.time() + lifetime)
        voucher = seal(self._swarm.identity, peer_id, expire)
        reservation = Reservation(expire, self._advertised(), voucher, int(lifetime))
        answer = HopStatus(Status.OK, reservation, grant.limits.advertised)
        await stream.send_message(encode(answer))

    def _advertised(self) -> tuple[Multiaddr, ...]:
        """This relay's addresses for clients, those that most can reach first."""
        found: list[Multiaddr] = []
        near: list[Multiaddr] = []
        own = self._swarm.own_addresses
        for addr in ranked(self._addresses(), reachable=own.reachable, unreachable=own.unreachable):
            ip = ip_of(addr)
            if kind_of(addr) is Kind.CIRCUIT or (ip is not None and ip.is_unspecified):
                continue
            is_near = ip is not None and (ip.is_loopback or ip.is_link_local)
            (near if is_near else found).append(addr)
        me = self._swarm.identity.peer_id
        # Without others all is on one machine.
        told = (with_peer(addr, me) for addr in found or near)
        return fitting(told, MAX_RELAY_ADDRS, MAX_RELAY_ADDRS_BYTES)

    # --- circuits ---

    async def _connect(self, stream: Stream, target: PeerId) -> None:
        """Make a circuit and serve it to its end. When this returns, both streams are done."""
        ip = ip_of(stream.connection.remote_addr)
        circuit = self._server.connect(stream.peer_id, target, ip, trio.current_time())
        for displaced in self._server.take_displaced():
            self._cut_off(displaced, "its place was needed by somebody who had none")
        if isinstance(circuit, Refusal):
            await self._refuse(stream, target, circuit)
            return
        live = self._live[circuit] = _Live(circuit, stream)
        try:
            with live.scope:
                await self._serve_circuit(live)
            if live.scope.cancelled_caught:
                live.abort("its time is up")
        except* LatticaError as group:
            cause = leaves(group)[0]
            if isinstance(cause, LimitReachedError):
                self._limits_hit[cause.limit] += 1
            live.abort(str(cause))
        except* BaseException:
            live.abort("this relay stops")
            raise
        finally:
            self._live.pop(circuit, None)
            if self._server.draining and not self._live:
                self._last_ended.set()
            self._server.close(circuit)
            self._bytes_total += sum(circuit.forwarded)
            if live.opened:
                self._report_end(live)

    def _report_end(self, live: _Live) -> None:
        circuit = live.circuit
        seconds = trio.current_time() - circuit.opened
        reason = live.reason or "closed by its ends"
        logger.debug(
            "circuit ended: %s source=%s target=%s bytes=%s",
            reason,
            circuit.source,
            circuit.target,
            circuit.forwarded,
        )
        self._publish(
            CircuitClosed(
                circuit.source,
                circuit.target,
                circuit.forwarded[FROM_SOURCE],
                circuit.forwarded[FROM_TARGET],
                seconds,
                reason,
            )
        )

    async def _serve_circuit(self, live: _Live) -> None:
        circuit, source = live.circuit, live.source
        refusal = await self._call_target(live)
        if refusal is not None:
            if live.target is not None:
                live.target.reset(refusal.reason)
            await self._refuse(source, circuit.target, refusal)
            return
        target = live.target
        assert target is not None
        if circuit.limits.duration:
            live.scope.deadline = trio.current_time() + circuit.limits.duration
        await source.send_message(encode(HopStatus(Status.OK, limit=circuit.limits.advertised)))
        live.opened = True
        self._circuits_total += 1
        logger.debug("circuit opened source=%s target=%s", circuit.source, circuit.target)
        self._publish(CircuitOpened(circuit.source, circuit.target))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, live, target, source, FROM_TARGET)
            await self._forward(live, source, target, FROM_SOURCE)
        target.close()

    async def _forward(self, live: _Live, origin: Stream, goal: Stream, direction: int) -> None:
        circuit = live.circuit

        def on_progress() -> None:
            self._server.progress(circuit, trio.current_time())

        await forward(origin, goal, circuit, direction, on_progress)
        live.ended[direction] = True

    async def _call_target(self, live: _Live) -> Refusal | None:
        """Ask the target to take the circuit; its stream is then in `live`."""
        circuit = live.circuit
        connection = direct_connection(self._swarm, circuit.target)
        if connection is None:  # it is about to lose its reservation
            return Refusal(Status.NO_RESERVATION, "the target is not connected")
        try:
            with trio.fail_after(STOP_TIMEOUT):
                stream = live.target = await connection.open(STOP)
                call = StopConnect(circuit.source, circuit.limits.advertised)
                await stream.send_message(encode(call))
                answer = decode_stop(await stream.receive_message(MAX_MESSAGE))
        except trio.TooSlowError:
            return Refusal(Status.CONNECTION_FAILED, "the target does not answer")
        except (LatticaError, TimeoutError) as error:
            return Refusal(Status.CONNECTION_FAILED, f"the target cannot be asked: {error}")
        if not isinstance(answer, StopStatus):
            return Refusal(Status.CONNECTION_FAILED, "the target answers with no status")
        if answer.status is Status.OK:
            return None
        reason = f"the target says {answer.status.name}"
        if answer.status in _PASSED_ON:
            return Refusal(answer.status, reason)
        return Refusal(Status.CONNECTION_FAILED, reason)
