"""UDP hole punching: ICE on the socket that QUIC listens on, then QUIC over the hole.

The NAT's mapping that others see, that is punched and that QUIC uses are one and the same, so
nothing has to be handed over. The inbound side of a relayed connection opens and controls; it
dials once a pair is chosen, and the other side waits for that connection.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING

import trio

from lattica.nat.base.errors import (
    DialAttempt,
    DialError,
    LatticaError,
    UnsupportedProtocolError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, kind_of, socket_multiaddr, to_endpoint
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.exchange import does_not_speak
from lattica.nat.traversal.punch.ice.agent import Credentials, Failed, IceAgent, Nominated
from lattica.nat.traversal.punch.ice.candidates import (
    Candidate,
    CandidateType,
    TargetPolicy,
    local_candidate,
)
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.punch.ice.coordination import Agreed, Opener, Responder
from lattica.nat.traversal.punch.ice.messages import (
    ICE,
    Description,
    Offer,
    Refusal,
    Start,
    new_credentials,
)
from lattica.nat.traversal.punch.ice.sockets import IceSession, IceSockets
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.punch.probe_budget import CHECK_COST, ProbeBudget
from lattica.nat.traversal.punch.round_limiter import RoundLimiter

if TYPE_CHECKING:
    from lattica.nat.quic.endpoint import QuicEndpoint

logger = logging.getLogger(__name__)

_MAX_HOSTS = 10
_MAX_MAPPED = 6
_QUIC = "udp/{}/quic-v1/noise"


class IceStrategy:
    """From a relayed to a direct connection by ICE (see :mod:`lattica.nat.traversal.punch`).

    `budget` is for datagrams to addresses that peers name; one may be shared with other strategies.
    """

    name = "udp-punch"

    def __init__(
        self,
        swarm: Swarm,
        config: IceConfig | None = None,
        *,
        budget: ProbeBudget | None = None,
    ) -> None:
        self._swarm = swarm
        self._config = config or IceConfig()
        self._gater = swarm.gater
        self._budget = budget or ProbeBudget(clock=trio.current_time)
        self._sockets = IceSockets(swarm)
        self._limiter = RoundLimiter(
            self._config.attempts_per_minute,
            self._config.total_attempts_per_minute,
            trio.current_time,
        )
        self._awaited: dict[PeerId, set[trio.Event]] = {}
        swarm.on_connected.append(self._on_connected)

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The other end's part."""
        return {ICE: self.answer} if self._config.enabled else {}

    # --- the side that opens ---

    async def attempt(self, relayed: Connection) -> Connection:
        """Make a direct connection to the peer of a relayed one.

        Takes `coordination_timeout` and `timeout` of :class:`IceConfig` and `Timeouts.dial`
        together at most. May be cancelled at any time. Raises :class:`NotApplicable`,
        :class:`DialError` with the reason, or what the relayed connection fails with.
        """
        if not self._config.enabled:
            raise NotApplicable("UDP hole punching is turned off")
        endpoints = self._endpoints()
        if not endpoints:
            raise NotApplicable("this node does not listen on UDP")
        if self._swarm.nat.value.udp_works is False:
            raise NotApplicable("UDP is blocked here")
        if len(self._sockets) >= self._config.max_attempts:
            raise self._failed(relayed.peer_id, "too many attempts at a time")
        if relayed.agent and ICE not in relayed.known_protocols:  # it has said what it speaks
            raise does_not_speak(ICE)
        own = self._description(endpoints)
        # What comes first shows whether the peer speaks it: no round trip to ask.
        async with await relayed.open(ICE, optimistic=True) as stream:
            try:
                agreed = await self._agree(stream, own)
            except UnsupportedProtocolError:
                raise does_not_speak(ICE) from None
            agent = self._agent(endpoints, own, agreed.peer, controlling=True)
            session = IceSession(agent, endpoints)
            with self._registered(own.credentials, session):
                return await self._punch(relayed.peer_id, session, agreed.start_at)

    async def _agree(self, stream: Stream, own: Description) -> Agreed:
        opener = Opener(own, trio.current_time)
        with trio.move_on_after(self._config.coordination_timeout):
            await stream.send_all(opener.data_to_send())
            while True:
                outcome = opener.receive(await stream.receive_some())
                if isinstance(outcome, Refusal):
                    raise self._failed(stream.peer_id, f"the peer declines: {outcome.reason}")
                if outcome is not None:
                    await stream.send_all(opener.data_to_send())
                    return outcome
        raise self._failed(stream.peer_id, "the peer did not answer over the relay")

    async def _punch(self, peer_id: PeerId, session: IceSession, start_at: float) -> Connection:
        connection: Connection | None = None
        failure: LatticaError | OSError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.serve, start_at)
            try:
                connection = await self._dial(peer_id, await session.outcome())
            except (LatticaError, OSError) as error:  # not in an exception group
                failure = error
            nursery.cancel_scope.cancel()
        if connection is not None:
            return connection
        try:
            raise failure or self._failed(peer_id, "cancelled")
        finally:
            del failure  # which leads back here

    async def _dial(self, peer_id: PeerId, outcome: Nominated | Failed) -> Connection:
        if isinstance(outcome, Failed):
            raise self._failed(peer_id, outcome.reason)
        addr = socket_multiaddr(outcome.remote, _QUIC)
        return await self._swarm.dial_fresh(peer_id, addr, unless_doubtful=True)

    def _failed(self, peer_id: PeerId, reason: str) -> DialError:
        return DialError(peer_id, [DialAttempt(self.name, reason)])

    # --- the other side ---

    async def answer(self, stream: Stream) -> None:
        """Handle a stream on which a peer coordinates an attempt.

        Ends when the peer is through with it, when its direct connection is there, or in the
        time that :class:`IceConfig` allows. Only for peers that this side has chosen to reach
        through a relay: strangers do not get to name addresses that something is sent to.
        Raises :class:`RemoteProtocolError` and what streams raise.
        """
        relayed = stream.connection
        if not relayed.is_relayed or relayed.direction is not Direction.OUTBOUND:
            stream.reset("hole punching is for relayed connections, begun by their target")
            return
        config = self._config
        responder = Responder()
        with trio.move_on_after(config.coordination_timeout) as scope:
            offer = await self._next_message(stream, responder)
            if not isinstance(offer, Offer):
                return
            endpoints = self._endpoints()
            refusal = self._why_not(stream.peer_id, endpoints)
            if refusal is not None:
                responder.refuse(refusal)
                await stream.send_all(responder.data_to_send())
                return
            own = self._description(endpoints)
            agent = self._agent(endpoints, own, offer.description, controlling=False)
            session = IceSession(agent, endpoints)
            with self._registered(own.credentials, session), self._arrival(stream) as arrival:
                responder.answer(own)
                await stream.send_all(responder.data_to_send())
                if isinstance(await self._next_message(stream, responder), Start):
                    scope.deadline = trio.current_time() + config.timeout + config.arrival_timeout
                    await self._keep_open(stream, session, arrival)

    async def _next_message(self, stream: Stream, responder: Responder) -> Offer | Start:
        while True:
            message = responder.receive(await stream.receive_some())
            if message is not None:
                return message

    def _why_not(self, peer_id: PeerId, endpoints: tuple[QuicEndpoint, ...]) -> str | None:
        if not endpoints:
            return "it does not listen on UDP"
        if self._swarm.nat.value.udp_works is False:
            return "UDP is blocked where it is"
        if len(self._sockets) >= self._config.max_attempts:
            return "it has too many attempts at a time"
        if not self._limiter.admit(peer_id):
            return "it was asked too often"
        return None

    async def _keep_open(self, stream: Stream, session: IceSession, arrival: trio.Event) -> None:
        """Punch, and answer checks until the direct connection is there or given up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.serve, trio.current_time())
            nursery.start_soon(self._wait_end, stream, nursery.cancel_scope)
            nursery.start_soon(self._wait_failure, session, nursery.cancel_scope)
            await arrival.wait()
            nursery.cancel_scope.cancel()

    async def _wait_end(self, stream: Stream, scope: trio.CancelScope) -> None:
        """The opener closes the stream when it has a connection, or none to hope for."""
        try:
            await stream.receive_some()
        except (LatticaError, OSError) as error:
            logger.debug("ICE: the peer has given up: %s peer=%s", error, stream.peer_id)
        scope.cancel()

    async def _wait_failure(self, session: IceSession, scope: trio.CancelScope) -> None:
        if isinstance(await session.outcome(), Failed):
            scope.cancel()

    # --- both sides ---

    @contextmanager
    def _registered(self, own: Credentials, session: IceSession) -> Iterator[None]:
        self._sockets.add(own.ufrag, session)
        try:
            yield
        finally:
            self._sockets.remove(own.ufrag)

    @contextmanager
    def _arrival(self, stream: Stream) -> Iterator[trio.Event]:
        """An event that is set when a new direct connection of the stream's peer is there."""
        event = trio.Event()
        waiting = self._awaited.setdefault(stream.peer_id, set())
        waiting.add(event)
        try:
            yield event
        finally:
            waiting.discard(event)
            if not waiting:
                self._awaited.pop(stream.peer_id, None)

    async def _on_connected(self, connection: Connection) -> None:
        await trio.lowlevel.checkpoint()
        if not connection.is_relayed:
            for event in self._awaited.get(connection.peer_id, ()):
                event.set()

    def _agent(
        self,
        endpoints: tuple[QuicEndpoint, ...],
        own: Description,
        peer: Description,
        *,
        controlling: bool,
    ) -> IceAgent:
        policy = TargetPolicy(
            local_interfaces(),
            frozenset(one.host for one in own.candidates if one.type is not CandidateType.HOST),
            self._config.allow_loopback,
            self._gater,
        )
        return IceAgent(
            own.candidates,
            policy.choose(peer.candidates, {one.address for one in own.candidates}),
            own=own.credentials,
            peer=peer.credentials,
            controlling=controlling,
            policy=policy,
            clock=trio.current_time,
            random_bytes=os.urandom,
            config=self._config,
            may_send=lambda host: self._budget.take(host, CHECK_COST),
        )

    # --- this node's candidates ---

    def _endpoints(self) -> tuple[QuicEndpoint, ...]:
        """The sockets to use: of each family the one that dials on the internet, too."""
        found: dict[int, QuicEndpoint] = {}
        for endpoint in self._swarm.udp_endpoints:
            ip = ipaddress.ip_address(endpoint.local[0])
            if self._config.allow_loopback or not ip.is_loopback:
                found.setdefault(endpoint.family, endpoint)
        return tuple(found.values())

    def _description(self, endpoints: tuple[QuicEndpoint, ...]) -> Description:
        by_endpoint = (
            [
                (CandidateType.HOST, (str(ip), endpoint.local[1]), base)
                for ip in _addresses_of(endpoint)
            ]
            for base, endpoint in enumerate(endpoints)
        )
        # In turns: many addresses of one family must not keep out the other.
        hosts = [host for turn in zip_longest(*by_endpoint) for host in turn if host is not None]
        known = {address for _, address, _ in hosts}
        mapped = [
            (CandidateType.SERVER_REFLEXIVE, address, base)
            for base, endpoint in enumerate(endpoints)
            for address in self._mapped(endpoint)
            if address not in known
        ]
        chosen = hosts[:_MAX_HOSTS] + mapped[:_MAX_MAPPED]
        candidates: list[Candidate] = [
            local_candidate(type_, *address, base=base, rank=rank)
            for rank, (type_, address, base) in enumerate(chosen)
        ]
        return Description(new_credentials(os.urandom), tuple(candidates))

    def _mapped(self, endpoint: QuicEndpoint) -> Iterable[tuple[str, int]]:
        """Where others see a socket, as STUN responders, peers and the router say."""
        swarm = self._swarm
        version = 6 if endpoint.family == socket.AF_INET6 else 4
        found: list[tuple[str, int]] = []
        if version == 4:
            found += [(address[0], address[1]) for address in swarm.nat.value.mapped]
        for addr in (*swarm.own_addresses.get("mapped"), *swarm.observed.addrs(Kind.QUIC)):
            if kind_of(addr) is Kind.QUIC:
                where = to_endpoint(addr)
                if where.family == endpoint.family:  # and not a name
                    found.append((where.host, where.port))
        policy = TargetPolicy(allow_loopback=self._config.allow_loopback)
        usable = (address for address in found if policy.may_answer(address[0]))
        return list(dict.fromkeys(usable))[:_MAX_MAPPED]


def _addresses_of(endpoint: QuicEndpoint) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of this machine that a socket is bound to."""
    bound = ipaddress.ip_address(endpoint.local[0])
    if not bound.is_unspecified:
        return [bound]
    return [
        interface.ip
        for interface in local_interfaces()
        if interface.version == bound.version and not interface.is_loopback
    ]
